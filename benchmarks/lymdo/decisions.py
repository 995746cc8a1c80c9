"""CPU time of a LyMDO decision with 10, 30 and 100 UEs, and what it is worth against coordinate descent.

OMP_NUM_THREADS=1 python -m benchmarks.lymdo.decisions      the table of decision times in docs/lymdo.md

``topologies/lymdo.yaml`` with spectrum and edge scaled with the UEs, event mode. CPU time of the process, so that other
work on the host counts only by what it does to caches and to a core that two threads share.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import click
import numpy as np

from benchmarks.lymdo.labs import SimulatedLab, simulated_lab
from controller.contract import Decision, Observation
from controller.policies.lymdo import Lymdo, LymdoCoordinateDescent
from controller.simulator.simulate import simulate

#: Decisions that are not counted at the start of a run: queues and caches settle.
WARMUP_SLOTS = 10

#: What LyMDO is asked to leave out.
VARIANTS: Mapping[str, dict[str, int]] = {
    "lymdo": {},
    "8 candidates": {"candidates": 8},
    "8 improvements": {"improvements": 8},
    "actor alone": {"improvements": 0},
}


class Timed(Lymdo):
    """LyMDO that notes the CPU time of each decision."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.cpu_seconds: list[float] = []

    def decide(self, observation: Observation) -> Decision:
        began = time.process_time()
        decision = super().decide(observation)
        self.cpu_seconds.append(time.process_time() - began)
        return decision


def scaled_lab(ues: int) -> SimulatedLab:
    """``topologies/lymdo.yaml`` with that many UEs, spectrum and edge as large in proportion."""
    overrides = [f"ues.0.count={ues}", f"edge.cpus={ues / 4}", f"radio.uplink={ues} MHz", f"radio.downlink={ues} MHz"]
    return simulated_lab("lymdo", overrides)


@click.command(help=__doc__)
@click.option("--ues", default="10,30,100")
@click.option("--slots", default=100)
@click.option("--seeds", default=2)
def main(ues: str, slots: int, seeds: int) -> None:
    click.echo("| UEs | policy | median (ms of CPU) | 90 % (ms) | mean E2E against lymdo-cd, each seed |")
    click.echo("|---|---|---|---|---|")
    for count in map(int, ues.split(",")):
        lab = scaled_lab(count)
        runs = range(1, seeds + 1)
        channels = {seed: lab.channel(slots, seed) for seed in runs}
        reference = np.array([
            simulate(lab.scenario, LymdoCoordinateDescent(V=lab.v), slots, seed, "event", channels[seed])
            .mean_delay_seconds() for seed in runs
        ])  # fmt: skip
        for name, options in VARIANTS.items():
            delays, times = [], []
            for seed in runs:
                policy = Timed(V=lab.v, checkpoint=lab.checkpoint, initial_queue=0.0, **options)
                result = simulate(lab.scenario, policy, slots, seed, "event", channels[seed])
                delays.append(result.mean_delay_seconds())
                times += policy.cpu_seconds[WARMUP_SLOTS:]
            worth = ", ".join(f"{ratio - 1:+.2%}" for ratio in np.array(delays) / reference)
            median, late = np.percentile(times, [50, 90]) * 1e3
            click.echo(f"| {count} | {name} | {median:.2f} | {late:.2f} | {worth} |")


if __name__ == "__main__":
    main()

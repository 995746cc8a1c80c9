"""What local UEs hold of spectrum and edge, and the delay, as the lab of lymdo.yaml grows; the simulator's event mode.

python -m benchmarks.lymdo.many [--ues 4,10,30,100] [--slots 400] [--seeds 3]

`lymdo-cd`; spectrum and edge grow with the UEs.
"""

from __future__ import annotations

import click
import numpy as np

from benchmarks.lymdo.labs import simulated_lab
from controller.policies.lymdo import LymdoCoordinateDescent
from controller.simulator.simulate import simulate

WARMUP_SLOTS = 50


@click.command(help=__doc__)
@click.option("--ues", default="4,10,30,100")
@click.option("--slots", default=400)
@click.option("--seeds", default=3)
def main(ues: str, slots: int, seeds: int) -> None:
    print("| UEs | mean E2E (s) | 99th percentile (s) | local UEs | their spectrum | their edge | energy / budget |")
    print("|---|---|---|---|---|---|---|")
    for count in map(int, ues.split(",")):
        lab = simulated_lab(
            "lymdo", [f"ues.0.count={count}", f"edge.cpus={count / 4}", f"radio.uplink={count} MHz",
                      f"radio.downlink={count} MHz", "policy=lymdo-cd"]
        )  # fmt: skip
        rows = []
        for seed in range(1, seeds + 1):
            policy = LymdoCoordinateDescent(V=lab.v)
            result = simulate(lab.scenario, policy, slots, seed, "event", lab.channel(slots, seed))
            local = result.cuts == result.cut_labels.index("local")
            held = [
                float(np.mean(np.sum(np.where(local, share, 0.0), axis=1)[WARMUP_SLOTS:]) / total)
                for share, total in (
                    (result.spectrum_up_hz, lab.scenario.radio.uplink_hz),
                    (result.edge_share, lab.scenario.edge.cpus),
                )
            ]
            delays = result.task_delays(WARMUP_SLOTS)
            energy = float(np.mean(result.energy_ratio(WARMUP_SLOTS)))
            rows.append((delays.mean(), np.percentile(delays, 99), local.mean(), *held, energy))
        mean, late, part, spectrum, edge, energy = np.mean(rows, axis=0)
        print(
            f"| {count} | {mean:.4f} | {late:.3f} | {part:.0%} | {spectrum:.1%} | {edge:.1%} | {energy:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Speed of the simulator on one core: ``python -m benchmarks.simulator``.

fixed: constant cuts, full speed, equal shares, formula. allocation: the convex step every slot (batches of 128
environments, and whole runs). event: the tandem of queues, in tasks per second, with a constant decision.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import numpy as np

from benchmarks._timing import seconds_each
from controller.learning.batch import SlotBatch, run_fixed_cuts
from controller.policies.examples import example_scenario
from controller.simulator import tandem
from controller.simulator.channels import ChannelStates
from controller.simulator.given import Fixed, Links
from controller.simulator.in_force import InForce, StopPoints
from controller.solvers.allocation.chain import ChainTables
from controller.solvers.allocation.shares import allocate


def best_seconds(call: Callable[[], object], repeats: int = 3) -> float:
    return float(seconds_each(call, repeats).min())


def main() -> None:
    scenario = example_scenario(4, slot_seconds=2.0)
    scenario = msgspec.structs.replace(
        scenario, ues=tuple(msgspec.structs.replace(ue, max_speed=0.5) for ue in scenario.ues)
    )
    tables = ChainTables.of(scenario)
    ues, slots, runs, v = len(scenario.ues), 1000, 64, 0.3
    rng = np.random.default_rng(1)
    means = np.array([ue.mean_gain for ue in scenario.ues])
    gains = means * 10 ** (0.8 * np.clip(rng.standard_normal((slots, ues)), -2, 2))
    channel = ChannelStates(2.0, gains, gains)
    rates = rng.choice((1.5, 3.0), (slots, ues))
    # cuts that LyMDO uses: neither all local (nothing to share) nor all remote
    cuts = rng.integers(2, tables.counts[0], (runs, ues))
    figures = {}
    for name, convex in (("fixed", False), ("allocation", True)):
        took = best_seconds(lambda c=convex: run_fixed_cuts(scenario, channel, rates, cuts, v, convex=c))  # type: ignore[misc]
        figures[f"{name}_ue_slots_per_second"] = runs * slots * ues / took
    batch = SlotBatch(scenario, channel, 1024, v, 1, queue_scale=2.0)
    actions = rng.integers(2, tables.counts[0], (1024, ues))
    figures["training_step_ue_slots_per_second"] = 1024 * ues / best_seconds(lambda: batch.step(actions), 20)
    state = batch.state()
    demands = tables.demands(actions, state)
    took = best_seconds(lambda: allocate(demands, tables.ues, batch.limits), 20)
    figures["allocate_ue_slots_per_second"] = 1024 * ues / took
    figures["event_tasks_per_second"] = _event(scenario.slot_seconds)
    print(json.dumps({key: round(value) for key, value in figures.items()}, indent=1))


def _event(slot_seconds: float) -> float:
    """30 UEs at 20 tasks a second each, 500 slots."""
    ues, slots, rate = 30, 500, 20.0
    rng = np.random.default_rng(1)
    arrivals = [np.sort(rng.uniform(0, slots * slot_seconds, int(rate * slots * slot_seconds))) for _ in range(ues)]
    one = np.ones(ues)
    remote = rng.random(ues) < 0.6
    force = InForce(
        cut=np.zeros(ues, dtype=np.int64), head_seconds=0.01 * one, wire_bits=np.where(remote, 1e5, 0.0),
        tail_seconds=np.where(remote, 0.01, 0.0), down_bits=np.where(remote, 3.4e4, 0.0), speed=0.4 * one,
        share=0.5 * one, spectrum_up_hz=1e6 * one, down_ratio=one, most_up=np.inf * one,
        most_down=np.inf * one, power_ratio=one,
        column=np.full(ues, -1), points=StopPoints.none(ues),
    )  # fmt: skip
    links = Links(rng.uniform(1e8, 1e9, (slots, ues)), np.full((slots, ues), 1e7), slot_seconds)
    fixed = Fixed(0.002 * one, 0.002 * one, one, 0.3 * one, np.zeros(ues, bool), 1e5 * one)

    def run() -> None:
        line = tandem.Tandem(arrivals, fixed)
        for slot in range(slots):
            line.advance(slot * slot_seconds, (slot + 1) * slot_seconds, force, links)
        assert np.nanmax(line.tasks[tandem.DONE]) > 0

    return ues * arrivals[0].size / best_seconds(run)


if __name__ == "__main__":
    main()

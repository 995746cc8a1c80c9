"""Compile what is compiled at its first call, once, while ruff and mypy look at the sources.

``python -m tests.compile_kernels``: the workers of pytest load it from numba's cache, where each of them would compile
the same functions at the same time. What is missing here costs time only.
"""

from __future__ import annotations

import numpy as np

from controller.learning.batch import run_fixed_cuts
from controller.policies import registry
from controller.policies.check import check_policy
from controller.policies.convex import FixedConvex
from controller.policies.examples import example_scenario
from controller.simulator.channels import ChannelStates
from controller.simulator.simulate import simulate
from controller.solvers.allocation.chain import ChainTables, SlotState
from controller.solvers.allocation.improvement import improve

#: Each calls what none before it does.
POLICIES = ("lymdo-cd", "myopic", "mjoa-mu", "upload-exhaustive", "dads")


def main() -> None:
    for name in POLICIES:
        check_policy(registry.create(name), slots=2)
    scenario = example_scenario(3)
    simulate(scenario, FixedConvex("block3"), 4, 1, "event")
    channel = ChannelStates.constant(scenario)
    run_fixed_cuts(scenario, channel, np.ones((1, 3)), np.full((1, 3), 4), 0.3)
    tables = ChainTables.of(scenario)
    row = channel.at_slots(1, scenario.slot_seconds)
    state = SlotState(np.ones((1, 3)), tables.link_quality(row.up), tables.downlink_rate(row.down), np.zeros((1, 3)))
    improve(tables, tables.local[None], state, tables.limits(0.3), 1)


if __name__ == "__main__":
    main()

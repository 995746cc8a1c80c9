"""``myopic``: what many UEs leave of its trials, and what that costs."""

from __future__ import annotations

import msgspec
import numpy as np

from controller.contract import Decision, Scenario
from controller.policies.examples import example_observation, example_scenario
from controller.policies.lymdo import Myopic
from controller.solvers.allocation.problem import Allocation, Demands, FloatArray


class Counting(Myopic):
    """Counts the slots that it lets be allocated."""

    allocated = 0

    def _priced(self, demands: Demands, multiplier: FloatArray) -> Allocation:
        self.allocated += len(multiplier)
        return super()._priced(demands, multiplier)


class Unscreened(Counting):
    MOST_TRIALS = 10**9


def lab(ues: int) -> Scenario:
    """Devices that can carry the whole model, on a budget; spectrum and edge for as many as there are."""
    scenario, replace = example_scenario(ues, slot_seconds=2.0), msgspec.structs.replace
    return replace(
        scenario,
        ues=tuple(replace(ue, max_speed=0.4, energy_budget_joules=0.2) for ue in scenario.ues),
        radio=replace(scenario.radio, uplink_hz=ues * 5e6, downlink_hz=ues * 5e6),
        edge=replace(scenario.edge, cpus=ues / 2),
    )


def run(policy: Counting, scenario: Scenario) -> tuple[list[Decision], float]:
    """Its decisions, and the delay that they promise, summed over UEs and slots."""
    policy.reset(scenario, 1)
    decisions, promised = [], []
    for slot in range(3):
        decisions.append(policy.decide(example_observation(scenario, slot)))
        promised.append(sum(value for key, value in policy.state().items() if key.startswith("predicted_seconds.")))
    return decisions, float(np.sum(promised))


def test_with_few_ues_every_change_is_tried() -> None:
    scenario = lab(4)
    assert sum(len(cuts) for cuts in _cuts(scenario)) <= Myopic.MOST_TRIALS
    assert run(Counting(), scenario)[0] == run(Unscreened(), scenario)[0]


def test_with_many_ues_a_few_screened_changes_do_nearly_as_well() -> None:
    scenario = lab(24)
    assert sum(len(cuts) for cuts in _cuts(scenario)) > Myopic.MOST_TRIALS
    screened, every = Counting(), Unscreened()
    (decisions, promised), (_, best) = run(screened, scenario), run(every, scenario)
    assert len({choice.cut for decision in decisions for choice in decision.ues}) > 1
    assert promised < 1.02 * best
    assert screened.allocated < 0.5 * every.allocated


def _cuts(scenario: Scenario) -> tuple[tuple[object, ...], ...]:
    policy = Myopic()
    policy.reset(scenario, 1)
    return policy.tables.cuts

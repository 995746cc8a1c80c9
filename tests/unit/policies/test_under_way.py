"""Tasks on the way to the edge under an older cut: what a decision leaves to them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from scipy.optimize import minimize

from benchmarks.lymdo.labs import simulated_lab
from controller.contract import ALL_ON_DEVICE, Arrivals, Decision, Observation, Scenario
from controller.model.decision import enforce
from controller.policies.drift import DriftPlusPenalty
from controller.policies.lymdo import LymdoCoordinateDescent, LymdoEqualShares
from controller.policies.under_way import LARGEST_PART, UnderWay, equal_parts, optimal_parts
from controller.simulator import simulate
from controller.solvers.chain import CutArray, SlotState
from controller.testing import example_observation, example_scenario

OFFLOADED = ("block3",)


class Switching(DriftPlusPenalty):
    """The cuts that it is told, by their labels; LyMDO's convex step."""

    cuts: tuple[tuple[str, ...], ...] = ()

    def propose(self, state: SlotState, observation: Observation) -> CutArray:
        return np.array([[self.tables.index_of(ue, cut) for ue, cut in enumerate(self.cuts)]])


def switched(
    policy: Switching, scenario: Scenario, after: tuple[tuple[str, ...], ...], in_flight: int, queued: int = 0
) -> Decision:
    """The decision in force in slot 1, after one in which every UE offloaded."""
    policy.reset(scenario, 1)
    policy.cuts = tuple(OFFLOADED for _ in scenario.ues)
    policy.decide(seen(scenario, 0, 0, 0))
    policy.cuts = after
    return enforce(scenario, None, policy.decide(seen(scenario, 1, in_flight, queued)))


def seen(scenario: Scenario, slot: int, in_flight: int, queued: int) -> Observation:
    base = example_observation(scenario, slot, seed=3)
    ues = tuple(
        msgspec.structs.replace(ue, gain_up=(1e-11,), in_flight_tasks=in_flight, device_queue_tasks=queued)
        for ue in base.ues
    )
    return msgspec.structs.replace(base, ues=ues)


def totals(decision: Decision) -> tuple[float, float]:
    return sum(ue.spectrum_up_hz for ue in decision.ues), sum(ue.edge_share for ue in decision.ues)


def work(older: list[float], own: list[float], own_seconds: float = 0.05, own_load: float = 0.0) -> UnderWay:
    count = len(older)
    return UnderWay(
        np.array(older), np.full(count, 0.05), np.array(own), np.full(count, own_seconds), np.full(count, own_load)
    )


def test_parts_make_the_sum_of_delays_least() -> None:
    weight = np.array([1.0, 2.0, 1.5])
    cost = weight * 0.05 * np.array([2, 3, (3 + 2 + 1)])
    found = minimize(
        lambda x: np.sum(cost / x), np.full(3, 1 / 3), bounds=[(1e-3, 1)] * 3, options={"ftol": 1e-15},
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
    )  # fmt: skip
    assert found.success
    parts = optimal_parts(work([0, 0, 3], [2, 3, 0]), weight, 2.0)
    assert parts[:2].max() == 0
    assert parts[2] == pytest.approx(found.x[2], rel=1e-3)


def test_loaded_resources_leave_older_tasks_less() -> None:
    parts = [optimal_parts(work([0, 2], [3, 0], own_load=load), np.ones(2), 2.0)[1] for load in (0.0, 0.3, 0.6)]
    assert parts[0] > parts[1] > parts[2] > 0


def test_parts_leave_the_new_tasks_what_they_need() -> None:
    nine_tenths = optimal_parts(work([50, 0], [0, 14], own_seconds=0.1), np.ones(2), 2.0)
    assert nine_tenths[0] == pytest.approx(LARGEST_PART * 0.3)
    assert optimal_parts(work([50, 0], [0, 40], own_seconds=0.1), np.ones(2), 2.0)[0] == 0


def test_a_part_below_the_residual_share_is_not_given() -> None:
    few, many = (optimal_parts(work([0.1, 0], [0, own]), np.ones(2), 2e3)[0] for own in (1.0, 400.0))
    assert few > 0.05
    assert many == 0


def test_everything_is_theirs_where_nobody_offloads() -> None:
    parts = optimal_parts(work([2, 1], [0, 0]), np.ones(2), 2.0)
    np.testing.assert_allclose(parts, np.sqrt([3, 1]) / np.sqrt([3, 1]).sum())


def test_equal_parts_count_every_ue_with_work() -> None:
    np.testing.assert_allclose(equal_parts(work([2, 0, 0, 0], [0, 1, 4, 0])), [1 / 3, 0, 0, 0])


@pytest.mark.parametrize("offloading", [1, 2])
def test_a_ue_that_turns_to_local_keeps_what_its_tasks_need(offloading: int) -> None:
    scenario = example_scenario(3, slot_seconds=2.0)
    after = tuple(OFFLOADED if index < offloading else ALL_ON_DEVICE for index in range(3))
    empty = switched(Switching(), scenario, after, in_flight=0)
    busy = switched(Switching(), scenario, after, in_flight=2)
    for one in (empty, busy):
        assert totals(one) == (pytest.approx(scenario.radio.uplink_hz), pytest.approx(scenario.edge.cpus))
    for index in range(offloading, 3):
        assert busy.ues[index].edge_share > 2 * empty.ues[index].edge_share
        assert busy.ues[index].spectrum_up_hz > 1.5 * empty.ues[index].spectrum_up_hz
        assert busy.ues[index].spectrum_down_hz > 2 * empty.ues[index].spectrum_down_hz
    for index in range(offloading):
        assert 0.4 * empty.ues[index].edge_share < busy.ues[index].edge_share < empty.ues[index].edge_share


def test_tasks_whose_head_has_not_started_take_the_new_cut() -> None:
    scenario = example_scenario(3, slot_seconds=2.0)
    after = (OFFLOADED, ALL_ON_DEVICE, ALL_ON_DEVICE)
    empty = switched(Switching(), scenario, after, in_flight=0)
    assert switched(Switching(), scenario, after, in_flight=3, queued=3) == empty


def test_a_ue_without_arrivals_that_offloads_keeps_a_share() -> None:
    scenario = example_scenario(2, slot_seconds=2.0)
    silent = Arrivals(process="poisson", rates_per_second=(0.0,))
    scenario = msgspec.structs.replace(
        scenario, ues=(msgspec.structs.replace(scenario.ues[0], arrivals=silent), scenario.ues[1])
    )
    decision = switched(Switching(), scenario, (OFFLOADED, ALL_ON_DEVICE), in_flight=5)
    assert decision.ues[0].edge_share >= 0.4 * scenario.edge.cpus


@pytest.mark.parametrize("policy", [LymdoCoordinateDescent, LymdoEqualShares])
def test_no_tail_crawls_after_a_change_of_cut(policy: type[DriftPlusPenalty]) -> None:
    """In 300 slots UEs turn to local with tasks under way dozens of times; the residual share would take 20 times."""
    lab = simulated_lab("lymdo")
    result = simulate(lab.scenario, policy(V=lab.v), 300, 5, "event", lab.channel(300, 5))
    tasks = result.tasks
    assert tasks is not None
    tails = tasks.share > 0
    crawling = tails & (tasks.share <= 0.05 * lab.scenario.edge.cpus)
    assert tails.sum() > 1000
    assert crawling.sum() == 0

"""Tasks on the way to the edge under an older cut: what a decision leaves to them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.lymdo.labs import simulated_lab
from controller.contract import ALL_ON_DEVICE, ALL_ON_EDGE, Cut, Decision, Observation, Scenario, UeDecision
from controller.model.decision import enforce
from controller.model.delay import stage_work
from controller.model.older_tasks import DRAIN_RATIO, LARGEST_PART, STRAY_PART, Parts, limited, tail_share
from controller.model.radio import rates
from controller.policies.base import BasicPolicy
from controller.policies.drift import DriftPlusPenalty
from controller.policies.examples import example_observation, example_scenario
from controller.policies.lymdo import LymdoCoordinateDescent, LymdoEqualShares
from controller.simulator.simulate import simulate

OFFLOADED = ("block3",)


def deciding(scenario: Scenario, cuts: list[Cut]) -> Decision:
    """All of spectrum and edge, evenly, for those who offload."""
    offloading = max(sum(cut != ALL_ON_DEVICE for cut in cuts), 1)

    def part(cut: Cut, total: float) -> float:
        return total / offloading if cut != ALL_ON_DEVICE else 0.0

    radio = scenario.radio
    return Decision(0, 0, 0.0, tuple(
        UeDecision(ue.name, cut, ue.max_speed, part(cut, radio.uplink_hz), part(cut, radio.downlink_hz),
                   part(cut, scenario.edge.cpus))
        for ue, cut in zip(scenario.ues, cuts, strict=True)
    ))  # fmt: skip


def seen(scenario: Scenario, gain: float = 1e-11, **counts: list[int]) -> Observation:
    """Queues by UE: the tasks in each, the backlog by their bytes."""
    base = example_observation(scenario)
    ues = []
    for index, ue in enumerate(base.ues):
        own = {key: numbers[index] for key, numbers in counts.items()}
        own.setdefault("in_flight_tasks", sum(own.values()))
        own.setdefault("device_queue_tasks", 0)
        own["tx_backlog_bytes"] = 25_000 * own.get("tx_queue_tasks", 0)
        ues.append(msgspec.structs.replace(ue, gain_up=(gain,), gain_down=(gain,), **own))
    return msgspec.structs.replace(base, ues=tuple(ues))


def test_a_ue_with_nothing_there_holds_nothing() -> None:
    scenario = example_scenario(3)
    before, after = ([OFFLOADED] * 3, [OFFLOADED, ALL_ON_DEVICE, ALL_ON_DEVICE])
    asked = deciding(scenario, after)
    for queued in (0, 3):  # a task whose head has not started takes the new cut
        observation = seen(scenario, device_queue_tasks=[queued] * 3)
        assert enforce(scenario, deciding(scenario, before), asked, observation).ues == asked.ues


def test_what_is_in_a_queue_ends_within_a_part_of_the_slot() -> None:
    scenario = example_scenario(3, slot_seconds=10.0)
    before, after = ([OFFLOADED] * 3, [OFFLOADED, ALL_ON_DEVICE, ALL_ON_DEVICE])
    observation = seen(scenario, tx_queue_tasks=[0, 1, 0], edge_queue_tasks=[0, 0, 1])
    ues = enforce(scenario, deciding(scenario, before), deciding(scenario, after), observation).ues
    slower = 1 + LARGEST_PART  # what all shares are scaled by at most
    limit = slower * DRAIN_RATIO * scenario.slot_seconds
    assert ues[2].spectrum_up_hz == 0  # it has nothing on its link
    gains = {str(ue.name): ((1e-11,), (1e-11,)) for ue in scenario.ues}
    links = rates(scenario, gains, Decision(0, 0, 0.0, ues))
    assert 25_000 * 8 / links["ue1"].up_bits_per_second < limit
    _, tail = stage_work(scenario.ues[1].profile, OFFLOADED, "uint8")
    for index in (1, 2):
        assert tail / ues[index].edge_share < limit
        assert 4_000 * 8 / links[f"ue{index}"].down_bits_per_second < limit
    assert ues[0].edge_share > 0.8 * scenario.edge.cpus


def test_a_task_in_its_head_counts_only_where_it_began_under_a_cut() -> None:
    scenario = example_scenario(2)
    observation = seen(scenario, in_flight_tasks=[1, 1])
    after = deciding(scenario, [OFFLOADED, ALL_ON_DEVICE])
    turned = enforce(scenario, deciding(scenario, [OFFLOADED, OFFLOADED]), after, observation).ues[1]
    stayed = enforce(scenario, deciding(scenario, [OFFLOADED, ALL_ON_DEVICE]), after, observation).ues[1]
    assert min(turned.spectrum_up_hz, turned.spectrum_down_hz, turned.edge_share) > 0
    assert max(stayed.spectrum_up_hz, stayed.spectrum_down_hz, stayed.edge_share) == 0
    # what has left its head is seen in the queues, however long ago the cut was decided
    queued = seen(scenario, tx_queue_tasks=[0, 1])
    late = enforce(scenario, deciding(scenario, [OFFLOADED, ALL_ON_DEVICE]), after, queued).ues[1]
    assert min(late.spectrum_up_hz, late.spectrum_down_hz, late.edge_share) > 0


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(0, 20)), min_size=2, max_size=100),
    st.sampled_from([0.0, 1e-14, 1e-12, 1e-10]),
)
@settings(deadline=None)
def test_together_they_hold_a_small_part(ues: list[tuple[bool, int, int]], gain: float) -> None:
    scenario = example_scenario(len(ues))
    cuts = [ALL_ON_DEVICE if turned else OFFLOADED for turned, _, _ in ues]
    cuts[0] = OFFLOADED
    observation = seen(
        scenario, gain, tx_queue_tasks=[on_link for _, on_link, _ in ues], edge_queue_tasks=[there for *_, there in ues]
    )
    asked = deciding(scenario, cuts)
    taken = enforce(scenario, deciding(scenario, [OFFLOADED] * len(ues)), asked, observation)
    local = [cut == ALL_ON_DEVICE for cut in cuts]
    gains = {str(ue.name): ((gain,), (gain,)) for ue in scenario.ues}
    links = rates(scenario, gains, taken)
    for key, total in (
        ("spectrum_up_hz", scenario.radio.uplink_hz),
        ("spectrum_down_hz", scenario.radio.downlink_hz),
        ("edge_share", scenario.edge.cpus),
    ):
        held = np.array([getattr(ue, key) for ue in taken.ues]) / total
        wanted = np.array([getattr(ue, key) for ue in asked.ues]) / total
        assert held.sum() <= 1 + 1e-9
        assert held[local].sum() <= LARGEST_PART + 1e-9
        # the others lose alike, and no more than that
        lost = held[~np.array(local)] / wanted[~np.array(local)]
        assert np.ptp(lost) < 1e-9
        assert lost.min() >= 1 / (1 + LARGEST_PART) - 1e-9
    for index, ue in enumerate(taken.ues):
        if local[index] and gain >= 1e-12:  # a share is never so small that it is an outage
            assert min(links[ue.name]) >= scenario.ues[index].outage_floor_bits_per_second


def test_what_nobody_asks_for_is_theirs_too() -> None:
    scenario = example_scenario(3)
    observation = seen(scenario, edge_queue_tasks=[30] * 3)
    nobody = deciding(scenario, [ALL_ON_DEVICE] * 3)
    ues = enforce(scenario, deciding(scenario, [ALL_ON_EDGE] * 3), nobody, observation).ues
    assert sum(ue.edge_share for ue in ues) == pytest.approx(scenario.edge.cpus)


def test_the_largest_give_way_first() -> None:
    wanted = np.array([0.02, 0.5, 0.09, 0.0])
    nothing = np.zeros(4)
    np.testing.assert_allclose(limited(Parts(wanted, nothing), 1.0), [0.02, 0.09, 0.09, 0])
    np.testing.assert_allclose(limited(Parts(wanted, nothing), 0.1), wanted)
    least = np.array([0.0, 0.1, 0.0, 0.0])
    np.testing.assert_allclose(limited(Parts(wanted, least), 1.0), [0.02, 0, 0.09, 0])


def test_a_dead_link_holds_no_spectrum() -> None:
    scenario = example_scenario(2)
    observation = seen(scenario, 0.0, tx_queue_tasks=[0, 5])
    before, after = deciding(scenario, [OFFLOADED] * 2), deciding(scenario, [OFFLOADED, ALL_ON_DEVICE])
    taken = enforce(scenario, before, after, observation).ues[1]
    assert (taken.spectrum_up_hz, taken.spectrum_down_hz) == (0, 0)
    assert taken.edge_share > 0


def test_a_ue_that_fetches_its_model_has_a_part_of_the_downlink() -> None:
    scenario = msgspec.structs.replace(example_scenario(4), retraining_interval_seconds=60.0)
    ues = enforce(scenario, None, deciding(scenario, [OFFLOADED, *[ALL_ON_DEVICE] * 3]), seen(scenario)).ues
    for ue in ues[1:]:
        assert ue.spectrum_down_hz > 0.9 * LARGEST_PART / 4 * scenario.radio.downlink_hz / (1 + LARGEST_PART)
        assert (ue.spectrum_up_hz, ue.edge_share) == (0, 0)


def test_a_tail_that_nobody_saw_in_time_crawls_but_runs() -> None:
    choice = deciding(example_scenario(1), [ALL_ON_DEVICE]).ues[0]
    assert tail_share(choice, 2.0) == STRAY_PART * 2.0


class Turning(BasicPolicy):
    """Half of the UEs offload in even slots, the others in odd ones; all of spectrum and edge to those who do."""

    def decide(self, observation: Observation) -> Decision:
        count = len(self.scenario.ues)
        return deciding(
            self.scenario, [ALL_ON_DEVICE if (ue + observation.slot) % 2 else OFFLOADED for ue in range(count)]
        )


@pytest.mark.parametrize("access", ["ofdma", "noma"])
@pytest.mark.parametrize("ues", [4, 30])
def test_nothing_is_left_behind_where_all_turn_in_every_slot(ues: int, access: str) -> None:
    scenario = example_scenario(ues, slot_seconds=0.5)
    radio = msgspec.structs.replace(scenario.radio, access=access)
    scenario = msgspec.structs.replace(scenario, radio=radio)
    slots = 120
    result = simulate(scenario, Turning(), slots, 5)
    assert result.tasks is not None
    early = result.tasks.stamps[:, 0] < (slots - 6) * scenario.slot_seconds
    delays = result.tasks.delay_seconds[early]
    assert early.sum() > 50 * ues
    # a task waits in its device's queue for some slots, and for one more where it crosses a turn
    assert np.nanmax(np.diff(result.tasks.stamps, axis=1)[early, 2:].sum(axis=1)) < 2.2 * scenario.slot_seconds
    halves = np.array_split(delays[np.argsort(result.tasks.stamps[early, 0])], 2)
    assert halves[1].mean() < 1.3 * halves[0].mean()


@pytest.mark.parametrize("policy", [LymdoCoordinateDescent, LymdoEqualShares])
def test_no_tail_crawls_after_a_change_of_cut(policy: type[DriftPlusPenalty]) -> None:
    """In 300 slots UEs turn to local with tasks under way dozens of times."""
    lab = simulated_lab("lymdo")
    result = simulate(lab.scenario, policy(V=lab.v), 300, 5, "event", lab.channel(300, 5))
    tasks = result.tasks
    assert tasks is not None
    tails = tasks.share > 0
    crawling = tails & (tasks.share <= 1.01 * STRAY_PART * lab.scenario.edge.cpus)
    assert tails.sum() > 1000
    assert crawling.sum() == 0


@pytest.mark.parametrize("count", [4, 10, 30])
def test_local_ues_hold_little_however_many_they_are(count: int) -> None:
    lab = simulated_lab(
        "lymdo", [f"ues.0.count={count}", f"edge.cpus={count / 4}", f"radio.uplink={count} MHz", "policy=lymdo-cd"]
    )
    slots = 60
    result = simulate(lab.scenario, LymdoCoordinateDescent(V=lab.v), slots, 1, "event", lab.channel(slots, 1))
    local = result.cuts == result.cut_labels.index("local")
    assert local.mean() > 0.3
    for shares, total in (
        (result.spectrum_up_hz, lab.scenario.radio.uplink_hz),
        (result.edge_share, lab.scenario.edge.cpus),
    ):
        # with 5 % for everybody who is local it is 11, 24 and 52 %
        assert np.where(local, shares, 0.0).sum(axis=1).mean() < 0.08 * total

"""The slot engine with made-up reports: fresh, late, lost, twice."""

from __future__ import annotations

import math

import msgspec
import pytest
from fake_lab import edge_report, player_report, ue_report

from controller.contract import ALL_ON_EDGE, Decision, Knowledge, Observation
from controller.model.knowledge import Observer
from controller.policies.examples import example_scenario
from controller.policies.static import EdgeOnly
from controller.service.clock import SlotClock
from controller.service.engine import SILENT_AFTER_SLOTS, SlotEngine, collect_seconds
from controller.service.protocol import UeParts, UploadingReport
from controller.service.worker import Answer

SCENARIO = example_scenario(2)
NAMES = ["ue0", "ue1"]


def _decide(observation: Observation) -> Decision:
    policy = EdgeOnly()
    policy.reset(SCENARIO, 1)
    return policy.decide(observation)


def _report_all(engine: SlotEngine, slot: int, *, without: tuple[str, ...] = ()) -> None:
    for name in NAMES:
        if name not in without:
            engine.take_ue(ue_report(name, slot, float(slot)))
    if "edge" not in without:
        engine.take_edge(edge_report(NAMES, slot))
    if "player" not in without:
        engine.take_player(player_report(NAMES, slot))


def test_a_slot_from_reports_to_outcome() -> None:
    engine = SlotEngine(SCENARIO)
    assert set(engine.missing(-1)) == {"ue0", "ue1", "edge", "player"}
    _report_all(engine, -1)
    assert engine.missing(-1) == ()
    closed, observation = engine.close(0, 10.0)
    assert closed is None
    first = observation.ues[0]
    assert (first.device_queue_tasks, first.tx_queue_tasks, first.edge_queue_tasks) == (2, 1, 3)
    assert first.measured_arrival_rate_per_second == 1.0  # nothing is measured before slot 0: the nominal mean
    assert first.report_age_seconds == 0.0
    answer = Answer(slot=0, decision=_decide(observation), decide_seconds=0.003, state={"q": 1.0})
    decision = engine.settle(answer, 10.01)
    assert decision is engine.decision
    assert decision is not None
    assert (decision.slot, decision.valid_from_seconds, decision.sequence) == (0, 10.01, 1)
    _report_all(engine, 0)
    closed, observation = engine.close(1, 10.5)
    assert closed is not None
    assert closed.outcome.decision is decision
    assert closed.policy_state == {"q": 1.0}
    assert closed.decide_seconds == 0.003
    came = closed.outcome.ues[1]
    assert (came.arrivals, came.completions, came.mean_delay_seconds, came.energy_joules) == (1, 1, 0.25, 0.75)
    assert came.stage_seconds["head"] == 0.25
    assert came.overruns == 2  # the edge's report of slot -1 and of slot 0
    assert observation.ues[1].last_energy_joules == 0.75
    assert observation.ues[1].measured_arrival_rate_per_second == 2.0
    assert engine.take_notices() == []


def test_a_late_report_is_booked_once_where_it_arrives() -> None:
    engine = SlotEngine(SCENARIO)
    arrivals = []
    for slot in range(-1, 6):
        _report_all(engine, slot, without=("ue1",) if slot == 2 else ())
        if slot == 3:
            assert not engine.take_ue(ue_report("ue1", 2, arrivals=5))  # overtaken: dropped
        closed, _ = engine.close(slot + 1, float(slot + 1))
        if slot == 2:
            assert engine.take_ue(ue_report("ue1", 2, arrivals=5)) is True  # late, but the next in order
        if closed is not None:
            arrivals.append(closed.outcome.ues[1].arrivals)
    assert arrivals == [1, 1, 0, 6, 1, 1]
    assert engine.missing_reports == 1
    assert engine.stale_reports == 1


def test_last_known_values_age() -> None:
    engine = SlotEngine(SCENARIO)
    ages, gains = [], []
    for slot in range(-1, 4):
        _report_all(engine, slot, without=("player",) if slot in (1, 2) else ())
        _, observation = engine.close(slot + 1, float(slot + 1))
        ages.append(observation.ues[0].report_age_seconds)
        gains.append(observation.ues[0].gain_up[0])
    assert ages == [0.0, 0.0, 0.5, 1.0, 0.0]
    assert gains == pytest.approx([1e-11, 2e-11, 2e-11, 2e-11, 5e-11])


def test_before_any_report_the_scenario_stands_in() -> None:
    engine = SlotEngine(SCENARIO)
    _, observation = engine.close(0, 0.0)
    assert observation.ues[1].gain_up == (SCENARIO.ues[1].mean_gain,)
    assert observation.ues[1].report_age_seconds == 0.5
    assert engine.rates()["ue0"].up_bits_per_second > 0
    assert not engine.drained_since(0.0)


def test_the_silent_are_not_waited_for_and_may_come_back() -> None:
    engine = SlotEngine(SCENARIO)
    for slot in range(-1, 4):
        _report_all(engine, slot, without=("ue0",))
        assert ("ue0" in engine.missing(slot)) == (slot < -1 + SILENT_AFTER_SLOTS)
        engine.close(slot + 1, float(slot + 1))
    assert [one.node for one in engine.take_notices() if one.kind == "silent"] == ["ue0"]
    assert engine.drained_since(3.0)  # ue1 has nothing in flight
    engine.take_ue(ue_report("ue0", 4))
    assert [one.kind for one in engine.take_notices()] == ["back"]
    assert "ue0" not in engine.missing(4)
    assert "ue0" in engine.missing(5)


def test_reports_of_strangers_and_repetitions_change_nothing() -> None:
    engine = SlotEngine(SCENARIO)
    assert not engine.take_ue(ue_report("ue7", 0))
    _report_all(engine, 0)
    assert not engine.take_ue(ue_report("ue0", 0, arrivals=99))
    assert not engine.take_edge(edge_report(NAMES, 0))
    assert not engine.take_player(player_report(NAMES, 0, gain=1.0))
    assert engine.stale_reports == 3
    _, observation = engine.close(1, 1.0)
    assert observation.ues[0].measured_arrival_rate_per_second == 2.0
    assert observation.ues[0].gain_down == (1e-11,)


def test_what_does_not_settle_leaves_the_decision_and_its_number() -> None:
    engine = SlotEngine(SCENARIO)
    _, observation = engine.close(0, 10.0)
    good = engine.settle(Answer(0, _decide(observation), 0.001), 10.0)
    assert good is not None
    bad = msgspec.structs.replace(_decide(observation), ues=())
    for slot, answer in enumerate((None, Answer(2, None, 0.2, error="ValueError: no"), Answer(3, bad, 0.3)), 1):
        engine.close(slot, 10.0 + slot)
        assert engine.settle(answer, 10.25 + slot) is None
        assert engine.decision is good
    kinds = [one.kind for one in engine.take_notices() if one.node == "controller" and one.kind != "report-missing"]
    assert kinds == ["decide-late", "policy-error", "decision-invalid"]
    _, observation = engine.close(4, 14.0)
    after = engine.settle(Answer(4, _decide(observation), 0.001), 14.0)
    assert after is not None
    assert after.sequence == good.sequence + 1
    assert {ue.cut for ue in after.ues} == {ALL_ON_EDGE}


def test_a_late_decision_is_recorded_with_the_time_waited() -> None:
    engine = SlotEngine(SCENARIO)
    engine.close(0, 10.0)
    engine.settle(None, 10.25)
    closed, _ = engine.close(1, 10.5)
    assert closed is not None
    assert closed.decide_late
    assert closed.decide_seconds == pytest.approx(0.25)
    assert math.isnan(closed.outcome.ues[0].mean_delay_seconds)


def test_collecting_takes_a_tenth_of_the_slot_or_50_ms() -> None:
    assert collect_seconds(0.1) == pytest.approx(0.01)
    assert collect_seconds(2.0) == 0.05


def test_the_clock_keeps_absolute_deadlines() -> None:
    clock = SlotClock(0.5, 0.25)
    assert not clock.due(1e9)  # not begun
    clock.origin_seconds = 100.0
    assert not clock.due(99.9)
    assert clock.next_seconds() == 100.0
    clock.enter(100.003)
    assert (clock.slot, clock.phase) == (0, "collect")
    assert clock.next_seconds() == pytest.approx(100.05)
    assert not clock.collected(100.049)
    assert clock.collected(100.051)
    clock.close(100.02)
    assert clock.next_seconds() == pytest.approx(100.27)
    assert not clock.decide_over(100.26)
    assert not clock.due(100.6)  # not before this slot is settled
    clock.settle()
    assert clock.next_seconds() == 100.5
    assert clock.due(100.5)


def test_a_clock_that_was_held_up_goes_on_with_the_present_slot() -> None:
    clock = SlotClock(0.5, 5.0)
    clock.origin_seconds = 100.0
    clock.enter(100.0)
    clock.close(100.0)
    assert clock.decide_over(100.5)  # the next slot ends a longer deadline
    clock.settle()
    clock.enter(102.7)
    assert clock.slot == 5


def test_what_the_edge_holds_of_a_ues_model_is_observed() -> None:
    engine = SlotEngine(SCENARIO)
    report = edge_report(NAMES, -1)
    rows = tuple(msgspec.structs.replace(row, cached_nodes=("stem", "block1")) for row in report.ues[:1])
    engine.take_edge(msgspec.structs.replace(report, ues=(*rows, *report.ues[1:])))
    ue = ue_report("ue0", -1, 0.0)
    engine.take_ue(msgspec.structs.replace(ue, parts=UeParts(uploading=UploadingReport(upload_progress_ratio=0.5))))
    _, observation = engine.close(0, 10.0)
    first, second = observation.ues
    assert (first.cached_nodes, first.upload_progress_ratio) == (("stem", "block1"), 0.5)
    assert (second.cached_nodes, second.upload_progress_ratio) == ((), 0.0)


def test_a_policy_sees_what_the_lab_says_that_it_knows_and_the_wires_what_is_true() -> None:
    known = Knowledge(gain_error_decibels=3.0, gain_age_slots=1, arrival_rate="measured")
    engines = {
        name: SlotEngine(msgspec.structs.replace(SCENARIO, knowledge=knowledge), seed=4)
        for name, knowledge in (("less", known), ("all", Knowledge(arrival_rate="state")))
    }
    seen: dict[str, list[Observation]] = {"less": [], "all": []}
    for slot in range(2):
        for name, engine in engines.items():
            _report_all(engine, slot - 1)
            seen[name].append(engine.close(slot, float(slot))[1])
    less, true = seen["less"][1].ues[0], seen["all"][0].ues[0]
    assert less.gain_up != true.gain_up
    assert less.gain_up[0] / true.gain_up[0] == pytest.approx(1.0, abs=5.0)
    wanted = Observer(engines["less"].scenario, 4)
    assert [wanted.seen(one) for one in seen["all"]] == seen["less"]
    assert engines["less"].rates() == engines["all"].rates()

"""Targets of stages, arrivals and the books of a UE."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import msgspec
import pytest

from controller.contract import STAGES, Arrivals, Decision, ModelProfile
from controller.model.arrivals import ArrivalProcess
from controller.service.protocol import Apply, Start
from testbed.inference.profiles import read_profile
from testbed.node import ledger
from testbed.node.arrivals import ArrivalSchedule
from testbed.node.control import DecisionBox
from testbed.node.ledger import Task
from testbed.node.task_frames import Result
from testbed.node.times import StageTimes
from testbed.programs.ue.ue_stage import DECISION_WAIT_SECONDS, decision_wait_seconds

PROFILE = Path(__file__).parents[3] / "topologies" / "profiles" / "resnet18.json"


@pytest.fixture(scope="module")
def profile() -> ModelProfile:
    return read_profile(PROFILE)


def test_times_of_chain_cuts_are_the_profiles(profile: ModelProfile) -> None:
    times = StageTimes(profile)
    codec = profile.codecs["uint8"]
    for index, cut in enumerate(profile.chain_cuts[1:-1], start=1):
        assert times.head_seconds(cut, "uint8") == profile.head_seconds[index] + codec.encode_seconds[index]
        assert times.tail_seconds(cut, "uint8") == profile.tail_seconds[index] + codec.decode_seconds[index]
    assert times.head_seconds(("input",), "uint8") == 0
    assert times.tail_seconds((), "uint8") == 0
    assert times.head_seconds((), "fp32") == profile.head_seconds[-1]


def test_times_of_a_cut_through_a_branch_are_sums_of_nodes(profile: ModelProfile) -> None:
    inner = next(node for node in profile.nodes if len(node.inputs) == 2)
    times = StageTimes(profile)
    totals = [times.head_seconds(cut, "fp32") + times.tail_seconds(cut, "fp32") for cut in profile.chain_cuts[1:-1]]
    total = times.head_seconds(inner.inputs, "fp32") + times.tail_seconds(inner.inputs, "fp32")
    assert min(totals) <= total <= 1.02 * max(totals)  # two tensors are encoded
    assert 0 < times.head_seconds(inner.inputs, "fp32") < profile.head_seconds[-1]


def test_arrivals_are_the_processs_whenever_they_are_asked_for() -> None:
    arrivals = Arrivals("poisson", (7.0,))
    expected = ArrivalProcess(arrivals, 0.5, seed=3, ue_index=1)
    offsets = [100.0 + time for _ in range(20) for time in expected.next_slot().tolist()]
    schedule = ArrivalSchedule(ArrivalProcess(arrivals, 0.5, seed=3, ue_index=1), Start(100.0, 0.5, 8.0))
    for now in (99.5, 100.1, 103.0, 107.9):
        schedule.extend(now)
    inside = [time for time in offsets if time < 108.0]
    assert [schedule.arrival_seconds(task) for task in range(len(inside) + 1)] == [*inside, None]
    assert schedule.first_task(99.0) == 0
    first = schedule.first_task(104.0)
    assert inside[first] >= 104.0 > inside[first - 1]
    assert schedule.first_task(108.0) == len(inside)
    assert (schedule.first_boundary(99.0), schedule.first_boundary(100.7)) == (0, 2)


def test_arrivals_of_a_long_run_take_no_more_room_than_what_is_ahead() -> None:
    process = ArrivalProcess(Arrivals("poisson", (20.0,)), 0.5, seed=3, ue_index=1)
    schedule = ArrivalSchedule(process, Start(100.0, 0.5, None))
    task = 0
    tracemalloc.start()
    for slot in range(2000):
        schedule.extend(100.0 + 0.5 * slot)
        while (arrival := schedule.arrival_seconds(task)) is not None and arrival < 100.0 + 0.5 * slot:
            task += 1
        assert schedule.rate_per_second(slot) == 20.0
        schedule.forget(task, slot)
        if slot == 200:
            before = tracemalloc.get_traced_memory()[0]
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert task > 15_000
    assert grown < 20_000, "bytes"


def test_a_stale_decision_is_dropped_and_an_early_one_waits() -> None:
    box = DecisionBox()
    assert box.in_force(10.0) is None
    first, second = (Apply(Decision(number, 0, float(number), ())) for number in (5, 6))
    assert box.put(first)
    assert box.put(second)
    assert not box.put(Apply(Decision(6, 1, 0.0, ())))
    assert box.stale == 1
    assert box.in_force(5.5) is first
    assert box.next_change_seconds() == 6.0
    assert box.in_force(6.0) is second


def test_a_head_at_a_slots_start_waits_for_the_slots_decision_and_no_longer() -> None:
    schedule = ArrivalSchedule(
        ArrivalProcess(Arrivals("poisson", (7.0,)), 0.5, seed=3, ue_index=1), Start(100.0, 0.5, None)
    )
    assert [schedule.slot_at(time) for time in (99.0, 100.0, 100.4, 101.0)] == [-1, 0, 0, 2]
    start, wait = 101.001, DECISION_WAIT_SECONDS
    assert decision_wait_seconds(1, schedule, start, start) == pytest.approx(wait - 0.001)
    assert decision_wait_seconds(2, schedule, start, start) == 0
    assert decision_wait_seconds(1, schedule, start, 101.0 + wait) == 0  # it is late: the last one stands in
    assert decision_wait_seconds(1, schedule, 100.999, 101.001) == 0  # it started in the slot before
    assert decision_wait_seconds(0, schedule, 100.0, 100.0) == 0  # the bootstrap's is of slot 0


def test_stages_sum_to_the_delay() -> None:
    task = Task(0, 1.0, cut=("a",), head_start_seconds=1.5, head_end_seconds=2.0, transmit_watts=1.0)
    task.transfer_start_seconds, task.received_seconds = 2.25, 3.0
    result = Result(0, 3.0, 3.0, 4.0, 1.0, 0.5, 0.3)
    record = ledger.completed(task, "ue1", result, 4.5, 100)
    stages = ledger.stage_seconds(record)
    assert tuple(stages) == STAGES
    assert stages == {
        "ue_queue": 0.5, "head": 0.5, "tx_queue": 0.25, "uplink": 0.75, "edge_queue": 0.0, "tail": 1.0, "downlink": 0.5
    }  # fmt: skip


def test_a_local_tasks_stamps_all_equal_its_head_end() -> None:
    task = Task(0, 1.0, cut=(), head_start_seconds=1.5, head_end_seconds=2.0)
    record = ledger.completed(task, "ue1", None, 2.0, 0)
    assert {record.received_seconds, record.tail_end_seconds, record.result_received_seconds} == {2.0}


def test_a_failed_task_has_no_stamps_where_it_never_was() -> None:
    record = ledger.failed(Task(3, 1.0, failure="x"), "ue1", "why")
    assert (record.status, record.reason, record.task, record.answer) == ("failed", "why", 3, -1)
    assert math.isnan(record.head_start_seconds)
    assert math.isnan(record.result_received_seconds)
    assert msgspec.msgpack.encode(record)

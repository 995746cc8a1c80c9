"""Runs of nothing, of a part of their tasks, of a growing queue, and runs whose records are not whole."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from synthetic_run import ORIGIN, Lab, manifest, quiet_host, simulate
from test_finalise import summary_of, write_streams

from controller.service.protocol import Message, TaskTotals
from testbed.protocol.records import EdgeHealth, Event, HostHealth, LinkStep, SlotRecord, TaskArrived, TaskRecord
from testbed.records.manifest import Manifest, write_manifest
from testbed.records.streams import SCHEMAS, to_batch
from testbed.records.tables import RunTables
from testbed.report.conclude import conclude
from testbed.report.fidelity.fidelity import Fidelity, assess, write_fidelity
from testbed.report.fidelity.task_figures import Backlog, backlog_of
from testbed.report.summary import marks_of

LAB = Lab(duration=5)


def tasks_of(records: list[Message]) -> list[TaskRecord]:
    return [record for record in records if isinstance(record, TaskRecord)]


def without(records: list[Message], *kinds: type) -> list[Message]:
    return [record for record in records if not isinstance(record, kinds)]


def broken(fidelity: Fidelity) -> set[str]:
    return {figure.name for figure in fidelity.figures if not figure.ok}


def assessed(folder: Path, records: list[Message], about: Manifest | None = None) -> Fidelity:
    return assess(write_streams(folder, records), about or manifest(LAB))


def told(arrived: bool = True, ended: bool = True) -> Manifest:
    """The synthetic run's manifest, with UEs that told of no arrivals, or of no ends."""
    about = manifest(LAB)
    totals = {
        ue: TaskTotals(one.arrived if arrived else 0, one.ended if ended else 0) for ue, one in about.totals.items()
    }
    return msgspec.structs.replace(about, totals=totals)


def test_a_healthy_run_is_valid_and_says_so_from_figures_that_have_data(tmp_path: Path) -> None:
    fidelity = assessed(tmp_path, simulate(LAB))
    assert broken(fidelity) == set()
    for name in (
        "nothing_arrived",
        "nothing_completed",
        "in_flight_ratio",
        "failed_ratio",
        "timed_out_ratio",
        "silent_sources",
        "records_end_early_seconds",
        "unrecorded_seconds",
        "tasks_unrecorded",
    ):
        assert isinstance(fidelity.value(name), float), name


def test_no_task_ended(tmp_path: Path) -> None:
    tables = write_streams(tmp_path, without(simulate(LAB), TaskRecord))
    fidelity = assess(tables, told(ended=False))
    assert broken(fidelity) == {"nothing_completed", "ues_without_completion", "in_flight_ratio"}
    assert any(reason.startswith("nothing_completed is 1") for reason in fidelity.invalid_reasons)
    summary = summary_of(tables, LAB, tmp_path)
    assert (summary.missing_ratio, summary.censored, summary.e2e_delay_seconds.mean) == (1.0, True, None)


def test_no_task_arrived(tmp_path: Path) -> None:
    fidelity = assessed(tmp_path, without(simulate(LAB), TaskRecord, TaskArrived), told(arrived=False, ended=False))
    assert broken(fidelity) == {"nothing_arrived"}


def test_one_ue_of_three_that_gets_nothing_done(tmp_path: Path) -> None:
    records = [one for one in simulate(LAB) if not (isinstance(one, TaskRecord) and one.ue == "ue2")]
    assert "ues_without_completion" in broken(assessed(tmp_path, records))


@pytest.mark.parametrize(
    ("part", "reason", "figure", "ok"),
    [
        (0.2, "timeout: 60 s passed without an answer", "timed_out_ratio", False),
        (0.2, "timeout: 60 s passed in the device queue", "timed_out_ratio", False),
        (0.2, "head: KeyError: torch.quint8", "failed_ratio", False),
        (0.02, "head: KeyError: torch.quint8", "failed_ratio", True),
        (0.2, None, "in_flight_ratio", False),
        (0.05, None, "in_flight_ratio", True),
    ],
)
def test_the_part_that_did_not_complete(tmp_path: Path, part: float, reason: str | None, figure: str, ok: bool) -> None:
    lab = Lab(duration=20)
    records = simulate(lab)
    ended = tasks_of(records)
    lost = {id(task) for task in ended[:: round(1 / part)]}
    changed = [
        msgspec.structs.replace(one, status="failed", reason=reason, result_received_seconds=math.nan)
        if id(one) in lost and reason is not None
        else one
        for one in records
        if reason is not None or id(one) not in lost
    ]
    about = manifest(lab)
    if reason is None:
        about = msgspec.structs.replace(
            about, totals={ue: TaskTotals(one.arrived, 0) for ue, one in about.totals.items()}
        )
    tables = write_streams(tmp_path, changed)
    fidelity = assess(tables, about)
    assert broken(fidelity) == (set() if ok else {figure})
    assert fidelity.value(figure) == pytest.approx(part, rel=0.2)
    if figure == "failed_ratio" and not ok:
        assert any(f"{len(lost)} times: {reason}" in said for said in fidelity.invalid_reasons)
    summary = summary_of(tables, lab, tmp_path)
    assert summary.censored
    assert summary.missing_ratio == pytest.approx(part, rel=0.2)
    assert any("censored" in mark for mark in marks_of(summary))


def test_the_delays_of_all_tasks_are_not_censored(tmp_path: Path) -> None:
    summary = summary_of(write_streams(tmp_path, simulate(LAB)), LAB, tmp_path)
    assert (summary.censored, summary.missing_ratio, marks_of(summary)) == (False, 0.0, [])


# ------------------------------------------------------------------------------------------------ the records are whole


@pytest.mark.parametrize("kind", [SlotRecord, EdgeHealth, LinkStep])
def test_a_program_of_which_nothing_was_recorded(tmp_path: Path, kind: type) -> None:
    fidelity = assessed(tmp_path, without(simulate(LAB), kind))
    assert "silent_sources" in broken(fidelity)
    assert fidelity.value("silent_sources") == (3 if kind is LinkStep else 1)


def test_a_recorder_that_was_stopped_before_the_end(tmp_path: Path) -> None:
    """Its records end at 2 s of 5: what is there looks whole."""
    stopped = ORIGIN + 2.0
    records = [
        record
        for record in [*simulate(LAB), *quiet_host()]
        if getattr(record, "monotonic_seconds", 0.0) < stopped
        and getattr(record, "arrival_seconds", 0.0) < stopped
        and getattr(record, "applied_seconds", 0.0) < stopped
        and getattr(record, "start_seconds", 0.0) < stopped
    ]
    fidelity = assessed(tmp_path, records)
    assert broken(fidelity) >= {"records_end_early_seconds", "tasks_unrecorded"}
    assert fidelity.value("records_end_early_seconds") == pytest.approx(5.0, abs=1.5)
    write_fidelity(fidelity, tmp_path)
    written = msgspec.json.decode((tmp_path / "fidelity.json").read_bytes())
    assert {figure["name"] for figure in written["figures"] if not figure["ok"]} == broken(fidelity)


def test_a_recorder_that_never_sampled_or_paused(tmp_path: Path) -> None:
    seconds = [one for one in quiet_host() if isinstance(one, HostHealth)]
    gap = [one for one in seconds if not ORIGIN + 1 < one.monotonic_seconds < ORIGIN + 8]
    assert broken(assessed(tmp_path / "gap", [*simulate(LAB), *gap])) == {"unrecorded_seconds"}


@pytest.mark.parametrize("lost", [TaskArrived, TaskRecord])
def test_records_that_were_lost_are_missed_by_what_the_ues_told(tmp_path: Path, lost: type) -> None:
    records = simulate(LAB)
    last = [record for record in records if isinstance(record, TaskRecord | TaskArrived) and record.ue == "ue1"]
    number = max(record.task for record in last)
    dropped = [one for one in last if one.task == number and (lost is TaskArrived or isinstance(one, lost))]
    fidelity = assessed(tmp_path, [record for record in records if record not in dropped])
    assert fidelity.value("tasks_unrecorded") == len(dropped)
    assert "tasks_unrecorded" in broken(fidelity)


def test_last_words_stand_in_for_what_the_controller_was_told(tmp_path: Path) -> None:
    about = manifest(LAB)
    silent = msgspec.structs.replace(about, totals={})
    words: list[Message] = [
        Event(ORIGIN + 6, ue, "stopped", f'Stop; {{"arrived_tasks":{n.arrived},"ended_tasks":{n.ended}}}')
        for ue, n in about.totals.items()
    ]
    assert broken(assessed(tmp_path / "whole", [*simulate(LAB), *words], silent)) == set()
    nobody = assessed(tmp_path / "nobody", [*simulate(LAB), *words[1:]], silent)
    assert nobody.value("tasks_unrecorded") == 1, "a UE that nobody counted"


def test_a_ue_that_stood_still_until_the_end_counted_no_more_than_it_recorded(tmp_path: Path) -> None:
    records = simulate(LAB)
    arrived = {ue: one.arrived for ue, one in manifest(LAB).totals.items()}
    about = msgspec.structs.replace(manifest(LAB), expected_tasks=arrived)
    assert broken(assessed(tmp_path / "whole", records, about)) == set()
    frozen = [
        one for one in records if not (isinstance(one, TaskArrived | TaskRecord) and one.task >= 15 and one.ue == "ue1")
    ]
    told = TaskTotals(15, 15)
    about = msgspec.structs.replace(about, totals={**about.totals, "ue1": told})
    fidelity = assessed(tmp_path / "frozen", frozen, about)
    assert fidelity.value("arrivals_missing") == arrived["ue1"] - 15 > 0
    assert broken(fidelity) == {"arrivals_missing"}


def test_a_program_that_stands_still_for_a_moment_of_a_long_run(tmp_path: Path) -> None:
    """Two of 360 reports are late: a part that no ratio minds."""
    lab = Lab(duration=60)
    about = manifest(lab)
    late = [
        msgspec.structs.replace(one, report_age_seconds=(one.slot - 39) * 0.5)
        if isinstance(one, SlotRecord) and one.ue == "ue2" and one.slot in (40, 41, 42)
        else one
        for one in simulate(lab)
    ]
    fidelity = assessed(tmp_path, late, about)
    assert fidelity.value("oldest_report_seconds") == 1.5
    assert broken(fidelity) == {"oldest_report_seconds"}


def test_a_program_that_is_silent_when_the_run_ends(tmp_path: Path) -> None:
    events: list[Message] = [
        Event(ORIGIN + 2, "edge", "silent", "no report of edge for 3 slots"),
        Event(ORIGIN + 3, "edge", "back", "edge reports again"),
        Event(ORIGIN + 4, "ue2", "silent", "no report of ue2 for 3 slots"),
    ]
    assert broken(assessed(tmp_path / "back", [*simulate(LAB), *events[:2]])) == set()
    fidelity = assessed(tmp_path / "silent", [*simulate(LAB), *events])
    assert broken(fidelity) == {"silent_at_the_end"}
    assert any(reason.endswith("when the run ended: ue2") for reason in fidelity.invalid_reasons)
    cut_short = msgspec.structs.replace(manifest(LAB), ended_utc=None, ended_monotonic_seconds=None)
    assert broken(assessed(tmp_path / "cut short", [*simulate(LAB), *events], cut_short)) == {"ended_early"}


def test_what_ended_is_told_by_the_manifest(tmp_path: Path) -> None:
    """The recorder died: no event can say so."""
    tables = write_streams(tmp_path, simulate(LAB))
    about = msgspec.structs.replace(manifest(LAB), ended_programs={"recorder": "recorder died"})
    fidelity = assess(tables, about)
    assert broken(fidelity) == {"processes_died"}
    assert any("recorder" in reason for reason in fidelity.invalid_reasons)


@pytest.mark.thorough
def test_tasks_of_a_ue_that_the_manifest_calls_dead_failed(tmp_path: Path) -> None:
    records = [one for one in simulate(LAB) if not (isinstance(one, TaskRecord) and one.ue == "ue1" and one.task > 5)]
    write_streams(tmp_path, records)
    write_manifest(msgspec.structs.replace(manifest(LAB), ended_programs={"ue1": "ue1 was killed"}), tmp_path)
    summary = conclude(tmp_path)
    assert (summary.tasks.in_flight, summary.valid) == (0, False)
    assert summary.tasks.failed > 0
    assert "1 ue1 was killed" in (tmp_path / "report.html").read_text().replace(" × ", " ").replace(
        f"{summary.tasks.failed} ue1", "1 ue1"
    )


def test_monitoring_is_no_part_of_a_run(tmp_path: Path) -> None:
    died = Event(ORIGIN + 1, "exporter", "died", "ended: OSError")
    assert assessed(tmp_path, [*simulate(LAB), died]).valid


def test_a_policy_that_raises_in_every_slot(tmp_path: Path) -> None:
    raised: list[Message] = [
        Event(ORIGIN + slot / 2, "controller", "policy-error", f"slot {slot}: KeyError") for slot in range(10)
    ]
    assert broken(assessed(tmp_path / "all", [*simulate(LAB), *raised])) == {"refused_decision_ratio"}


# ------------------------------------------------------------------------------------------------------------ the queue


def queue(load: float, slots: int, seed: int) -> Backlog:
    """Tasks in the system of an M/M/1 queue that starts empty, 2 tasks per slot on average."""
    rng = np.random.default_rng((seed, slots, int(load * 100)))
    arrivals = np.cumsum(rng.exponential(0.5, slots * 3 + 20))
    ends, free = [], 0.0
    for arrival in arrivals[arrivals < slots]:
        free = max(free, arrival) + rng.exponential(load / 2)
        ends.append(free)
    times = arrivals[arrivals < slots]
    held = [int(((times <= slot) & (np.array(ends) > slot)).sum()) for slot in range(slots)]
    arrived = np.bincount(times.astype(int), minlength=slots)
    return backlog_of(_tables(held, arrived.tolist()), _about(slots))


def _about(slots: int) -> Manifest:
    return msgspec.structs.replace(manifest(Lab(ues=("ue1",))), slot_seconds=1.0, duration_seconds=float(slots))


def _tables(held: list[int], arrivals: list[int]) -> RunTables:
    (template, *_) = [one for one in simulate(LAB) if isinstance(one, SlotRecord)]
    rows = [
        msgspec.structs.replace(
            template, slot=slot, start_seconds=ORIGIN + slot, in_flight_tasks=number, arrivals=arrivals[slot]
        )
        for slot, number in enumerate(held)
    ]
    empty: dict[str, Any] = {
        name: SCHEMAS[name].empty_table() for name in ("tasks", "links", "drops", "round_trips", "health", "events")
    }
    return RunTables(slots=pa.Table.from_batches([to_batch(rows, SCHEMAS["slots"])]), **empty)


@pytest.mark.parametrize(("load", "slots"), [(0.3, 24), (0.5, 40), (0.5, 120), (0.8, 300), (0.9, 300)])
def test_a_queue_that_is_stable_is_hardly_ever_called_unstable(load: float, slots: int) -> None:
    called = [queue(load, slots, seed).unstable for seed in range(40)]
    assert sum(called) <= 1, f"{sum(called)} of 40"


@pytest.mark.parametrize(("load", "slots"), [(2.0, 30), (1.5, 60), (1.3, 300), (1.2, 500)])
def test_a_queue_that_cannot_keep_up_is_called_unstable(load: float, slots: int) -> None:
    found = [queue(load, slots, seed) for seed in range(20)]
    assert sum(one.unstable for one in found) >= 16, f"{sum(one.unstable for one in found)} of 20"
    grows = 2.0 * (1 - 1 / load)
    inside = sum(float(one.low_tasks_per_slot) <= grows <= float(one.high_tasks_per_slot) for one in found)
    assert inside >= 15, "the interval holds what it says in 95 of 100, somewhat less since stretches are alike"
    assert np.mean([float(one.slope_tasks_per_slot) for one in found]) == pytest.approx(grows, rel=0.15)


def test_a_short_run_has_no_slope() -> None:
    found = backlog_of(_tables([3] * 19, [2] * 19), _about(19))
    assert (found.slope_tasks_per_slot, found.unstable) == ("not_measured", False)


def test_a_queue_that_stopped_growing_is_not_unstable() -> None:
    held = [min(slot, 30) for slot in range(120)]
    found = backlog_of(_tables(held, [2] * 120), _about(120))
    assert float(found.slope_tasks_per_slot) > 0
    assert not found.unstable


def test_an_unstable_run_is_named_and_valid(tmp_path: Path) -> None:
    lab = Lab(duration=20)
    records = [
        msgspec.structs.replace(one, in_flight_tasks=2 * one.slot) if isinstance(one, SlotRecord) else one
        for one in simulate(lab)
    ]
    tables = write_streams(tmp_path, records)
    fidelity = assess(tables, manifest(lab))
    assert fidelity.valid
    assert fidelity.value("unstable") == 1.0
    assert fidelity.value("backlog_slope") == pytest.approx(6.0)  # of three UEs
    summary = summary_of(tables, lab, tmp_path)
    assert summary.unstable
    assert "unstable: the queue grew through the whole run, by 6 to 6 tasks a slot (95 %)" in marks_of(summary)

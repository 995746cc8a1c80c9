import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import Lab, manifest, quiet_host, simulate

from controller.contract import STAGES
from controller.service.protocol import Message
from testbed.errors import InputError
from testbed.protocol.records import KINDS, Event, HostHealth, SlotRecord, TaskArrived, TaskRecord
from testbed.records.manifest import write_manifest
from testbed.records.streams import SCHEMAS, StreamWriter, streams_directory
from testbed.records.tables import STAGE_COLUMNS, RunTables, column, finalise
from testbed.report.conclude import conclude
from testbed.report.fidelity.fidelity import assess
from testbed.report.summary import Summary, origin_seconds, summarise


def write_streams(run: Path, records: list[Message]) -> RunTables:
    """The tables of records that need no recorder process; of a quiet host where they say nothing of it."""
    if not any(isinstance(record, HostHealth) for record in records):
        records = [*records, *quiet_host()]
    for name in SCHEMAS:
        writer = StreamWriter(streams_directory(run), name)
        rows = [record for record in records if KINDS[type(record)].stream == name]
        if rows:
            writer.write(rows)
        writer.close()
    return finalise(run)


def summary_of(tables: RunTables, lab: Lab, run: Path, **options: float) -> Summary:
    about = manifest(lab)
    return summarise(tables, about, assess(tables, about), run, **options)


def test_twice_is_as_good_as_once(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    first = finalise(run)
    second = finalise(run)
    assert first.tasks.to_table().equals(second.tasks.to_table())
    assert pq.read_table(run / "tasks.parquet").equals(second.tasks.to_table())
    assert not list(run.glob("*.partial"))


def test_tables_alone_are_enough(tmp_path: Path) -> None:
    lab = Lab(duration=3)
    tables = write_streams(tmp_path, simulate(lab))
    for path in streams_directory(tmp_path).iterdir():
        path.unlink()
    assert finalise(tmp_path).tasks.to_table().equals(tables.tasks.to_table())


def test_a_directory_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no records"):
        finalise(tmp_path)


def test_tasks_that_never_ended_are_in_flight(tmp_path: Path) -> None:
    lab = Lab(ues=("ue1",), duration=5)
    records = simulate(lab)
    lost = [record for record in records if isinstance(record, TaskRecord)][-3:]
    tables = write_streams(tmp_path, [record for record in records if record not in lost])
    counts = summary_of(tables, lab, tmp_path).tasks
    assert counts.in_flight == 3
    assert counts.failed == 0
    assert counts.arrived == counts.completed + 3
    unfinished = tables.tasks.filter(column(tables.tasks, "status") == "in_flight")
    assert set(column(unfinished, "task")) == {task.task for task in lost}
    assert np.isnan(column(unfinished, "e2e_delay_seconds")).all()


def test_tasks_of_a_ue_that_died_failed_with_its_reason(tmp_path: Path) -> None:
    lab = Lab(ues=("ue1", "ue2"), duration=5)
    records = simulate(lab)
    lost = [record for record in records if isinstance(record, TaskRecord) and record.task >= 5]
    kept = [record for record in records if record not in lost]
    kept.append(Event(1003.0, "ue1", "died", "ue1 was killed by signal 9"))
    tables = write_streams(tmp_path, kept)
    for row in tables.tasks.to_pylist():
        if row["task"] >= 5:
            expected = ("failed", "ue1 was killed by signal 9") if row["ue"] == "ue1" else ("in_flight", "")
            assert (row["status"], row["reason"]) == expected
    assert not assess(tables, manifest(lab)).valid


def test_a_run_whose_first_slots_were_jumped_over_counts_all_its_tasks(tmp_path: Path) -> None:
    """A controller that is held up at the start enters slot 2 first; tasks arrive from the start of slot 0 on."""
    lab = Lab(duration=5)
    records = simulate(lab)
    tables = write_streams(tmp_path / "late", [r for r in records if not isinstance(r, SlotRecord) or r.slot >= 2])
    whole = write_streams(tmp_path / "whole", records)
    assert origin_seconds(tables) == pytest.approx(origin_seconds(whole), abs=1e-9)
    late_counts, whole_counts = summary_of(tables, lab, tmp_path).tasks, summary_of(whole, lab, tmp_path).tasks
    assert late_counts == whole_counts
    assert late_counts.arrived == len(tables.tasks)
    assert assess(tables, manifest(lab)).value("late_decision_ratio") == pytest.approx(2 / 10, rel=0.1)


def test_a_task_that_ended_twice_is_counted_once_and_makes_the_run_invalid(tmp_path: Path) -> None:
    lab = Lab(ues=("ue1",), duration=5)
    records = simulate(lab)
    twice = next(record for record in records if isinstance(record, TaskRecord))
    tables = write_streams(tmp_path, [*records, twice])
    fidelity = assess(tables, manifest(lab))
    assert fidelity.value("tasks_ended_twice") == 1
    assert not fidelity.valid
    assert len(tables.tasks) == sum(isinstance(record, TaskArrived) for record in records)


def test_lost_and_unannounced_tasks_make_the_run_invalid(tmp_path: Path) -> None:
    lab = Lab(ues=("ue1",), duration=5)
    records = [
        record
        for record in simulate(lab)
        if not (isinstance(record, TaskArrived) and record.task in (3, 5))
        and not (isinstance(record, TaskRecord) and record.task == 5)
    ]
    fidelity = assess(write_streams(tmp_path, records), manifest(lab))
    assert fidelity.value("tasks_unannounced") == 1
    assert fidelity.value("tasks_lost") == 1
    assert not fidelity.valid


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    ues=st.integers(1, 4),
    rate=st.floats(0.5, 15),
    wire_bytes=st.integers(1_000, 200_000),
)
def test_stages_sum_to_the_delay(
    tmp_path_factory: pytest.TempPathFactory, seed: int, ues: int, rate: float, wire_bytes: int
) -> None:
    lab = Lab(tuple(f"ue{n}" for n in range(ues)), 4.0, rate, wire_bytes, seed=seed)
    run = tmp_path_factory.mktemp("p")
    tables = write_streams(run, simulate(lab))
    total = sum(column(tables.tasks, STAGE_COLUMNS[stage]) for stage in STAGES)
    np.testing.assert_allclose(total, column(tables.tasks, "e2e_delay_seconds"), rtol=0, atol=1e-9)
    summary = summary_of(tables, lab, run)
    counts = summary.tasks
    assert counts.arrived == counts.completed + counts.failed + counts.in_flight
    if counts.completed:
        assert sum(summary.stages_seconds.values()) == pytest.approx(summary.e2e_delay_seconds.mean, rel=1e-9)
        assert sum(summary.cuts.values()) == pytest.approx(1.0)


def test_the_summary_has_the_documented_names(finished_run: Path, tmp_path: Path) -> None:
    import json

    run = shutil.copytree(finished_run, tmp_path / "run")
    conclude(run)
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary) == [
        "run_id",
        "lab",
        "policy",
        "runtime",
        "seed",
        "duration_seconds",
        "valid",
        "invalid_reasons",
        "tasks",
        "e2e_delay_seconds",
        "stages_seconds",
        "energy_joules_per_slot",
        "cuts",
        "fidelity",
        "run_dir",
        "missing_ratio",
        "censored",
        "backlog",
        "unstable",
        "placement",
        "settled_ratio",
    ]
    assert list(summary["tasks"]) == ["arrived", "completed", "failed", "in_flight", "dropped"]
    assert list(summary["e2e_delay_seconds"]) == ["mean", "p50", "p95", "p99"]
    assert tuple(summary["stages_seconds"]) == STAGES
    assert list(summary["fidelity"]) == [
        "rate_error",
        "step_lateness_p99_seconds",
        "stage_time_error_p50",
        "overrun_ratio",
        "uplink_integral_error",
        "round_trip_error",
    ]
    assert summary["valid"] is not bool(summary["invalid_reasons"])  # the recorder saw this host, which may be busy


def test_figures_come_from_the_records(tmp_path: Path) -> None:
    lab = Lab(duration=10)
    records = simulate(lab)
    summary = summary_of(write_streams(tmp_path, records), lab, tmp_path)
    tasks = [record for record in records if isinstance(record, TaskRecord)]
    delays = [task.result_received_seconds - task.arrival_seconds for task in tasks]
    assert summary.e2e_delay_seconds.mean == pytest.approx(np.mean(delays))
    assert summary.e2e_delay_seconds.p95 == pytest.approx(np.quantile(delays, 0.95))
    assert summary.duration_seconds == 10
    assert summary.cuts["local"] == pytest.approx(sum(task.cut == "local" for task in tasks) / len(tasks))
    # 0.03 J and 0.01 J per task that ended within the slots, over 20 slots and 3 UEs
    ended = sum(task.result_received_seconds < 1010 for task in tasks)
    assert summary.energy_joules_per_slot == pytest.approx(0.04 * ended / 60)


def test_nothing_is_left_out_unless_asked(tmp_path: Path) -> None:
    lab = Lab(duration=10)
    records = simulate(lab)
    tables = write_streams(tmp_path, records)
    arrivals = [record.arrival_seconds for record in records if isinstance(record, TaskArrived)]
    assert summary_of(tables, lab, tmp_path).tasks.arrived == len(arrivals)
    late = summary_of(tables, lab, tmp_path, warm_up_seconds=4.0).tasks
    assert late.arrived == sum(arrival >= 1004.0 for arrival in arrivals) == late.completed


def test_a_run_without_any_task_has_no_delay(tmp_path: Path) -> None:
    write_streams(tmp_path, [])
    write_manifest(manifest(Lab()), tmp_path)
    summary = conclude(tmp_path)
    assert summary.tasks.arrived == 0
    assert summary.e2e_delay_seconds.mean is None
    assert summary.fidelity["rate_error"] == "not_measured"

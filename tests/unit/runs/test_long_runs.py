"""Runs of hours: their report is made by parts, the same as at once, and takes little more memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from synthetic_run import Lab, manifest, simulate
from test_finalise import write_streams

from testbed.protocol.records import TaskArrived, TaskRecord
from testbed.records import stored_table, streams
from testbed.records import tables as finalise
from testbed.records.manifest import write_manifest
from testbed.records.streams import MERGED_BATCHES, Stream, StreamWriter, read_stream, stream_parts, streams_directory
from testbed.records.tables import RunTables
from testbed.report import figures
from testbed.report.conclude import conclude

#: What a task may take of memory, with the steps of its wire and the samples of its host: before parts it was 5.4 kB.
MOST_BYTES_A_TASK = 2000


def test_a_stream_of_many_small_batches_is_read_into_few(tmp_path: Path) -> None:
    writer = StreamWriter(tmp_path, "arrivals")
    rows = [TaskArrived("ue1", task, float(task)) for task in range(3 * MERGED_BATCHES + 7)]
    for row in rows:
        writer.write([row])
    writer.close()
    table = read_stream(tmp_path, "arrivals")
    assert table.to_pylist() == [
        {"ue": row.ue, "task": row.task, "arrival_seconds": row.arrival_seconds} for row in rows
    ]
    assert all(chunked.num_chunks <= 4 for chunked in table.columns)


@pytest.mark.thorough
@pytest.mark.parametrize("draw", [figures.over_time, figures.link_rates])
def test_a_page_stays_small_however_long_the_run_was(
    tmp_path: Path, draw: Callable[[RunTables, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "DRAWN_POINTS", 10)
    minute, longer = (write_streams(tmp_path / str(one), simulate(Lab(duration=one))) for one in (60, 240))
    assert len(draw(longer, "ue1")) < 1.5 * len(draw(minute, "ue1")), "as text it would be three times as long"


def lengthened(source: Path, into: Path, times: int) -> Path:
    """The run whose streams are those of another, time after time: later, with new numbers of tasks and slots."""
    about = Lab(duration=60)
    write_manifest(manifest(about), into)
    steps = {"task": 1000, "slot": 120, "decision_sequence": 120}
    streams_directory(into).mkdir()
    for name, schema in streams.SCHEMAS.items():
        table = read_stream(streams_directory(source), name)
        with pa.ipc.new_stream(streams_directory(into) / f"{name}.arrows", schema) as writer:
            for number in range(times):
                shifted = table
                for index, field in enumerate(schema):
                    step = steps.get(field.name, 70.0 if field.name in TIMES else None)
                    if step is not None:
                        shifted = shifted.set_column(index, field, pc.add(table[field.name], number * step))
                writer.write_table(shifted, max_chunksize=100)
    return into


TIMES = {*finalise.STAMPS, "start_seconds", "planned_seconds", "applied_seconds", "monotonic_seconds"}


def peak_bytes(run: Path) -> int:
    """The largest memory of a process that makes this run's report."""
    made = "import sys, pathlib, testbed.report.conclude as c; c.conclude(pathlib.Path(sys.argv[1]))"
    with subprocess.Popen([sys.executable, "-c", made, str(run)]) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.thorough
def test_a_longer_runs_report_takes_little_more_memory(tmp_path: Path) -> None:
    write_streams(tmp_path / "minute", simulate(Lab(duration=60)))
    short, long = (lengthened(tmp_path / "minute", tmp_path / str(times), times) for times in (10, 40))
    grown = peak_bytes(long) - peak_bytes(short)
    tasks = len(finalise.read_tables(long).tasks) - len(finalise.read_tables(short).tasks)
    assert tasks > 20_000
    assert grown < MOST_BYTES_A_TASK * tasks


@pytest.mark.thorough
def test_a_report_by_parts_is_the_same_as_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_streams(tmp_path / "minute", simulate(Lab(duration=20)))
    once, parts = (lengthened(tmp_path / "minute", tmp_path / name, 2) for name in ("once", "parts"))
    conclude(once)
    for module in (streams, finalise, stored_table):
        monkeypatch.setattr(module, "PART_ROWS", 97)
    conclude(parts)
    for path in once.glob("*.parquet"):
        left, right = (finalise.open_table(folder / path.name) for folder in (once, parts))
        assert left.schema.equals(right.schema, check_metadata=True)
        for field in left.schema:
            if pa.types.is_floating(field.type):  # NaN is not equal to itself
                np.testing.assert_array_equal(*(finalise.column(table, field.name) for table in (left, right)))
                assert left[field.name].null_count == right[field.name].null_count
            else:
                assert left[field.name].equals(right[field.name])
    for name in ("fidelity.json", "summary.json", "report.html"):
        assert (once / name).read_text().replace(str(once), "") == (parts / name).read_text().replace(str(parts), "")


def test_ends_and_arrivals_are_joined_as_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finalise, "PART_ROWS", 5)
    rng = np.random.default_rng(4)
    made = [record for record in simulate(Lab(duration=20)) if isinstance(record, TaskArrived | TaskRecord)]
    chosen = [made[index] for index in rng.integers(0, len(made), len(made))]  # some twice, some not at all
    tables = write_streams(tmp_path, chosen)
    ends: dict[tuple[str, int], list[TaskRecord]] = {}
    arrivals: dict[tuple[str, int], TaskArrived] = {}
    for record in chosen:
        if isinstance(record, TaskRecord):
            ends.setdefault((record.ue, record.task), []).append(record)
        else:
            arrivals.setdefault((record.ue, record.task), record)
    expected = sorted(
        ((ends[key][0] if key in ends else arrivals[key]).arrival_seconds, *key) for key in {*ends, *arrivals}
    )
    rows = tables.tasks.to_pylist()
    assert [(row["arrival_seconds"], row["ue"], row["task"]) for row in rows] == expected
    for row in rows:
        key = (row["ue"], row["task"])
        assert row["records"] == len(ends.get(key, []))
        assert row["announced"] == (key in arrivals)
        assert row["status"] == ("completed" if key in ends else "in_flight")
        assert row["wire_bytes"] == (ends[key][0].wire_bytes if key in ends else None)


def test_rows_of_a_stream_are_taken_from_all_of_its_files(tmp_path: Path) -> None:
    for begin in (0, 10, 20):  # the recorder was started again, twice
        writer = StreamWriter(tmp_path, "arrivals")
        for task in range(begin, begin + 10, 5):
            writer.write([TaskArrived("ue1", one, float(one)) for one in range(task, task + 5)])
        writer.close()
    with stream_parts(tmp_path, "arrivals")[1].open("ab") as file:
        file.write(b"half a batch")
    stream = Stream(tmp_path, "arrivals")
    assert len(stream) == 30
    wanted = [29, 3, -1, 3, 14, 0]
    assert stream.take(np.array(wanted))["task"].to_pylist() == [None if row < 0 else row for row in wanted]
    assert stream.take(np.array([-1, -1]))["ue"].to_pylist() == [None, None]


def test_a_stored_table_filters_what_was_filtered(tmp_path: Path) -> None:
    tables = write_streams(tmp_path, simulate(Lab(duration=20)))
    whole = tables.tasks.to_table()
    first = (finalise.column(whole, "ue") == "ue2") & (finalise.column(whole, "cut") == "local")
    once = tables.tasks.filter(finalise.column(tables.tasks, "ue") == "ue2")
    twice = once.filter(finalise.column(once, "cut") == "local")
    assert len(twice) == first.sum() > 3
    assert twice.to_table().equals(whole.filter(pa.array(first)))
    assert pa.concat_tables(twice.parts(["task", "ue"])).equals(twice.select(["task", "ue"]))
    with pytest.raises(KeyError):
        tables.tasks["nothing"]

import io
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from synthetic_run import ORIGIN, Lab, recording, simulate

from controller.service.protocol import Message
from testbed.protocol.records import SlotRecord, TaskArrived, TaskRecord
from testbed.report.live import LiveTable


def shown(table: LiveTable) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(table.render())
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def until(table: LiveTable, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < deadline
        table.update()
        time.sleep(0.05)


def as_of_now(records: list[Message]) -> list[Message]:
    """The same records, as if the last of them had just happened."""
    ends = [record.result_received_seconds for record in records if isinstance(record, TaskRecord)]
    shift = time.monotonic() - max(ends)
    moved = []
    for record in records:
        stamps = {name: getattr(record, name) + shift for name in record.__struct_fields__ if name in STAMPED}
        moved.append(msgspec.structs.replace(record, **stamps))
    return moved


STAMPED = {"arrival_seconds", "result_received_seconds", "start_seconds"}


@pytest.mark.parametrize("terminal", [True, False])
def test_it_shows_what_the_recorder_republishes(tmp_path: Path, terminal: bool) -> None:
    lab = Lab(ues=("ue1", "ue2"), duration=5)
    kinds = (TaskArrived, TaskRecord, SlotRecord)
    records = as_of_now([record for record in simulate(lab) if isinstance(record, kinds)])
    failed = next(record for record in records if isinstance(record, TaskRecord) and record.ue == "ue2")
    records[records.index(failed)] = msgspec.structs.replace(failed, status="failed")
    printed = io.StringIO()
    console = Console(file=printed, force_terminal=terminal, width=140)
    with recording(tmp_path) as recorder:
        with LiveTable(str(recorder.lab_directory), 5.0, policy="neurosurgeon", console=console) as table:

            def subscribed() -> bool:  # a subscriber joins some time after it connects
                recorder.push([TaskArrived("ue3", 0, ORIGIN)])  # of the recorder's lab, but in no record
                return "ue3" in shown(table)

            until(table, subscribed)
            recorder.push(records)
            until(table, lambda: "slot 9" in table.line())
            text = shown(table)
        recorder.finish()
    tasks = [record for record in records if isinstance(record, TaskRecord) and record.ue == "ue1"]
    row = next(line for line in text.splitlines() if line.startswith("ue1")).split()
    assert row[1:5] == [str(len(tasks)), str(len(tasks)), "0", "0"]
    assert "Mbit/s" in row
    assert "neurosurgeon" in text
    assert next(line for line in text.splitlines() if line.startswith("ue2")).split()[3] == "1"
    assert f"{sum(isinstance(record, TaskRecord) for record in records) - 1} done, 1 failed" in table.line()
    assert ("\x1b" in printed.getvalue()) == terminal


def test_delays_older_than_the_window_are_forgotten(tmp_path: Path) -> None:
    with LiveTable(str(tmp_path), None, console=Console(file=io.StringIO())) as table:
        records = as_of_now([r for r in simulate(Lab(ues=("ue1",), duration=5)) if isinstance(r, TaskRecord)])
        old = [msgspec.structs.replace(r, result_received_seconds=r.result_received_seconds - 60) for r in records]
        for record in old:
            table._take(record)
        assert table.line().endswith("mean E2E of the last 10 s -")
        table._take(records[-1])
        assert table.line().endswith(" ms")

"""Runs of hours: what their report takes grows with the records, and no faster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_run import Lab, simulate
from test_finalise import write_streams

from testbed.protocol.messages import TaskArrived
from testbed.records.streams import MERGED_BATCHES, StreamWriter, read_stream
from testbed.records.tables import RunTables
from testbed.report import figures


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

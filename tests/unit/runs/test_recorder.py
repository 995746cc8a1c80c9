import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq
from synthetic_run import Lab, manifest, recording, simulate

from controller.service.protocol import Message, encode
from testbed.protocol.configs import RecorderConfig, write_config
from testbed.protocol.records import Event, TaskArrived, TaskRecord
from testbed.protocol.sockets import live_endpoint, records_endpoint
from testbed.records.manifest import write_manifest
from testbed.records.streams import SCHEMAS, StreamWriter, read_stream, streams_directory
from testbed.records.tables import column, finalise
from testbed.report.conclude import conclude


def of(kind: type, records: list[Message]) -> list[Message]:
    return [record for record in records if isinstance(record, kind)]


def test_every_record_reaches_its_table(tmp_path: Path) -> None:
    records = simulate(Lab(duration=5))
    with recording(tmp_path) as recorder:
        recorder.push(records)
        recorder.wait_for("tasks")
        recorder.finish()
        assert recorder.process.returncode == 0
    tables = finalise(recorder.run)
    assert len(tables.tasks) == len(of(TaskRecord, records)) == len(of(TaskArrived, records))
    assert len(tables.slots) == 3 * 10
    written = {(task.ue, task.task): task for task in of(TaskRecord, records)}
    for row in tables.tasks.to_pylist():
        sent = written[row["ue"], row["task"]]
        assert {name: row[name] for name in SCHEMAS["tasks"].names} == {
            name: getattr(sent, name) for name in SCHEMAS["tasks"].names
        }
    assert dict(tables.slots.to_pylist()[-1]["policy_state"]) == {"queue": 9.0}


def test_frames_are_republished_to_whoever_watches(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder, zmq.Context() as context, context.socket(zmq.SUB) as live:
        live.setsockopt(zmq.SUBSCRIBE, b"")
        live.connect(live_endpoint(str(recorder.lab_directory)))
        record = TaskArrived("ue1", 7, 1.0)
        for _ in range(100):  # a subscriber joins some time after it connects
            recorder.push([record])
            if live.poll(100):
                break
        assert live.recv(zmq.NOBLOCK) == encode(record)
        recorder.finish()


def test_malformed_records_are_counted_and_dropped(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        socket = recorder.socket("ue1")
        socket.send(b"not msgpack")
        socket.send(encode(TaskArrived("ue1", 1, 1.0)).replace(b"ue1", b"\xff\xff\xff"))
        socket.send(encode(TaskArrived("ue3", 1, 1.0)))  # another UE's
        recorder.socket("ue2").send_multipart([encode(TaskArrived("ue2", 0, 1.0)), b"second frame"])
        recorder.push([TaskArrived("ue1", 2, 1.0)])
        recorder.wait_for("arrivals")
        log = recorder.finish()
    assert "4 malformed records" in log
    health = read_stream(streams_directory(recorder.run), "health").to_pylist()
    assert health[-1]["malformed_records"] == 4
    assert column(finalise(recorder.run).tasks, "task").tolist() == [2]


@pytest.mark.thorough
def test_kill_9_loses_at_most_what_was_not_flushed(tmp_path: Path) -> None:
    records = simulate(Lab(duration=5))
    with recording(tmp_path) as recorder:
        recorder.push(records)
        recorder.wait_for("tasks", rows=len(of(TaskRecord, records)))
        recorder.process.kill()
        recorder.process.wait()
    write_manifest(manifest(Lab(duration=5), ended=False), recorder.run)
    summary = conclude(recorder.run)
    assert summary.tasks.completed == len(of(TaskRecord, records))
    assert not summary.valid
    assert any("ended_early" in reason for reason in summary.invalid_reasons)
    assert (recorder.run / "report.html").exists()


@pytest.mark.thorough
def test_a_restarted_recorder_continues_behind_half_a_batch(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        recorder.push([TaskArrived("ue1", 0, 1.0)])
        recorder.wait_for("arrivals")
        recorder.process.kill()
        recorder.process.wait()
    with (recorder.run / "streams" / "arrivals.arrows").open("ab") as file:
        file.write(b"\xff\xff\xff\xff\x80\x00\x00\x00 half a batch")
    with recording(tmp_path) as recorder:
        recorder.push([TaskArrived("ue1", 1, 2.0)])
        recorder.wait_for("arrivals", rows=2)
        recorder.finish()
    assert column(finalise(recorder.run).tasks, "task").tolist() == [0, 1]


def test_a_stream_cut_anywhere_gives_its_whole_batches(tmp_path: Path) -> None:
    writer = StreamWriter(tmp_path, "arrivals")
    sizes = [writer.path.stat().st_size]
    for batch in range(3):
        writer.write([TaskArrived("ue1", 10 * batch + row, 1.0) for row in range(10)])
        sizes.append(writer.path.stat().st_size)
    writer.close()
    whole = writer.path.read_bytes()
    for length in range(0, len(whole) + 1, 7):
        writer.path.write_bytes(whole[:length])
        batches = sum(length >= size for size in sizes[1:])
        assert len(read_stream(tmp_path, "arrivals")) == 10 * batches


@contextmanager
def on_a_small_disk(directory: Path, *, patience_seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A recorder whose files end at 4096 bytes, and 2000 records for it.

    A file size limit makes write() fail as a full disk does (EFBIG, once SIGXFSZ is ignored), in the middle of a batch.
    """
    config = directory / "recorder.json"
    (directory / "lab" / "ipc").mkdir(parents=True)
    write_config(
        RecorderConfig("x", "run-1", "recorder", str(directory / "lab"), str(directory / "run"), ues=("ue1",)), config
    )

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

    main = "import sys; from testbed.programs.recorder import recorder; recorder.FULL_SECONDS = float(sys.argv[2]); "
    process = subprocess.Popen(
        [sys.executable, "-c", main + "recorder.main(sys.argv[1])", str(config), str(patience_seconds)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=small_files,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(records_endpoint(directory / "lab", "ue1"))
            socket.send(encode(TaskArrived("ue1", 0, 1.0)))
            for number in range(2000):
                socket.send(encode(Event(float(number), "ue1", "test", "x" * 20)))
            yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.thorough
def test_a_full_disk_ends_the_recorder_with_a_clear_line(tmp_path: Path) -> None:
    with on_a_small_disk(tmp_path, patience_seconds=0.5) as process:
        _, log = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "cannot be written" in log
    assert "testbed report" in log
    assert "Traceback" not in log
    assert len(read_stream(tmp_path / "run" / "streams", "arrivals")) == 1, "streams that fit are written"


def test_a_disk_that_is_full_for_a_moment_costs_nothing(tmp_path: Path) -> None:
    with on_a_small_disk(tmp_path, patience_seconds=20.0) as process:
        assert process.stderr is not None
        while "records wait" not in (line := process.stderr.readline()):
            assert line, "the recorder ended"
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0
    events = read_stream(tmp_path / "run" / "streams", "events")
    assert column(events, "monotonic_seconds").tolist() == list(range(2000))


def test_a_record_that_no_column_holds_is_counted_and_the_others_are_kept(tmp_path: Path) -> None:
    with recording(tmp_path) as recorder:
        numbers = [0, 1 << 63, 1, (1 << 64) - 1, 2]
        recorder.push([TaskArrived("ue1", number, 1.0) for number in numbers])
        recorder.socket("ue1").send(b"\x91" * 50_000 + b"\x90")  # nested too deep
        recorder.wait_for("arrivals", rows=3)
        log = recorder.finish()
    assert recorder.process.returncode == 0
    assert column(read_stream(streams_directory(recorder.run), "arrivals"), "task").tolist() == [0, 1, 2]
    assert "3 malformed records" in log
    assert str(1 << 63) in log
    health = read_stream(streams_directory(recorder.run), "health").to_pylist()
    assert health[-1]["malformed_records"] == 3


@pytest.mark.parametrize("stream", sorted(SCHEMAS))
def test_a_run_without_records_has_empty_tables(tmp_path: Path, stream: str) -> None:
    StreamWriter(tmp_path, stream).close()
    table = read_stream(tmp_path, stream)
    assert len(table) == 0
    assert table.schema == SCHEMAS[stream]
    assert np.all([len(table[name]) == 0 for name in table.schema.names])

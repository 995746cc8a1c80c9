"""Nothing ends in silence: what a thread of a program raises is recorded and ends it, or fails the task that met it."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import torch
import zmq

from controller.contract import Arrivals, Cut, Decision, UeDecision, UeName
from controller.service import protocol
from testbed.inference import tensors
from testbed.inference.layer_times import LayerTimes, profile_of_device
from testbed.inference.partition import load_split_model
from testbed.node.backend import CpuBackend
from testbed.node.control import DecisionBox
from testbed.node.ledger import Task
from testbed.node.pacing import DeadlineThread
from testbed.node.task_frames import Result
from testbed.node.threads import AgentThread
from testbed.node.transport import ReceivedTask
from testbed.programs.edge.edge_compute import ComputeThread
from testbed.programs.ue.head_device import HeadDevice
from testbed.programs.ue.ue_stage import StageThread
from testbed.protocol.configs import UeConfig
from testbed.protocol.records import Event, decode_record
from testbed.protocol.sockets import make_folder, records_endpoint

MODEL = "tests.emulation.labs.tiny_model:make"

PROGRAM = """
import signal, sys, threading, time
from testbed.node.last_words import accounted
from testbed.node.pacing import DeadlineThread

def broken(*_):
    {raises}

stopping = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopping.set())
with accounted("ue1", sys.argv[1]):
    {start}
    stopping.wait(20)
    print("flushed", stopping.is_set())
"""
STARTS = {
    "a thread": "threading.Thread(target=broken, name='trainer', daemon=True).start()",
    "a deadline's callback": "d = DeadlineThread('deadlines'); d.start(); d.submit(0.0, broken)",
}


def ended(directory: Path, source: str) -> tuple[subprocess.CompletedProcess[str], list[Event]]:
    """A program with a recorder's socket to speak to: how it ended, and the events that it left."""
    (directory / "ipc").mkdir()
    with zmq.Context() as context, context.socket(zmq.PULL) as recorder:
        make_folder(records_endpoint(directory, "ue1"))
        recorder.bind(records_endpoint(directory, "ue1"))
        process = subprocess.run(
            [sys.executable, "-c", source, str(directory)], capture_output=True, text=True, check=False, timeout=30
        )
        events = []
        while recorder.poll(200):
            events.append(decode_record(recorder.recv()))
    return process, [event for event in events if isinstance(event, Event)]


@pytest.mark.parametrize("start", STARTS)
def test_a_thread_that_raises_is_recorded_and_ends_its_program(tmp_path: Path, start: str) -> None:
    process, events = ended(tmp_path, PROGRAM.format(raises="raise KeyError('quint8')", start=STARTS[start]))
    assert process.returncode == 1
    assert process.stdout == "flushed True\n", "it ends in good order"
    assert "KeyError: 'quint8'" in process.stderr
    assert [(event.node, event.kind) for event in events] == [("ue1", "died")]
    assert "ended: KeyError: 'quint8'" in events[0].text


def test_a_thread_that_exits_is_no_better(tmp_path: Path) -> None:
    process, events = ended(tmp_path, PROGRAM.format(raises="sys.exit(0)", start=STARTS["a thread"]))
    assert process.returncode == 1
    assert "thread 'trainer' ended: SystemExit" in events[0].text


def test_what_the_main_thread_raises_is_recorded(tmp_path: Path) -> None:
    process, events = ended(tmp_path, PROGRAM.format(raises="raise OSError('no such wire')", start="broken()"))
    assert process.returncode == 1
    assert "OSError: no such wire" in process.stderr
    assert [(event.kind, event.text) for event in events] == [("died", "ended: OSError: no such wire")]


def test_a_program_that_ends_well_records_nothing(tmp_path: Path) -> None:
    process, events = ended(tmp_path, PROGRAM.format(raises="pass", start="stopping.set()"))
    assert (process.returncode, events) == (0, [])


# ------------------------------------------------------------------------------------------------------------- tasks


@pytest.fixture(scope="module")
def backend() -> CpuBackend:
    torch.set_num_threads(1)
    split = load_split_model(MODEL, 7)
    times = {node.name: 1e-3 for node in split.graph.nodes[1:]}
    return CpuBackend(MODEL, 7, profile_of_device(split, LayerTimes("d", "s", times), "x"))


def decided(cut: Cut) -> DecisionBox:
    box = DecisionBox()
    own = UeDecision(UeName("ue"), cut, 1.0, 1e6, 1e6, 0.5)
    box.put(protocol.Apply(Decision(0, 0, 0.0, (own,))))
    return box


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def raising(error: Exception) -> Callable[..., Any]:
    def head(*_: object) -> Any:
        raise error

    return head


BROKEN_HEADS = {
    "KeyError: torch.quint8": raising(KeyError(torch.quint8)),
    "RuntimeError: mat1 and mat2": raising(RuntimeError("mat1 and mat2")),
    "MemoryError": raising(MemoryError()),
    "AttributeError: 'Odd' object": raising(AttributeError("'Odd' object")),
    "answer: ValueError: the answer has 3 bytes": lambda *_: (b"", [memoryview(b"odd")]),
    "answer: ValueError: the answer has 0 bytes": lambda *_: (b"", [memoryview(b"")]),
    "IndexError": lambda *_: (b"", []),
}


@pytest.mark.parametrize("reason", BROKEN_HEADS)
def test_a_head_that_raises_fails_its_task_and_the_device_goes_on(
    backend: CpuBackend, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = CpuBackend.head
    broken = BROKEN_HEADS[reason]
    monkeypatch.setattr(
        CpuBackend, "head", lambda self, number, *rest: (whole if number == 2 else broken)(self, number, *rest)
    )
    fields: dict[str, Any] = dict.fromkeys(UeConfig.__struct_fields__)
    fields.update(
        node="ue", seed=7, ue_index=0, task_timeout_seconds=60.0, input_codec="uint8", boundary_codec="fp32",
        arrivals=Arrivals("poisson", (1.0,)),
        transmit_watts=0.3, compute_watts=1.0, max_speed=1.0,
    )  # fmt: skip
    deadlines = DeadlineThread("deadlines")
    config = cast("UeConfig", SimpleNamespace(**fields))
    ended: list[Task] = []
    device = HeadDevice(config, backend, deadlines, ended.append)
    stage = StageThread(config, backend.split.model.signature, decided(()), device, ended.append)
    start = time.monotonic()
    schedule: Any = SimpleNamespace(
        arrival_seconds=lambda task: start + 0.01 * task if task < 4 else None,
        end_seconds=math.inf,
        slot_at=lambda _: 0,
        boundary_seconds=lambda _: 0.0,
    )
    deadlines.start()
    stage.start()
    stage.schedule(schedule, 0)
    try:
        until(lambda: len(ended) == 4)
        assert _alive(stage)
        assert _alive(deadlines)
    finally:
        stage.stop()
        deadlines.stop()
    assert [task.number for task in ended] == [0, 1, 2, 3]
    assert all(reason in task.failure for task in ended if task.number != 2)
    good = ended[2]
    assert (good.failure, good.answer >= 0) == ("", True)


@pytest.mark.parametrize("where", ["decoded", "run", "answered"])
def test_a_tail_that_raises_fails_its_task_and_the_edge_goes_on(
    backend: CpuBackend, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, buffers = backend.head(0, ("input",), "fp32", backend.split.model.probe)
    whole = CpuBackend.tail

    def tail(self: CpuBackend, of: tensors.FrameHeader, with_buffers: Any) -> Any:
        made = whole(self, of, with_buffers)
        if of.task == 1:
            return made
        if where == "decoded":
            raise KeyError("torch.complex64")
        monkeypatch.setattr(made, "step" if where == "run" else "logits", raising(TypeError("complex values")))
        return made

    monkeypatch.setattr(CpuBackend, "tail", tail)
    results: list[Result] = []
    deadlines = DeadlineThread("deadlines")
    compute = ComputeThread(
        {"ue": backend}, 1.0, decided(("input",)), deadlines, lambda _ue, result, _logits: results.append(result)
    )
    deadlines.start()
    compute.start()
    try:
        for number in range(3):
            decoded = tensors.decode_header(header)
            one = msgspec.structs.replace(decoded, task=number)
            views = [memoryview(buffer) for buffer in buffers]
            compute.add("ue", ReceivedTask(number, one, ("input",), views, time.monotonic()))
        until(lambda: len(results) == 3)
        assert _alive(compute)
        assert _alive(deadlines)
    finally:
        compute.stop()
        deadlines.stop()
    assert [result.task for result in results] == [0, 1, 2]
    error = "KeyError: 'torch.complex64'" if where == "decoded" else "TypeError: complex values"
    assert [result.reason for result in results] == [f"tail: {error}", "", f"tail: {error}"]


def _alive(thread: AgentThread) -> bool:
    return thread._thread.is_alive()

"""The edge under overload: it starts no tail that nobody waits for, its queue has an end, and UEs are told of both."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import msgspec
import pytest
import torch

from controller.contract import Decision, UeDecision, UeName
from controller.service import protocol
from testbed.inference import tensors
from testbed.inference.layer_times import LayerTimes, profile_of_device
from testbed.inference.partition import load_split_model
from testbed.node import task_frames
from testbed.node.backend import CpuBackend
from testbed.node.control import DecisionBox
from testbed.node.pacing import DeadlineThread
from testbed.node.task_frames import Result
from testbed.node.transport import Assembler, ReceivedTask, TaskStream
from testbed.programs.edge import edge_compute
from testbed.programs.edge.edge_compute import ComputeThread

MODEL = "tests.emulation.labs.tiny_model:make"
CUT = ("input",)


@pytest.fixture(scope="module")
def backend() -> CpuBackend:
    torch.set_num_threads(1)
    split = load_split_model(MODEL, 7)
    return CpuBackend(
        MODEL, 7, profile_of_device(split, LayerTimes("d", "s", {n.name: 2e-3 for n in split.graph.nodes[1:]}), "x")
    )


class Edge:
    """The threads that compute, for two UEs with half of it each."""

    def __init__(self, backend: CpuBackend) -> None:
        self.backend = backend
        self.results: dict[str, list[Result]] = {"ue1": [], "ue2": []}
        decisions = DecisionBox()
        names = (UeName("ue1"), UeName("ue2"))
        decisions.put(
            protocol.Apply(Decision(0, 0, 0.0, tuple(UeDecision(ue, CUT, 1.0, 1e6, 1e6, 0.5) for ue in names)))
        )
        self.deadlines = DeadlineThread("deadlines")
        self.compute = ComputeThread(
            dict.fromkeys(names, backend),
            1.0,
            decisions,
            self.deadlines,
            lambda ue, one, _: self.results[ue].append(one),
        )
        header, self.buffers = backend.head(0, CUT, "fp32", backend.split.model.probe)
        self.header = tensors.decode_header(header)

    def add(self, ue: str, number: int, now: float, expires_seconds: float) -> None:
        header = msgspec.structs.replace(self.header, task=number)
        task = ReceivedTask(number, header, CUT, [memoryview(b) for b in self.buffers], now, "", expires_seconds)
        self.compute.add(ue, task)

    def until(self, ue: str, results: int) -> None:
        end = time.monotonic() + 10.0
        while len(self.results[ue]) < results:
            assert time.monotonic() < end, len(self.results[ue])
            time.sleep(0.005)


@pytest.fixture
def edge(backend: CpuBackend) -> Iterator[Edge]:
    made = Edge(backend)
    yield made
    for thread in (made.compute, made.deadlines):
        if thread.tid:
            thread.stop()


def test_tails_that_nobody_waits_for_are_not_started(edge: Edge) -> None:
    now = time.monotonic()
    for number in range(40):
        edge.add("ue1", number, now, now + 0.3)
        edge.add("ue2", number, now, math.inf)
    edge.deadlines.start()
    edge.compute.start()
    edge.until("ue1", 40)
    results = edge.results["ue1"]
    done = [one for one in results if not one.reason]
    dropped = [one for one in results if one.reason]
    target = done[0].tail_target_seconds
    assert [one.task for one in results] == list(range(40))
    assert len(done) == pytest.approx(0.3 / target, abs=2)
    assert all(one.tail_start_seconds + one.tail_target_seconds <= now + 0.3 for one in done)
    assert {one.reason for one in dropped} == {edge_compute.TOO_LATE}
    assert all(math.isnan(one.tail_start_seconds) for one in dropped)
    assert edge.compute.dropped == len(dropped) > 0
    edge.until("ue2", 40)
    assert not any(one.reason for one in edge.results["ue2"]), "who waits is served"


def test_after_an_overload_tasks_are_on_time_again(edge: Edge) -> None:
    """Behind a backlog that has expired, a new task is the next one."""
    edge.deadlines.start()
    edge.compute.start()
    now = time.monotonic()
    for number in range(200):
        edge.add("ue1", number, now - 60.0, now - 1.0)
    edge.add("ue1", 200, now, now + 5.0)
    edge.until("ue1", 201)
    last = edge.results["ue1"][-1]
    assert (last.task, last.reason) == (200, "")
    assert last.tail_start_seconds == pytest.approx(now, abs=0.5)


def test_the_queue_of_a_ue_has_an_end(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    size = edge.header.payload_bytes
    monkeypatch.setattr(edge_compute, "MOST_WAITING_BYTES", 2 * 10 * size)
    now = time.monotonic()
    assert not edge.compute.full("ue1", 1000 * size), "an empty queue has room for any"
    for number in range(10):
        assert not edge.compute.full("ue1", size)
        edge.add("ue1", number, now, math.inf)
    assert edge.compute.full("ue1", size)
    assert not edge.compute.full("ue2", size), "nor does one UE fill another's"
    edge.deadlines.start()
    edge.compute.start()
    edge.until("ue1", 10)
    assert not edge.compute.full("ue1", size)


def test_the_first_chunk_says_until_when_the_answer_is_wanted(edge: Edge) -> None:
    header, buffers = edge.backend.head(3, CUT, "fp32", edge.backend.split.model.probe)
    stream = TaskStream(3, header, buffers, expires_seconds=61.5)
    assembler = Assembler(lambda _: None)
    first = [memoryview(frame) for frame in stream.next_chunk(1448)]
    opening = task_frames.decode_chunk(first[0])
    assert isinstance(opening, task_frames.Opening)
    assert (opening.task, opening.offset, opening.expires_seconds) == (3, 0, 61.5)
    assembler.feed(first, 1.0)
    done = None
    while not stream.finished:
        frames = [memoryview(frame) for frame in stream.next_chunk(1448)]
        assert type(task_frames.decode_chunk(frames[0])) is task_frames.Chunk, "later chunks do not pay for it"
        done = assembler.feed(frames, 2.0)[1]
    assert done is not None
    assert done.expires_seconds == 61.5


def header_of(cut: tuple[str, ...], tensor: torch.Tensor) -> tuple[tensors.TensorHeader, ...]:
    return tensors.decode_header(tensors.pack(0, cut, [tensor], "fp32")[0]).tensors


def test_tensors_of_another_shape_or_type_than_the_cuts_are_known_before_they_come(backend: CpuBackend) -> None:
    image, value = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, 8, 16, 16)
    backend.check_tensors(("input",), header_of(("input",), image))
    backend.check_tensors(("first",), header_of(("first",), value))
    backend.check_tensors(("first",), header_of(("first",), value.to(memory_format=torch.channels_last)))
    for cut, wrong in (
        (("input",), image.float()),
        (("input",), image.reshape(1, 3, 1024)),
        (("first",), value.double()),
        (("first",), value.reshape(1, 16, 8, 16)),
        (("first",), value.permute(0, 2, 3, 1)),
        (("first",), value[:, :7]),
    ):
        with pytest.raises(ValueError, match=f"{cut[0]} is "):
            backend.check_tensors(cut, header_of(cut, wrong))

"""Values go before parameters within one window of credit; what was sent comes out whole, over breaks too."""

from __future__ import annotations

import math
import time

import pytest
import torch

from testbed.inference import tensors
from testbed.inference.tensors import MalformedFrame
from testbed.inference.weights import Arriving, contents_of
from testbed.mechanisms.uploading.upload_frames import Start, ValueStart
from testbed.mechanisms.uploading.upload_sender import PrioritySender, Sink, StreamReader, Transfer, ValueSink
from testbed.node import task_frames

Frames = list[bytes | memoryview]


class Pipe:
    """A wire that a test empties message by message."""

    def __init__(self, bits_per_second: float = 100e6) -> None:
        self.messages: list[Frames] = []
        self.streams: list[int] = []  # of all messages, in order
        self.open = True
        self.sender = PrioritySender(0.0, self._take)
        self.sender.credit.rate.command(bits_per_second)
        self.sinks: dict[str, Sink] = {}
        self.reader = StreamReader(self._open)
        self.layers: dict[str, torch.Tensor] = {}
        self.values: dict[str, torch.Tensor] = {}

    def _take(self, frames: Frames) -> bool:
        if self.open:
            self.streams.append(task_frames.decode_chunk(bytes(frames[0])).task)
            self.messages.append([bytes(frame) for frame in frames])
        return self.open

    def _open(self, start: Start) -> Sink | None:
        if isinstance(start, ValueStart):
            self.sinks[start.name] = ValueSink(start, (300_000,))
        elif start.start == 0:
            self.sinks[start.node] = Arriving(contents_of({"weight": self.layers[start.node]})[0])
        return self.sinks[start.name if isinstance(start, ValueStart) else start.node]

    def layer(self, name: str, words: int) -> Transfer:
        self.layers[name] = torch.randn(words)
        _, parts = contents_of({"weight": self.layers[name]})
        return Transfer(0, "parameters", name, parts, time.monotonic())

    def value(self, name: str) -> tuple[Transfer, ValueStart]:
        self.values[name] = torch.randn(300_000)
        header, buffers = tensors.pack(0, (name,), [self.values[name]], "fp32")
        return Transfer(0, "feature", name, buffers, time.monotonic()), ValueStart(0, name, header, 0.0)

    def deliver(self) -> Transfer | None:
        """The oldest message arrives and is acknowledged."""
        frames = self.messages.pop(0)
        chunk = task_frames.decode_chunk(frames[0])
        ack, _ = self.reader.feed(chunk, [memoryview(frame) for frame in frames[1:]], time.monotonic())
        done = self.sender.acknowledged(ack)
        self.sender.pump()
        return done


def test_a_value_goes_before_all_parameters_that_are_not_under_way() -> None:
    pipe = Pipe()
    pipe.sender.add_model(pipe.layer("wide", 1_000_000), 0)
    pipe.sender.pump()
    for _ in range(5):
        pipe.deliver()
    ahead = sum(task_frames.message_layer2_bytes(frames) for frames in pipe.messages)
    assert 0 < ahead <= pipe.sender.model_chunk_bytes
    value, start = pipe.value("relu")
    pipe.sender.add_value(value, start)
    assert (value.model_bytes_ahead, pipe.sender.preemptions) == (ahead, 1)
    before = len(pipe.streams)
    pipe.sender.pump()
    while math.isnan(value.received_seconds):
        pipe.deliver()
    assert value.stream is None
    after = [number == pipe.streams[before] for number in pipe.streams[before:]]
    pieces = sum(after)
    assert pieces > 10
    assert all(after[:pieces]), "parameters went between the pieces of a value"
    sink = pipe.sinks["relu"]
    assert isinstance(sink, ValueSink)
    assert torch.equal(sink.value(), pipe.values["relu"])


def test_the_link_stays_busy_with_parameters_but_never_with_more_than_a_chunk() -> None:
    pipe = Pipe()
    transfer = pipe.layer("wide", 500_000)
    pipe.sender.add_model(transfer, 0)
    pipe.sender.pump()
    done = None
    while done is None:
        under_way = sum(task_frames.message_layer2_bytes(frames) for frames in pipe.messages)
        assert under_way <= pipe.sender.model_chunk_bytes
        left = transfer.stream.total - transfer.stream.offset if transfer.stream else 0
        assert len(pipe.messages) >= 2 or not left
        done = pipe.deliver()
    assert done is transfer
    arriving = pipe.sinks["wide"]
    assert isinstance(arriving, Arriving)
    assert arriving.complete
    assert arriving.sound
    assert torch.equal(arriving.tensors[0], pipe.layers["wide"])
    assert pipe.sender.busy_seconds > 0


def test_what_a_break_voided_goes_on_where_it_stopped() -> None:
    pipe = Pipe()
    transfer = pipe.layer("wide", 500_000)
    pipe.sender.add_model(transfer, 0)
    pipe.sender.pump()
    for _ in range(7):
        pipe.deliver()
    arriving = pipe.sinks["wide"]
    assert isinstance(arriving, Arriving)
    pipe.sender.reset()
    pipe.reader.forget()
    lost, pipe.messages = len(pipe.messages), []
    assert lost
    assert not transfer.under_way
    pipe.sender.add_model(transfer, arriving.received)
    pipe.sender.pump()
    while pipe.deliver() is None:
        continue
    assert arriving.complete
    assert arriving.sound


def test_what_is_dropped_frees_its_credit_and_is_not_completed() -> None:
    pipe = Pipe()
    first, second = pipe.layer("first", 200_000), pipe.layer("second", 1000)
    for transfer in (first, second):
        pipe.sender.add_model(transfer, 0)
    pipe.sender.pump()
    pipe.sender.drop(first)
    ended = []
    while pipe.messages:
        ended.append(pipe.deliver())
    assert [one for one in ended if one is not None] == [second]
    assert pipe.sender.credit.outstanding_bytes == 0
    third = pipe.layer("third", 200_000)
    pipe.sender.add_model(third, 0)
    pipe.sender.pump()
    pipe.sender.clear()
    while pipe.messages:
        assert pipe.deliver() is None
    assert not third.under_way
    assert pipe.sender.credit.outstanding_bytes == 0


def test_a_socket_that_takes_nothing_is_asked_again() -> None:
    pipe = Pipe()
    pipe.open = False
    pipe.sender.add_model(pipe.layer("wide", 1000), 0)
    pipe.sender.pump()
    assert pipe.sender.blocked
    pipe.open = True
    pipe.sender.pump()
    assert not pipe.sender.blocked
    assert pipe.deliver() is not None


def test_nobody_puts_more_into_a_stream_than_was_announced() -> None:
    contents, parts = contents_of({"weight": torch.zeros(10)})
    arriving = Arriving(contents)
    arriving.write(parts[0])
    with pytest.raises(MalformedFrame, match="more weights"):
        arriving.write(memoryview(b"x"))
    header, buffers = tensors.pack(0, ("relu",), [torch.zeros(4)], "fp32")
    with pytest.raises(MalformedFrame, match="something else comes"):
        ValueSink(ValueStart(0, "relu", header, 0.0), (5,))
    sink = ValueSink(ValueStart(0, "relu", header, 0.0), (4,))
    with pytest.raises(MalformedFrame, match="more bytes"):
        sink.write(memoryview(bytes(buffers[0]) + b"x"))
    reader = StreamReader(lambda start: sink)
    with pytest.raises(MalformedFrame):
        reader.feed(task_frames.Chunk(1, 0), [memoryview(b"\xc1")], 0.0)
    ack, done = reader.feed(task_frames.Chunk(7, 300), [memoryview(b"late")], 1.0)
    assert (ack, done) == (task_frames.Ack(7, 304, 1.0), None)

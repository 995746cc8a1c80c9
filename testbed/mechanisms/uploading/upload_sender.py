"""Streams under one credit window, values before parameters; and putting them together again.

A value never waits behind more than one *model chunk*: the parameters that are under way, sent and not acknowledged,
are never more than what the link carries in 10 ms (and in its round trip). They go out in pieces of a quarter of that,
so that the link stays busy while an acknowledgement goes through the Python of both ends: with 4 ms in three pieces it
was idle for 3 to 20 % of the time, next to an edge that computed, with 8 ms in four for 2 to 5 %.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from testbed.inference import tensors
from testbed.inference.tensors import MalformedFrame
from testbed.inference.weights import bytes_of
from testbed.mechanisms.uploading.upload_frames import LayerStart, Start, ValueStart, decode_start, encode
from testbed.node import task_frames
from testbed.node.transport import CHUNK_SECONDS, CreditSender, TaskStream

#: Parts of a model chunk that are under way one after the other.
PIECES = 4
_SEGMENT_BYTES = task_frames.SEGMENT_BYTES + task_frames.SEGMENT_OVERHEAD_BYTES
_SMALLEST_CHUNK_BYTES = 2 * PIECES * _SEGMENT_BYTES

Kind = Literal["parameters", "feature"]


@dataclass(eq=False)
class Transfer:
    """Parameters or a value of one node on their way, over broken connections too. Times are seconds."""

    task: int
    kind: Kind
    name: str
    buffers: Sequence[memoryview]
    queued_seconds: float
    header: bytes = b""  # a value's
    released_seconds: float = math.nan
    model_bytes_ahead: int = 0  # layer 2, of parameters under way when it was queued
    model_chunk_bytes: int = 0  # how many were allowed then
    first_sent_seconds: float = math.nan
    wire_start_seconds: float = math.nan  # when the link was through with what had been sent before
    received_seconds: float = math.nan
    wire_bytes: int = 0
    acknowledged_bytes: int = 0
    resumed: int = 0
    status: str = ""  # what became of it, once it is recorded
    stream: TaskStream | None = None

    @property
    def total_bytes(self) -> int:
        return sum(len(buffer) for buffer in self.buffers)

    @property
    def under_way(self) -> bool:
        return self.stream is not None

    def open(self, number: int, start: Start, skip: int) -> None:
        """Send what follows after ``skip`` bytes, as stream ``number``."""
        rest: list[memoryview] = []
        left = skip
        for buffer in self.buffers:
            if left < len(buffer):
                rest.append(buffer[left:])
            left = max(0, left - len(buffer))
        self.acknowledged_bytes = skip
        self.stream = TaskStream(number, encode(start), rest)


class PrioritySender:
    """One peer's streams. ``send(frames)`` hands a message to the socket; False: it takes none at the moment.
    ``silent_seconds(begin, end)``: for how long nothing could be sent in that time.

    Values go first, in the order in which they were queued; parameters fill what is left. Used by one thread.
    """

    def __init__(
        self,
        round_trip_seconds: float,
        send: Callable[[list[bytes | memoryview]], bool],
        silent_seconds: Callable[[float, float], float] = lambda begin_seconds, end_seconds: 0.0,
    ) -> None:
        self.credit = CreditSender(round_trip_seconds)
        self._round_trip_seconds = round_trip_seconds
        self._send = send
        self._silent_seconds = silent_seconds
        self._values: deque[Transfer] = deque()
        self._models: deque[Transfer] = deque()
        self._open: dict[int, Transfer] = {}  # by stream, until the last acknowledgement
        self._number = 0
        self._model_bytes = 0  # layer 2, under way
        self._sizes: deque[tuple[int, int]] = deque()  # of each chunk under way: stream, layer-2 bytes if parameters
        self._wire_free_seconds = -math.inf
        self._busy_since = math.inf
        self.busy_seconds = 0.0  # time in which something was under way and could be
        self.preemptions = 0  # values that went before parameters that were being sent
        self.blocked = False

    @property
    def model_chunk_bytes(self) -> int:
        """Layer-2 bytes of parameters that may be under way."""
        per_second = self.credit.rate.bits_per_second / 8
        return int(per_second * self._round_trip_seconds + max(per_second * CHUNK_SECONDS, _SMALLEST_CHUNK_BYTES))

    @property
    def _piece_stream_bytes(self) -> int:
        chunk = self.credit.rate.bits_per_second / 8 * CHUNK_SECONDS
        segments = int(max(chunk, _SMALLEST_CHUNK_BYTES) / PIECES / _SEGMENT_BYTES)
        return min(segments * task_frames.SEGMENT_BYTES, self.credit.chunk_stream_bytes)

    def add_value(self, transfer: Transfer, start: ValueStart) -> None:
        transfer.model_bytes_ahead, transfer.model_chunk_bytes = self._model_bytes, self.model_chunk_bytes
        self.preemptions += bool(self._models and self._sent(self._models[0]))
        self._begin(transfer, start, 0)
        self._values.append(transfer)

    def add_model(self, transfer: Transfer, skip: int, *, first: bool = False) -> None:
        """``skip``: bytes that the edge has already."""
        self._begin(transfer, LayerStart(transfer.task, transfer.name, skip), skip)
        if not first:
            self._models.append(transfer)
        elif self._models and self._models[0].acknowledged_bytes < self._sent(self._models[0]):
            self._models.insert(1, transfer)  # one that is being sent goes on: its pieces are one stream
        else:
            self._models.appendleft(transfer)

    @staticmethod
    def _sent(transfer: Transfer) -> int:
        return 0 if transfer.stream is None else transfer.stream.offset

    def _begin(self, transfer: Transfer, start: Start, skip: int) -> None:
        self._number += 1
        transfer.open(self._number, start, skip)
        self._open[self._number] = transfer

    def drop(self, transfer: Transfer) -> None:
        """Send no more of it."""
        if transfer in self._models:
            self._models.remove(transfer)
        if transfer in self._values:
            self._values.remove(transfer)
        if transfer.stream is not None:
            self._open.pop(transfer.stream.task, None)
            transfer.stream = None

    def clear(self) -> None:
        """Send nothing more of what is queued."""
        for transfer in (*self._values, *self._models):
            self.drop(transfer)

    def pump(self) -> None:
        """As many chunks as the credit allows."""
        self.blocked = False
        while not self.blocked:
            if self._values and self.credit.may_send:
                self._chunk(self._values, self.credit.chunk_stream_bytes, model=False)
            elif not self._values and self._models and self._may_send_model():
                self._chunk(self._models, self._piece_stream_bytes, model=True)
            else:
                return

    def _may_send_model(self) -> bool:
        piece = task_frames.layer2_bytes(self._piece_stream_bytes)
        return not self.credit.outstanding_bytes or self.credit.outstanding_bytes + piece <= self.model_chunk_bytes

    def _chunk(self, queue: deque[Transfer], stream_bytes: int, *, model: bool) -> None:
        transfer = queue[0]
        stream = transfer.stream
        assert stream is not None
        frames = stream.next_chunk(stream_bytes)
        if not self._send(frames):
            stream.take_back()
            self.blocked = True
            return
        now = time.monotonic()
        layer2 = task_frames.message_layer2_bytes(frames)
        transfer.wire_bytes += layer2
        if math.isnan(transfer.first_sent_seconds):
            transfer.first_sent_seconds = now
        if not self._sizes:
            self._busy_since = now + self._round_trip_seconds / 2  # nothing is sent while it is on the way
        self.credit.sent(stream, layer2)
        self._sizes.append((stream.task, layer2 if model else 0))
        self._model_bytes += layer2 if model else 0
        if stream.finished:
            queue.popleft()

    def acknowledged(self, ack: task_frames.Ack) -> Transfer | None:
        """The transfer of which the peer now has the last byte, if this completes one."""
        if not self.credit.acknowledged(ack.task, ack.end, ack.received_seconds):
            return None
        self._model_bytes -= self._sizes.popleft()[1]
        before, self._wire_free_seconds = self._wire_free_seconds, ack.received_seconds
        silent = self._silent_seconds(self._busy_since, ack.received_seconds)
        self.busy_seconds += max(0.0, ack.received_seconds - self._busy_since - silent)
        self._busy_since = ack.received_seconds
        transfer = self._open.get(ack.task)
        if transfer is None or transfer.stream is None:
            return None  # dropped meanwhile
        if math.isnan(transfer.wire_start_seconds):
            free = before - self._round_trip_seconds / 2
            transfer.wire_start_seconds = min(max(transfer.first_sent_seconds, free), ack.received_seconds)
        transfer.acknowledged_bytes = transfer.total_bytes - transfer.stream.total + ack.end
        if ack.end < transfer.stream.total:
            return None
        del self._open[ack.task]
        transfer.stream = None
        transfer.received_seconds = ack.received_seconds
        return transfer

    def reset(self) -> None:
        """The connection is gone, and with it all that was queued or under way."""
        for transfer in self._open.values():
            transfer.stream = None
        self._open.clear()
        self._values.clear()
        self._models.clear()
        self._sizes.clear()
        self._model_bytes = 0
        self.credit.reset()


class Sink(Protocol):
    """Where a stream's payload goes."""

    def write(self, data: memoryview) -> None:
        """What follows. Raises MalformedFrame for more than belongs there."""

    @property
    def complete(self) -> bool: ...


class ValueSink:
    """A value that comes: its memory is aligned as torch aligns it, so that what computes with it rounds the same."""

    def __init__(self, start: ValueStart, shape: Sequence[int]) -> None:
        """Raises MalformedFrame for a header that is not of one tensor with ``shape``."""
        self.start = start
        self._header = tensors.decode_header(start.header)
        (found,) = self._header.tensors if len(self._header.tensors) == 1 else (None,)
        axes = found.order if found is not None else ()
        if found is None or sorted(found.shape) != sorted(shape) or len(axes) not in (0, len(shape)):
            raise MalformedFrame(f"{start.name!r} is of shape {tuple(shape)}, and something else comes")
        self._memory: Tensor = torch.empty(self._header.payload_bytes, dtype=torch.uint8)
        self._received = 0

    def write(self, data: memoryview) -> None:
        end = self._received + len(data)
        if end > self._memory.numel():
            raise MalformedFrame("a value with more bytes than its header says")
        bytes_of(self._memory)[self._received : end] = data
        self._received = end

    @property
    def complete(self) -> bool:
        return self._received == self._memory.numel()

    def value(self) -> Tensor:
        """Raises MalformedFrame."""
        with torch.inference_mode():
            return tensors.unpack(self._header, [bytes_of(self._memory)]).tensors[0]


class StreamReader:
    """One peer's streams, put together. ``open(start)`` gives a sink, or None for what is not wanted: it is
    acknowledged and dropped, or the sender would wait for ever."""

    def __init__(self, open_sink: Callable[[Start], Sink | None]) -> None:
        self._open_sink = open_sink
        self._sinks: dict[int, tuple[int, Sink | None]] = {}  # by stream: the offset that follows
        self._streams: dict[tuple[type, str], int] = {}  # what is under way: a later stream of the same replaces it

    def forget(self) -> None:
        """A new connection begins."""
        self._sinks.clear()
        self._streams.clear()

    def feed(
        self, chunk: task_frames.Chunk, frames: Sequence[memoryview], now_seconds: float
    ) -> tuple[task_frames.Ack, Sink | None]:
        """The frames after the chunk's. Returns the acknowledgement, and the sink of a stream that is complete.

        Raises MalformedFrame.
        """
        payload = frames
        if chunk.offset == 0:
            if not frames:
                raise MalformedFrame("a stream without a start")
            self._open(chunk.task, decode_start(frames[0]))
            payload = frames[1:]
        offset, sink = self._sinks.get(chunk.task, (chunk.offset, None))
        if offset != chunk.offset:
            raise MalformedFrame(f"stream {chunk.task} goes on at {chunk.offset}, not {offset}")
        end = offset + sum(len(part) for part in payload)
        done = None
        if sink is not None:
            for part in payload:
                sink.write(part)
            if sink.complete:
                done = sink
        if done is not None or sink is None:
            self._sinks.pop(chunk.task, None)
        else:
            self._sinks[chunk.task] = (end, sink)
        return task_frames.Ack(chunk.task, end, now_seconds), done

    def _open(self, number: int, start: Start) -> None:
        sink = self._open_sink(start)
        if sink is not None:
            what = (type(start), start.name if isinstance(start, ValueStart) else start.node)
            self._sinks.pop(self._streams.get(what, -1), None)
            self._streams[what] = number
        self._sinks[number] = (0, sink)

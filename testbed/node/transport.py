"""Application credit over ZeroMQ: chunks, the window of unacknowledged bytes, the present rate; reassembly.

The radio namespace has no back-pressure: without credit, TCP would move a task's whole backlog into the queue of the
shaper, where no report sees it and where no later decision reaches it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from controller.contract import Cut, cut_from_label
from testbed.inference.tensors import FrameHeader, MalformedFrame, decode_header
from testbed.node import task_frames
from testbed.node.task_frames import SEGMENT_BYTES, SEGMENT_OVERHEAD_BYTES, ZMTP_LONG_BYTES, Chunk, Opening

MAX_CHUNK_BYTES = 64 * 1024
CHUNK_SECONDS = 10e-3
#: An acknowledgement waits for the Python of both ends, 0.2-4 ms when stages occupy the cores. One chunk in flight
#: beyond the one that is being acknowledged covers that below 100 Mbit/s; above, where a chunk is shorter than the
#: wait, this time does.
WAKE_UP_SECONDS = 5e-3
_LOWEST_RATE = 16e3  # of a held outage
_MEASURE_SECONDS = 30e-3
_INITIAL_RATE = 10e6
_SMALLEST_SLICE_BYTES = 256


class RateEstimate:
    """The uplink's present rate (layer-2 bit/s): the last commanded one, corrected by what acknowledgements show.

    Only back-to-back acknowledgements count (the link stayed busy in between), by the receiver's stamps and over at
    least 30 ms: single stamps are late by as much as the receiver is.
    """

    def __init__(self) -> None:
        self.bits_per_second = _INITIAL_RATE
        self._since: float | None = None
        self._bytes = 0

    def command(self, bits_per_second: float) -> None:
        self.bits_per_second = max(bits_per_second, _LOWEST_RATE)
        self._since = None

    def acknowledged(self, layer2: int, received_seconds: float, still_busy: bool) -> None:
        if self._since is not None:
            self._bytes += layer2
            elapsed = received_seconds - self._since
            if elapsed >= _MEASURE_SECONDS:
                measured = self._bytes * 8 / elapsed
                present = self.bits_per_second
                bounded = min(max(measured, present / 2), present * 2)
                self.bits_per_second = max((present + bounded) / 2, _LOWEST_RATE)
                self._since = None
        if not still_busy:
            self._since = None
        elif self._since is None:
            self._since, self._bytes = received_seconds, 0


class TaskStream:
    """One task on its way out: yields multipart messages until all bytes are taken."""

    def __init__(
        self, task: int, header: bytes, buffers: Sequence[memoryview], *, expires_seconds: float = math.inf
    ) -> None:
        """``expires_seconds``: when the edge need not answer any more (CLOCK_MONOTONIC)."""
        self.task = task
        self._expires_seconds = expires_seconds
        self._header = header
        self._buffers = [view.cast("B") for view in buffers]
        self.total = sum(len(view) for view in self._buffers)
        self.offset = 0
        self._previous = 0

    @property
    def finished(self) -> bool:
        return self.offset == self.total

    def next_chunk(self, stream_limit: int) -> list[bytes | memoryview]:
        """The next message, of at most about ``stream_limit`` bytes with its framing; always of some payload."""
        frames: list[bytes | memoryview] = []
        if self.offset:
            frames.append(task_frames.encode(Chunk(self.task, self.offset)))
        else:
            opening = Chunk(self.task, 0)
            if self._expires_seconds < math.inf:
                opening = Opening(self.task, 0, expires_seconds=self._expires_seconds)
            frames += [task_frames.encode(opening), self._header]
        room = stream_limit - task_frames.stream_bytes(len(frame) for frame in frames)
        self._previous = position = self.offset
        start = 0
        for buffer in self._buffers:
            end = start + len(buffer)
            if position < end and (room > ZMTP_LONG_BYTES or position == self.offset):
                take = min(end - position, max(room - ZMTP_LONG_BYTES, _SMALLEST_SLICE_BYTES))
                frames.append(buffer[position - start : position - start + take])
                position += take
                room -= take + ZMTP_LONG_BYTES
            start = end
        self.offset = position
        return frames

    def take_back(self) -> None:
        """The last chunk was not sent after all."""
        self.offset = self._previous


class CreditSender:
    """A FCFS of :class:`TaskStream` under a window of unacknowledged layer-2 bytes."""

    def __init__(self, round_trip_seconds: float, max_chunk_bytes: int = MAX_CHUNK_BYTES) -> None:
        self.rate = RateEstimate()
        self._round_trip_seconds = round_trip_seconds
        self._max_segments = max_chunk_bytes // SEGMENT_BYTES
        self._outstanding: deque[tuple[int, int, int]] = deque()  # task, end offset, layer-2 bytes
        self.outstanding_bytes = 0

    @property
    def chunk_stream_bytes(self) -> int:
        """Whole TCP segments, so that chunking does not add part-filled ones."""
        wanted = self.rate.bits_per_second * CHUNK_SECONDS / 8 / (SEGMENT_BYTES + SEGMENT_OVERHEAD_BYTES)
        return min(max(int(wanted), 1), self._max_segments) * SEGMENT_BYTES

    @property
    def window_bytes(self) -> int:
        """Rate x RTT, the chunk that is being acknowledged, and what keeps the link busy meanwhile."""
        per_second = self.rate.bits_per_second / 8
        chunk = task_frames.layer2_bytes(self.chunk_stream_bytes)
        return int(per_second * self._round_trip_seconds + chunk + max(chunk, per_second * WAKE_UP_SECONDS))

    @property
    def may_send(self) -> bool:
        if not self._outstanding:
            return True
        return self.outstanding_bytes + task_frames.layer2_bytes(self.chunk_stream_bytes) <= self.window_bytes

    def sent(self, stream: TaskStream, layer2: int) -> None:
        self._outstanding.append((stream.task, stream.offset, layer2))
        self.outstanding_bytes += layer2

    def acknowledged(self, task: int, end: int, received_seconds: float) -> bool:
        """False for an acknowledgement of something that a disconnect made void."""
        if not self._outstanding or self._outstanding[0][:2] != (task, end):
            return False
        layer2 = self._outstanding.popleft()[2]
        self.outstanding_bytes -= layer2
        self.rate.acknowledged(layer2, received_seconds, still_busy=bool(self._outstanding))
        return True

    def reset(self) -> None:
        """The connection is gone, and with it all that was under way."""
        self._outstanding.clear()
        self.outstanding_bytes = 0


class RefusedTaskError(ValueError):
    """A well-formed task that this edge cannot serve; its UE is told why."""


@dataclass(frozen=True, slots=True)
class ReceivedTask:
    """A task whose last byte has come, or one that is refused (at its first)."""

    task: int
    header: FrameHeader
    cut: Cut
    buffers: list[memoryview]
    received_seconds: float
    refusal: str = ""
    expires_seconds: float = math.inf  # its UE does not wait for the answer any longer


class Assembler:
    """Puts one UE's chunks together again. A new task voids one that was never finished (the UE gave it up)."""

    def __init__(self, check: Callable[[FrameHeader], None]) -> None:
        """``check`` raises RefusedTaskError before anything is allocated for a header that cannot be served."""
        self._check = check
        self._header: FrameHeader | None = None  # of the task under way
        self._offset = 0
        self._total = 0
        self._targets: list[memoryview] = []
        self._copying = False  # False: the message's own memory serves, or the task was refused
        self._expires_seconds = math.inf

    def feed(self, frames: Sequence[memoryview], now_seconds: float) -> tuple[task_frames.Ack, ReceivedTask | None]:
        """One message without its identity. Raises MalformedFrame; the state then waits for a new task.

        A refused task is returned once, with its first chunk; its further chunks are acknowledged and dropped.
        """
        if len(frames) < 2:
            raise MalformedFrame(f"{len(frames)} frames in a chunk")
        chunk = task_frames.decode_chunk(frames[0])
        payload, refusal = frames[1:], ""
        if chunk.offset == 0:
            payload = frames[2:]
            refusal = self._open(chunk, frames[1], payload)
            self._expires_seconds = chunk.expires_seconds if isinstance(chunk, Opening) else math.inf
        header, start = self._header, self._offset
        end = start + sum(len(part) for part in payload)
        if header is None or (chunk.task, chunk.offset) != (header.task, start) or not start < end <= self._total:
            self._header = None
            raise MalformedFrame(f"chunk of task {chunk.task} at {chunk.offset} does not fit in here")
        if self._copying:
            self._copy(payload)
        self._offset = end
        ack = task_frames.Ack(chunk.task, end, now_seconds)
        done = None
        if refusal or (end == self._total and self._targets):
            done = ReceivedTask(
                chunk.task,
                header,
                cut_from_label(header.cut),
                self._targets,
                now_seconds,
                refusal,
                self._expires_seconds,
            )
        if end == self._total:
            self._header, self._targets = None, []
        return ack, done

    def _open(self, chunk: Chunk, header_frame: memoryview, payload: Sequence[memoryview]) -> str:
        """Begin a task. Returns why it is refused, if it is."""
        self._header = None
        header = decode_header(header_frame)
        if header.task != chunk.task:
            raise MalformedFrame(f"a chunk of task {chunk.task} with the header of task {header.task}")
        sizes = header.buffer_bytes
        self._header, self._offset, self._total = header, 0, sum(sizes)
        self._targets, self._copying = [], False
        try:
            self._check(header)
        except RefusedTaskError as error:
            return str(error)
        if [len(part) for part in payload] == list(sizes):
            self._targets = list(payload)
        else:
            self._targets = [np.empty(size, dtype=np.uint8).data for size in sizes]
            self._copying = True
        return ""

    def _copy(self, payload: Sequence[memoryview]) -> None:
        position = self._offset
        for part in payload:
            taken = start = 0
            for target in self._targets:  # a few at most: a cut has as many tensors
                end = start + len(target)
                if start <= position < end and taken < len(part):
                    count = min(len(part) - taken, end - position)
                    target[position - start : position - start + count] = part[taken : taken + count]
                    taken += count
                    position += count
                start = end

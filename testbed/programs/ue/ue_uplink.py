"""The UE's data socket: the tx queue under credit, acknowledgements, results, and what a disconnect voids."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

import zmq

from controller.contract import ALL_ON_DEVICE
from testbed.inference.tensors import MalformedFrame
from testbed.node import ledger, task_frames
from testbed.node.data_link import DataLink
from testbed.node.ledger import Books, Task
from testbed.node.transport import CreditSender, RateEstimate, TaskStream
from testbed.node.ue_node import UeNode, UePart


class Uplink(DataLink):
    """Tasks whose head has ended, until their answer is back. Used by the I/O thread only.

    ``answer_of(logits)`` is (class, checksum) of an answer, or raises ValueError.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        node: str,
        endpoint: str,
        round_trip_seconds: float,
        task_timeout_seconds: float,
        books: Books,
        answer_of: Callable[[memoryview], tuple[int, int]],
    ) -> None:
        super().__init__(context, node, endpoint, round_trip_seconds)
        self._node, self._books, self._answer_of = node, books, answer_of
        self._link_delay_seconds = round_trip_seconds / 2
        self._task_timeout_seconds = task_timeout_seconds
        self._sender = CreditSender(round_trip_seconds)
        self.open: dict[int, Task] = {}  # in order of head end, which is that of arrival
        self._queue: deque[Task] = deque()  # not wholly sent
        self._transfers_end_seconds = -math.inf  # when the wire was through with the task before
        #: asked before a task's first byte with whether the wire is free of the tasks before it; False: not yet
        self.admit: Callable[[Task, bool], bool] = lambda task, wire_is_free: True
        #: for how long nothing could be sent between two times
        self.silent_seconds: Callable[[float, float], float] = lambda begin_seconds, end_seconds: 0.0

    @property
    def sender(self) -> CreditSender:
        return self._sender

    @property
    def waiting_tasks(self) -> int:
        return sum(math.isnan(task.received_seconds) for task in self.open.values())

    @property
    def backlog_bytes(self) -> int:
        return sum(task.unacknowledged_bytes for task in self.open.values())

    def add(self, task: Task) -> None:
        """A task whose head has ended, or was given up; one without anything for the edge is through."""
        self._books.head_ended(task)
        if task.failure:
            self._books.lost(task, task.failure)
            return
        if task.cut == ALL_ON_DEVICE:
            self._books.completed(ledger.completed(task, self._node, None, task.head_end_seconds, 0))
            return
        self.open[task.number] = task
        self._queue.append(task)

    def expire(self, arrived_before_seconds: float, reason: str) -> None:
        while self.open:
            task = next(iter(self.open.values()))
            if task.arrival_seconds >= arrived_before_seconds:
                return
            self._give_up(task, reason)

    def send(self) -> None:
        """As many chunks as the credit allows, once there is a connection.

        A disconnect is told a moment before the socket gives the connection up: what it took in between would be lost,
        and with it the credit for it.
        """
        self.blocked = False
        while self._connected and self._queue and self.sender.may_send:
            task = self._queue[0]
            if task.stream is None:
                if not self.admit(task, not self.sender.outstanding_bytes):
                    return
                expires = task.arrival_seconds + self._task_timeout_seconds
                task.stream = TaskStream(task.number, task.header, task.buffers, expires_seconds=expires)
                task.buffers = []
            frames = task.stream.next_chunk(self.sender.chunk_stream_bytes)
            if not self._try_send(frames):
                task.stream.take_back()
                self.blocked = True
                return
            layer2 = task_frames.message_layer2_bytes(frames)
            task.wire_bytes += layer2
            self.sender.sent(task.stream, layer2)
            if task.stream.finished:
                self._queue.popleft()

    def _take(self, frames: list[bytes]) -> None:
        message = task_frames.decode_down(frames[0])
        if isinstance(message, task_frames.Ack):
            self._acknowledged(message)
        else:
            self._answered(message, frames)

    def _began(self) -> None:
        """The tx queue waits for it."""

    def _broke(self) -> None:
        self._sender.reset()
        for task in [task for task in self.open.values() if task.stream is not None]:
            at_edge = not math.isnan(task.received_seconds)
            self._give_up(task, "edge disconnected " + ("before the answer" if at_edge else "during transfer"))

    def _acknowledged(self, ack: task_frames.Ack) -> None:
        if not self.sender.acknowledged(ack.task, ack.end, ack.received_seconds):
            return
        task = self.open.get(ack.task)
        if task is None:
            return  # given up meanwhile
        task.acknowledged_bytes = ack.end
        if ack.end < task.boundary_bytes:
            return
        task.received_seconds = ack.received_seconds
        sent_seconds = ack.received_seconds - self._link_delay_seconds
        self._transfer_ended(task, ack.received_seconds, sent_seconds)
        self._transfers_end_seconds = sent_seconds
        self._books.received(task.transmit_joules, task.boundary_bytes)

    def _answered(self, result: task_frames.Result, frames: list[bytes]) -> None:
        task = self.open.get(result.task)
        if task is None:
            self.late_results += 1
            return
        if result.reason:
            self._give_up(task, result.reason)
            return
        if len(frames) != 2 or math.isnan(task.received_seconds):
            raise MalformedFrame(f"no answer to task {task.number}")
        del self.open[task.number]
        now = time.monotonic()
        try:
            task.answer, task.answer_checksum = self._answer_of(memoryview(frames[1]))
        except ValueError as error:
            self._books.lost(task, str(error))
            return
        wire_bytes = task_frames.message_layer2_bytes(frames)
        self._books.completed(ledger.completed(task, self._node, result, now, wire_bytes))

    def _transfer_ended(self, task: Task, now_seconds: float, sent_seconds: float) -> None:
        """Charged is the time on the air, as in the simulator: nothing is sent in a held outage or on the way."""
        start = max(task.head_end_seconds, self._transfers_end_seconds)
        task.transfer_start_seconds = start = min(start, now_seconds)
        on_air_seconds = sent_seconds - start - self.silent_seconds(start, sent_seconds)
        task.transmit_joules = task.transmit_watts * max(on_air_seconds, 0.0)

    def _give_up(self, task: Task, reason: str) -> None:
        del self.open[task.number]
        now = time.monotonic()
        if task.stream is not None and math.isnan(task.received_seconds):
            self._transfer_ended(task, now, now)  # what it has sent until now is charged
            self._transfers_end_seconds = now
        if task in self._queue:
            self._queue.remove(task)
        self._books.lost(task, reason)


class DecidedRate(UePart):
    """The link's rate changes with the decision at once, also for tasks that keep their older cut."""

    def __init__(self, node: UeNode, rate: RateEstimate) -> None:
        self._node, self._rate = node, rate
        self._commanded: int | None = None  # sequence of the decision that it follows

    def turn(self, now_seconds: float) -> None:
        apply = self._node.decisions.in_force(now_seconds)
        if apply is None or apply.decision.sequence == self._commanded:
            return
        self._commanded = apply.decision.sequence
        rate = apply.rates_up_bits_per_second.get(self._node.config.node, 0.0)
        if rate > 0:
            self._rate.command(rate)

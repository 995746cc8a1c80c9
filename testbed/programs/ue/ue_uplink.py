"""The UE's data socket: the tx queue under credit, acknowledgements, results, and what a disconnect voids."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

import zmq
from zmq.utils.monitor import recv_monitor_message

from testbed.inference.tensors import MalformedFrame
from testbed.node import task_frames
from testbed.node.ledger import Task
from testbed.node.transport import CreditSender, TaskStream

_RECONNECT_MILLISECONDS = 100
_HIGH_WATER = 64  # messages; what is under way is bounded in bytes, by credit
#: The send buffer is fixed when the socket connects, before any rate is known; the wires' usual top stands in.
_BUFFER_RATE = 100e6
_SEND_BUFFER_BYTES = (32 * 1024, 1024 * 1024)
_MESSAGES_PER_TURN = 32

Finished = Callable[[Task, task_frames.Result, memoryview | None, int], None]


def connect(
    context: zmq.Context[zmq.Socket[bytes]], node: str, endpoint: str, round_trip_seconds: float
) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """The data socket of a UE, and its monitor for handshakes and disconnects.

    No ZeroMQ heartbeat: a 600 kB message at 2 Mbit/s outlives it, and its task would be lost in silence.
    """
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.IDENTITY, node.encode())
    socket.set(zmq.IMMEDIATE, 1)  # nothing is queued for an edge that is not there
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.SNDHWM, _HIGH_WATER)
    socket.set(zmq.RCVHWM, 1000)
    socket.set(zmq.RECONNECT_IVL, _RECONNECT_MILLISECONDS)
    wanted = 2 * _BUFFER_RATE / 8 * round_trip_seconds
    socket.set(zmq.SNDBUF, int(min(max(wanted, _SEND_BUFFER_BYTES[0]), _SEND_BUFFER_BYTES[1])))
    monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
    socket.connect(endpoint)
    return socket, monitor


def disconnect(socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes]) -> None:
    """What :func:`connect` gave."""
    socket.disable_monitor()
    monitor.close(linger=0)  # disable_monitor leaves this end open, and term() would wait for it
    socket.close()


class Uplink:
    """Tasks whose head has ended, until their answer is back. Used by the I/O thread only.

    ``finished(task, result, logits, result_wire_bytes)`` and ``lost(task, reason)`` are called as tasks leave;
    ``received(task)`` when the edge has one's last byte.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        node: str,
        endpoint: str,
        round_trip_seconds: float,
        task_timeout_seconds: float,
        finished: Finished,
        received: Callable[[Task], None],
        lost: Callable[[Task, str], None],
    ) -> None:
        self._finished, self._received, self._lost = finished, received, lost
        self._link_delay_seconds = round_trip_seconds / 2
        self._task_timeout_seconds = task_timeout_seconds
        self.sender = CreditSender(round_trip_seconds)
        self.open: dict[int, Task] = {}  # in order of head end, which is that of arrival
        self._queue: deque[Task] = deque()  # not wholly sent
        self._transfers_end_seconds = -math.inf  # when the wire was through with the task before
        #: asked before a task's first byte with whether the wire is free of the tasks before it; False: not yet
        self.admit: Callable[[Task, bool], bool] = lambda task, wire_is_free: True
        #: for how long nothing could be sent between two times
        self.silent_seconds: Callable[[float, float], float] = lambda begin_seconds, end_seconds: 0.0
        self.late_results = 0
        self.malformed = 0
        self.disconnects = 0
        self._connected = False
        self.blocked = False  # the socket takes nothing until it polls writable
        self.socket, self.monitor = connect(context, node, endpoint, round_trip_seconds)

    @property
    def waiting_tasks(self) -> int:
        """Head ended, not received by the edge."""
        return sum(math.isnan(task.received_seconds) for task in self.open.values())

    @property
    def backlog_bytes(self) -> int:
        """Encoded bytes that the edge has not acknowledged."""
        return sum(task.unacknowledged_bytes for task in self.open.values())

    def add(self, task: Task) -> None:
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
            try:
                self.socket.send_multipart(frames, zmq.NOBLOCK)
            except zmq.Again:
                task.stream.take_back()
                self.blocked = True
                return
            layer2 = task_frames.message_layer2_bytes(frames)
            task.wire_bytes += layer2
            self.sender.sent(task.stream, layer2)
            if task.stream.finished:
                self._queue.popleft()

    def receive(self) -> None:
        """Acknowledgements and results that have come."""
        for _ in range(_MESSAGES_PER_TURN):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = task_frames.decode_down(frames[0])
            except MalformedFrame:
                self.malformed += 1
                continue
            if isinstance(message, task_frames.Ack):
                self._acknowledged(message)
            else:
                self._answered(message, frames)

    def watch(self) -> None:
        """Connection events. What a lost connection carried is lost with it."""
        while self.monitor.poll(0):
            self._connected = recv_monitor_message(self.monitor)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
            if self._connected:
                continue
            self.disconnects += 1
            self.sender.reset()
            for task in [task for task in self.open.values() if task.stream is not None]:
                at_edge = not math.isnan(task.received_seconds)
                self._give_up(task, "edge disconnected " + ("before the answer" if at_edge else "during transfer"))

    def close(self) -> None:
        disconnect(self.socket, self.monitor)

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
        self._received(task)

    def _answered(self, result: task_frames.Result, frames: list[bytes]) -> None:
        task = self.open.get(result.task)
        if task is None:
            self.late_results += 1
            return
        if result.reason:
            self._give_up(task, result.reason)
            return
        if len(frames) != 2 or math.isnan(task.received_seconds):
            self.malformed += 1
            return
        del self.open[task.number]
        self._finished(task, result, memoryview(frames[1]), task_frames.message_layer2_bytes(frames))

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
        self._lost(task, reason)

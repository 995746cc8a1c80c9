"""A node's side of the control plane, and the decision that is in force. Used by one thread, but for the decision."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import zmq

from controller.model.older_tasks import STRAY_PART, tail_share
from controller.service import protocol
from testbed.protocol import records, sockets

HELLO_INTERVAL_SECONDS = 0.2
_CONTROL_HIGH_WATER = 1000
_RECORDS_HIGH_WATER = 100_000
_FLUSH_MILLISECONDS = 1000


class ControlLink:
    """DEALER to the controller and PUSH to the recorder, both over ``ipc://`` sockets that are this node's alone.

    Neither can block the node: what finds no room (its peer is dead, long) is dropped and counted in :attr:`dropped`.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], node: str, lab_directory: str) -> None:
        self._node = node
        self.socket = context.socket(zmq.DEALER)
        self.socket.set(zmq.IDENTITY, node.encode())
        self.socket.set(zmq.SNDHWM, _CONTROL_HIGH_WATER)
        self.socket.set(zmq.LINGER, _FLUSH_MILLISECONDS)
        self.socket.connect(sockets.control_endpoint(lab_directory, node))
        self._records = context.socket(zmq.PUSH)
        self._records.set(zmq.SNDHWM, _RECORDS_HIGH_WATER)
        self._records.set(zmq.LINGER, _FLUSH_MILLISECONDS)
        self._records.connect(sockets.records_endpoint(lab_directory, node))
        self.dropped = 0
        self.malformed = 0

    def send(self, message: protocol.Message) -> None:
        self._push(self.socket, message)

    def record(self, message: protocol.Message) -> None:
        self._push(self._records, message)

    def event(self, kind: str, text: str) -> None:
        self.record(records.Event(time.monotonic(), self._node, kind, text))

    def received(self) -> Iterator[protocol.Control]:
        """What has come from the controller; what cannot be decoded is counted."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                yield protocol.decode_control(frames[-1])
            except msgspec.DecodeError:
                self.malformed += 1

    def close(self) -> None:
        self.socket.close()
        self._records.close()

    def _push(self, socket: zmq.Socket[bytes], message: protocol.Message) -> None:
        try:
            socket.send(protocol.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            self.dropped += 1


class DecisionBox:
    """The newest decision, from the thread that receives it to the one that computes.

    ``accept`` may refuse a decision by raising ValueError; the last one then stays in force.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest_sequence = -1
        self._pending: list[protocol.Apply] = []
        self._in_force: protocol.Apply | None = None
        self.stale = 0

    def put(self, apply: protocol.Apply) -> bool:
        """False, and counted in :attr:`stale`, when its sequence is not above the last."""
        with self._lock:
            if apply.decision.sequence <= self._newest_sequence:
                self.stale += 1
                return False
            self._newest_sequence = apply.decision.sequence
            self._pending.append(apply)
            return True

    def in_force(self, now_seconds: float) -> protocol.Apply | None:
        """None before the first."""
        with self._lock:
            while self._pending and self._pending[0].decision.valid_from_seconds <= now_seconds:
                self._in_force = self._pending.pop(0)
            return self._in_force

    def next_change_seconds(self) -> float | None:
        """When the next known decision takes force."""
        with self._lock:
            return self._pending[0].decision.valid_from_seconds if self._pending else None


def decided_share(decisions: DecisionBox, ue: str, cpus: float, ues: int, now_seconds: float) -> float:
    """Reference cores of a UE by the decision in force; an equal part before the first one."""
    apply = decisions.in_force(now_seconds)
    if apply is None:
        return cpus / ues
    return next((tail_share(own, cpus) for own in apply.decision.ues if own.name == ue), STRAY_PART * cpus)


def io_tids() -> tuple[int, ...]:
    """The calling thread, and ZeroMQ's own threads in this process."""
    tasks = Path("/proc/self/task")
    background = (int(task.name) for task in tasks.iterdir() if (task / "comm").read_text().startswith("ZMQbg"))
    return (threading.get_native_id(), *sorted(background))


class HelloTimer:
    """Says Hello until a Welcome answers."""

    def __init__(self, link: ControlLink, hello: Callable[[], protocol.Hello]) -> None:
        self._link = link
        self._hello = hello
        self._next_seconds: float | None = 0.0
        self._began_seconds = time.monotonic()

    def welcomed(self) -> None:
        self._next_seconds = None

    def poll(self, now_seconds: float) -> float | None:
        """Send one if it is time; when the next one is due, None once welcomed."""
        if self._next_seconds is not None and now_seconds >= self._next_seconds:
            self._link.send(msgspec.structs.replace(self._hello(), began_seconds=self._began_seconds))
            self._next_seconds = now_seconds + HELLO_INTERVAL_SECONDS
        return self._next_seconds

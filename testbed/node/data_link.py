"""A UE's end of the data wire: its socket, connections that come and go, and what a link makes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import zmq
from zmq.utils.monitor import recv_monitor_message

from testbed.inference.tensors import MalformedFrame
from testbed.node.transport import CreditSender

_RECONNECT_MILLISECONDS = 100
_HIGH_WATER = 64  # messages; what is under way is bounded in bytes, by credit
#: The send buffer is fixed when the socket connects, before any rate is known; the wires' usual top stands in.
_BUFFER_RATE = 100e6
_SEND_BUFFER_BYTES = (32 * 1024, 1024 * 1024)
_MESSAGES_PER_TURN = 64


class DataLink(ABC):
    """A DEALER to the edge. Used by the I/O thread only."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], node: str, endpoint: str, round_trip_seconds: float
    ) -> None:
        """No ZeroMQ heartbeat: a 600 kB message at 2 Mbit/s outlives it, and its task would be lost in silence."""
        self.late_results = 0
        self.malformed = 0
        self.disconnects = 0
        self.blocked = False  # the socket takes nothing until it polls writable
        self._connected = False
        socket = context.socket(zmq.DEALER)
        socket.set(zmq.IDENTITY, node.encode())
        socket.set(zmq.IMMEDIATE, 1)  # nothing is queued for an edge that is not there
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.SNDHWM, _HIGH_WATER)
        socket.set(zmq.RCVHWM, 1000)
        socket.set(zmq.RECONNECT_IVL, _RECONNECT_MILLISECONDS)
        wanted = 2 * _BUFFER_RATE / 8 * round_trip_seconds
        socket.set(zmq.SNDBUF, int(min(max(wanted, _SEND_BUFFER_BYTES[0]), _SEND_BUFFER_BYTES[1])))
        self.monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        socket.connect(endpoint)
        self.socket = socket

    @property
    @abstractmethod
    def sender(self) -> CreditSender: ...
    @property
    @abstractmethod
    def waiting_tasks(self) -> int:
        """Head ended, not wholly received by the edge."""

    @property
    @abstractmethod
    def backlog_bytes(self) -> int:
        """Bytes that are due and that the edge has not acknowledged."""

    @abstractmethod
    def send(self) -> None:
        """As much as the socket and the credit allow."""

    @abstractmethod
    def expire(self, arrived_before_seconds: float, reason: str) -> None:
        """Give up tasks that arrived before then."""

    def receive(self) -> None:
        """What has come."""
        for _ in range(_MESSAGES_PER_TURN):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._take(frames)
            except MalformedFrame:
                self.malformed += 1

    def watch(self) -> None:
        """Connections that broke, and new ones."""
        while self.monitor.poll(0):
            self._connected = recv_monitor_message(self.monitor)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
            if self._connected:
                self._began()
            else:
                self.disconnects += 1
                self._broke()

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(linger=0)  # disable_monitor leaves this end open, and term() would wait for it
        self.socket.close()

    def _try_send(self, frames: list[bytes | memoryview]) -> bool:
        """False: the socket takes none at the moment."""
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    @abstractmethod
    def _take(self, frames: list[bytes]) -> None:
        """One message of the edge. Raises MalformedFrame."""

    @abstractmethod
    def _began(self) -> None:
        """A connection begins."""

    @abstractmethod
    def _broke(self) -> None:
        """What the connection carried is lost with it."""

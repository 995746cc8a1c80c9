"""The edge's end of the wires: a ZeroMQ ROUTER for each UE, at the address of its own wire and there alone.

Who speaks is known from the wire on which it arrives, whatever it says that it is. libzmq bounds the parts of a message
but not their number, and holds them until the last one has come: what a connection has brought beyond what was read of
it is watched, and a UE that wants more than a window is cut off, for longer each time.
"""

from __future__ import annotations

import collections
import os
import socket
import struct
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import zmq
from zmq.utils.monitor import recv_monitor_message

from testbed.inference.tensors import MAX_TENSORS
from testbed.node import task_frames

#: Of a message: a task's opening has a chunk's frame, a header and a part for each tensor.
MOST_PARTS = MAX_TENSORS + 2
CHECK_SECONDS = 0.1
#: What a UE may have sent that is not read yet, beside what its link carries in its round trip.
SLACK_BYTES = 4 << 20
_WINDOWS = 4  # of the present rate: the UE's estimate of it may be ahead
_WINDOW_SECONDS = 0.1
#: Connections that a UE may open between two checks; a UE that comes back makes one every 100 ms.
_MOST_ACCEPTED = 8
_LONGEST_CUT_SECONDS = 10.0
_RECEIVE_HIGH_WATER = 256
_BYTES_RECEIVED = struct.Struct("128xQ")  # of struct tcp_info: tcpi_bytes_received
_DEFAULT_RATE = 10e6


@dataclass(eq=False)
class _Peer:
    """A UE's socket, and the connections to it: (descriptor, inode), the newest last."""

    ue: str
    endpoint: str
    round_trip_seconds: float
    socket: zmq.Socket[bytes] | None = None
    monitor: zmq.Socket[bytes] | None = None
    connections: list[tuple[int, int]] = field(default_factory=list)
    read_bytes: int = 0  # by us, of the newest connection
    rate_bits_per_second: float = _DEFAULT_RATE
    cuts: int = 0
    again_seconds: float = 0.0

    @property
    def most_unread_bytes(self) -> float:
        window = self.rate_bits_per_second / 8 * (self.round_trip_seconds + _WINDOW_SECONDS)
        return SLACK_BYTES + _WINDOWS * window


class UeSockets:
    """Used by one thread, but for :meth:`take_cuts`."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoints: Mapping[str, tuple[str, float]],
        *,
        part_bytes: int,
        send_high_water: int,
    ) -> None:
        """``endpoints`` by UE: ``tcp://ADDRESS:PORT``, and the configured round trip of its wire in seconds.

        Raises zmq.ZMQError where one cannot be bound.
        """
        self._context, self._part_bytes, self._send_high_water = context, part_bytes, send_high_water
        self._poller: zmq.Poller | None = None
        self._peers = {ue: _Peer(ue, endpoint, trip) for ue, (endpoint, trip) in endpoints.items()}
        self._by_socket: dict[zmq.Socket[bytes], _Peer] = {}
        self._checked_seconds = time.monotonic()
        self._cuts: collections.deque[tuple[str, str]] = collections.deque()
        for peer in self._peers.values():
            self._open(peer)

    def poll_with(self, poller: zmq.Poller) -> None:
        """Register all sockets, now and whenever one is made anew."""
        self._poller = poller
        for sock in self._by_socket:
            poller.register(sock, zmq.POLLIN)

    def rates(self, bits_per_second: Mapping[str, float]) -> None:
        """What the uplinks are decided to carry: it bounds what may be under way."""
        for ue, rate in bits_per_second.items():
            if ue in self._peers:
                self._peers[ue].rate_bits_per_second = rate

    def received(self, ready: Collection[object], most: int) -> Iterator[tuple[str, list[memoryview] | None]]:
        """Up to ``most`` messages from each socket that is ready, in turns; None for one that nobody may send."""
        turn = [self._by_socket[one] for one in ready if one in self._by_socket]
        for _ in range(most):
            for peer in list(turn):
                if peer.socket is None:
                    turn.remove(peer)
                    continue
                try:
                    frames = self._message(peer.socket)
                except zmq.Again:
                    turn.remove(peer)
                    continue
                if frames is None:
                    self._cut(peer, f"a message of more than {MOST_PARTS} parts")
                    continue
                peer.read_bytes += task_frames.stream_bytes(len(frame) for frame in frames[1:])
                own = bytes(frames[0]) == peer.ue.encode()
                yield peer.ue, frames[1:] if own else None
            if not turn:
                return

    def send(self, ue: str, frames: Collection[bytes | memoryview]) -> bool:
        """False if the UE's queue is full, or it is gone."""
        sock = self._peers[ue].socket
        if sock is None:
            return False
        try:
            sock.send_multipart([ue.encode(), *frames], zmq.NOBLOCK)
        except zmq.ZMQError:  # EAGAIN: the UE's queue is full; EHOSTUNREACH: it is gone
            return False
        return True

    def check(self, now_seconds: float) -> None:
        """Look at what the connections hold; bind again what was cut off. Does nothing more often than it has to."""
        if now_seconds < self._checked_seconds + CHECK_SECONDS:
            return
        self._checked_seconds = now_seconds
        for peer in self._peers.values():
            if peer.socket is None:
                if now_seconds >= peer.again_seconds:
                    with suppress(zmq.ZMQError):  # what was there is still being closed
                        self._open(peer)
                continue
            self._follow(peer)
            unread = self._unread_bytes(peer)
            if unread > peer.most_unread_bytes:
                self._cut(peer, f"{unread} bytes of messages without an end")

    def take_cuts(self) -> list[tuple[str, str]]:
        """Which UEs were cut off since the last call, and why. Any one thread may ask."""
        return [self._cuts.popleft() for _ in range(len(self._cuts))]

    def close(self) -> None:
        for peer in self._peers.values():
            self._shut(peer)

    @staticmethod
    def _message(sock: zmq.Socket[bytes]) -> list[memoryview] | None:
        frame = sock.recv(zmq.NOBLOCK, copy=False)
        frames = [frame.buffer]
        while frame.more:
            if len(frames) > MOST_PARTS:
                return None
            frame = sock.recv(zmq.NOBLOCK, copy=False)
            frames.append(frame.buffer)
        return frames

    # ------------------------------------------------------------------------------------------------- connections

    def _open(self, peer: _Peer) -> None:
        sock = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.ROUTER_HANDOVER, 1),
            (zmq.MAXMSGSIZE, self._part_bytes),
            (zmq.LINGER, 0),
            (zmq.SNDHWM, self._send_high_water),
            (zmq.RCVHWM, _RECEIVE_HIGH_WATER),
        ):
            sock.set(option, value)
        peer.monitor = sock.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        peer.connections.clear()
        try:
            sock.bind(peer.endpoint)
        except zmq.ZMQError:
            peer.socket = sock
            self._shut(peer)
            raise
        peer.socket = sock
        self._by_socket[sock] = peer
        if self._poller is not None:
            self._poller.register(sock, zmq.POLLIN)

    def _shut(self, peer: _Peer) -> None:
        if peer.socket is None:
            return
        if self._poller is not None and self._by_socket.pop(peer.socket, None) is not None:
            self._poller.unregister(peer.socket)
        peer.socket.disable_monitor()
        if peer.monitor is not None:
            peer.monitor.close(linger=0)
        peer.socket.close(linger=0)
        peer.socket = peer.monitor = None

    def _cut(self, peer: _Peer, reason: str) -> None:
        """With all that it has sent. It may come back after a while."""
        self._shut(peer)
        peer.again_seconds = time.monotonic() + min(CHECK_SECONDS * 2**peer.cuts, _LONGEST_CUT_SECONDS)
        peer.cuts += 1
        self._cuts.append((peer.ue, reason))

    def _follow(self, peer: _Peer) -> None:
        """Connections that came and went; of several the newest stays."""
        assert peer.monitor is not None
        accepted = 0
        while peer.monitor.poll(0):
            event = recv_monitor_message(peer.monitor)
            descriptor = int(event["value"])
            if event["event"] == zmq.EVENT_ACCEPTED:
                accepted += 1
                if accepted > _MOST_ACCEPTED:
                    self._cut(peer, f"more than {_MOST_ACCEPTED} connections at once")
                    return
                with suppress(OSError):  # it is gone already
                    peer.connections.append((descriptor, os.fstat(descriptor).st_ino))
            else:
                peer.connections = [one for one in peer.connections if one[0] != descriptor]
        if accepted:  # what was read of the newest until now nobody has counted by itself
            peer.read_bytes = 0
            peer.read_bytes = self._unread_bytes(peer)
        for connection in peer.connections[:-1]:
            with suppress(OSError), _borrowed(peer, connection) as sock:
                sock.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _unread_bytes(peer: _Peer) -> int:
        if not peer.connections:
            return 0
        with suppress(OSError), _borrowed(peer, peer.connections[-1]) as sock:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.size)
            if len(info) == _BYTES_RECEIVED.size:
                received: int = _BYTES_RECEIVED.unpack(info)[0]
                return received - peer.read_bytes
        return 0


def _borrowed(peer: _Peer, connection: tuple[int, int]) -> socket.socket:
    """A connection of libzmq's, for a moment: kept, it would outlive its end. Raises OSError if it is not there."""
    descriptor, inode = connection
    sock = socket.socket(fileno=os.dup(descriptor))
    if os.fstat(sock.fileno()).st_ino != inode or not peer.endpoint.endswith("{}:{}".format(*sock.getsockname())):
        sock.close()
        raise OSError("another one has its number by now")
    return sock

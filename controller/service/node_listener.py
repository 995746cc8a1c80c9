"""Where a program that others depend on hears nodes: a UNIX socket for each node, which knows who speaks by where it
arrives, and takes no more from a node than it has room for.

Nodes use ordinary ZeroMQ sockets (DEALER, PUSH); this is the other end of ZMTP 3.0 (RFC 23, mechanism NULL). libzmq's
own other end cannot be used: it holds a message of any number of parts until the last one has come (820 MB in five
seconds, with a limit on each part), believes a peer what its identity is, and ends the process when it is out of
descriptors.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

_SIGNATURE_BYTES = 10
_GREETING = b"\xff" + bytes(7) + b"\x01\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_MORE, _LONG, _COMMAND = 1, 2, 4
_READY = b"\x05READY"
_SOCKET_TYPE = b"\x0bSocket-Type"
#: The kind of socket that connects to each.
_OTHER_END = {"ROUTER": b"DEALER", "PULL": b"PUSH"}
_ACCEPTS_PER_TURN = 8
#: What a message, and a connection, cost beside their bytes: the time that they take to be handled.
_MESSAGE_COST_BYTES = 256
_CONNECTION_COST_BYTES = 8192
_BACKLOG = 16
#: Of a node; the rest is only counted.
_MOST_NOTICES = 10


@dataclass(frozen=True)
class Limits:
    """What is taken from one node. Beyond its rate it has to wait, beyond the others its connection is closed."""

    message_bytes: int
    bytes_per_second: float
    burst_bytes: float
    unsent_bytes: int = 16 << 20  # for a node that does not read
    connections: int = 4  # the newest ones: what a killed process had may linger for a moment
    read_bytes: int = 64 << 10  # at a time, before it is somebody else's turn


class _BrokenError(Exception):
    """A connection does not speak the protocol, or wants more than it may."""


@dataclass(eq=False)
class Connection:
    """One of a node's: what it asks is answered on the same."""

    node: _Node
    socket: socket.socket
    came: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    greeted: bool = False
    ready: bool = False

    def frames(self, expected: bytes, limit_bytes: int, found: list[bytes]) -> None:
        """Append whole messages of what has come to ``found``. Raises _BrokenError."""
        if not self.greeted:
            if len(self.came) < len(_GREETING):
                return
            if self.came[0] != 0xFF or self.came[9] != 0x7F or self.came[_SIGNATURE_BYTES] < 3:
                raise _BrokenError("it does not speak ZMTP 3")
            if not self.came[12:32].startswith(b"NULL\0"):
                raise _BrokenError("it wants another security mechanism")
            del self.came[: len(_GREETING)]
            self.greeted = True
        position = 0
        while (frame := self._frame(position, limit_bytes)) is not None:
            flags, body, position = frame
            if flags & _COMMAND:
                if self.ready or not body.startswith(_READY):
                    raise _BrokenError("an unexpected command")
                if _SOCKET_TYPE + struct.pack(">I", len(expected)) + expected not in body:
                    raise _BrokenError(f"its socket is no {expected.decode()}")
                self.ready = True
            elif not self.ready:
                raise _BrokenError("a message before the handshake")
            elif flags & _MORE:
                raise _BrokenError("a message of several parts")
            else:
                found.append(body)
        del self.came[:position]

    def _frame(self, position: int, limit_bytes: int) -> tuple[int, bytes, int] | None:
        if len(self.came) < position + 2:
            return None
        flags = self.came[position]
        if flags & ~(_MORE | _LONG | _COMMAND):
            raise _BrokenError(f"flags {flags}")
        start = position + (9 if flags & _LONG else 2)
        if len(self.came) < start:
            return None
        size = int.from_bytes(self.came[position + 1 : start], "big")
        if size > limit_bytes:
            raise _BrokenError(f"a message of {size} bytes, and {limit_bytes} are allowed")
        end = start + size
        return (flags, bytes(self.came[start:end]), end) if len(self.came) >= end else None


@dataclass(eq=False)
class _Node:
    """A node, its listening socket and its connections, the newest last."""

    name: str
    limits: Limits
    path: Path
    listener: socket.socket
    connections: list[Connection] = field(default_factory=list)
    room_bytes: float = 0.0  # that it may still send before it has to wait
    filled_seconds: float = 0.0
    paused: bool = False
    broken: int = 0

    def fill(self, now_seconds: float) -> None:
        more = (now_seconds - self.filled_seconds) * self.limits.bytes_per_second
        self.room_bytes = min(self.room_bytes + more, self.limits.burst_bytes)
        self.filled_seconds = now_seconds


class NodeListener:
    """Hears nodes and, as a ROUTER, answers them. Never blocks; used by one thread, which polls :meth:`fileno`."""

    def __init__(self, kind: Literal["ROUTER", "PULL"], nodes: Mapping[str, tuple[Path, Limits]]) -> None:
        """``nodes``: where each is heard, and how much. What lies at a path is replaced, as libzmq does."""
        self._expected = _OTHER_END[kind]
        body = _READY + _SOCKET_TYPE + struct.pack(">I", len(kind)) + kind.encode()
        self._hello = _GREETING + bytes((_COMMAND, len(body))) + body
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, _Node | Connection] = {}
        self._paused: list[_Node] = []
        self.notices: list[tuple[str, str]] = []  # node and what was wrong; whoever reads them clears them
        self.broken = 0  # connections that were closed for it
        self._nodes: dict[str, _Node] = {}
        for name, (path, limits) in nodes.items():
            node = _Node(name, limits, path, _listen(path), room_bytes=limits.burst_bytes)
            node.filled_seconds = time.monotonic()
            self._nodes[name] = node
            self._watch(node.listener, node)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def wait(self, seconds: float) -> bool:
        """Until something can be read; False if the time passes."""
        return bool(self._epoll.poll(seconds))

    def received(self) -> list[tuple[str, bytes]]:
        """Node and message of some of what has come: of each connection what it has sent, up to its limit."""
        return [(connection.node.name, message) for connection, message in self.heard()]

    def heard(self) -> list[tuple[Connection, bytes]]:
        """The same, with who has to be answered."""
        now = time.monotonic()
        for node in [one for one in self._paused if self._may_go_on(one, now)]:
            self._paused.remove(node)
            node.paused = False
            self._watch(node.listener, node)
            for connection in node.connections:
                self._watch(connection.socket, connection)
        found: list[tuple[Connection, bytes]] = []
        for descriptor, events in self._epoll.poll(0):
            ready = self._by_descriptor.get(descriptor)
            if isinstance(ready, _Node):
                self._accept(ready)
            elif ready is not None:
                if events & select.EPOLLOUT:
                    self._flush(ready)
                if events & ~select.EPOLLOUT and ready.socket.fileno() >= 0:
                    found += self._read(ready, now)
        return found

    def send(self, node: str, message: bytes) -> bool:
        """To a node's newest connection; False if it has none, or does not read."""
        connection = next((one for one in reversed(self._nodes[node].connections) if one.ready), None)
        return connection is not None and self.answer(connection, message)

    def answer(self, connection: Connection, message: bytes) -> bool:
        """False if whoever asked is gone, or does not read."""
        room = connection.node.limits.unsent_bytes - len(connection.unsent)
        if connection not in connection.node.connections or len(message) > room:
            return False
        long = len(message) > 255
        connection.unsent += struct.pack(">BQ", _LONG, len(message)) if long else bytes((0, len(message)))
        connection.unsent += message
        self._flush(connection)
        return True

    def close(self, linger_seconds: float = 0.0) -> None:
        """What has not been sent yet goes first, for as long as ``linger_seconds``."""
        deadline = time.monotonic() + linger_seconds
        unsent = [one for node in self._nodes.values() for one in node.connections if one.unsent]
        while unsent and time.monotonic() < deadline:
            select.select([], [one.socket for one in unsent], [], max(0.0, deadline - time.monotonic()))
            for connection in unsent:
                self._flush(connection)
            unsent = [one for one in unsent if one.unsent and one.socket.fileno() >= 0]
        for node in self._nodes.values():
            for connection in list(node.connections):
                self._drop(connection)
            node.listener.close()
            with suppress(FileNotFoundError):
                node.path.unlink()
        self._epoll.close()

    # ------------------------------------------------------------------------------------------------- connections

    def _watch(self, sock: socket.socket, owner: _Node | Connection) -> None:
        unsent = isinstance(owner, Connection) and owner.unsent
        self._by_descriptor[sock.fileno()] = owner
        self._epoll.register(sock, select.EPOLLIN | (select.EPOLLOUT if unsent else 0))

    def _forget(self, sock: socket.socket) -> None:
        if self._by_descriptor.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock)

    def _accept(self, node: _Node) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, _ = node.listener.accept()
            except OSError:  # none waits, or this process has no descriptor left: they wait
                return
            sock.setblocking(False)
            connection = Connection(node, sock, unsent=bytearray(self._hello))
            node.connections.append(connection)
            self._watch(sock, connection)
            self._flush(connection)
            while len(node.connections) > node.limits.connections:
                self._drop(node.connections[0])
            if self._spent(node, _CONNECTION_COST_BYTES):
                return

    def _read(self, connection: Connection, now_seconds: float) -> list[tuple[Connection, bytes]]:
        node = connection.node
        try:
            data = connection.socket.recv(node.limits.read_bytes)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return []
        connection.came += data
        messages: list[bytes] = []
        try:
            connection.frames(self._expected, node.limits.message_bytes, messages)
        except _BrokenError as error:
            self._drop(connection)
            self.complain(node.name, f"its connection was closed: {error}")
        node.fill(now_seconds)
        self._spent(node, len(data) + _MESSAGE_COST_BYTES * len(messages))
        return [(connection, message) for message in messages]

    def complain(self, node: str, text: str) -> None:
        """Something was wrong with what a node said: count it, and remember the first few."""
        known = self._nodes[node]
        known.broken += 1
        self.broken += 1
        if known.broken <= _MOST_NOTICES:
            more = "" if known.broken < _MOST_NOTICES else " (what follows of this kind is only counted)"
            self.notices.append((node, text + more))

    def _flush(self, connection: Connection) -> None:
        before = bool(connection.unsent)
        try:
            sent = connection.socket.send(connection.unsent) if connection.unsent else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(connection)
            return
        del connection.unsent[:sent]
        if before and connection.socket.fileno() in self._by_descriptor:
            self._epoll.modify(connection.socket, select.EPOLLIN | (select.EPOLLOUT if connection.unsent else 0))

    def _drop(self, connection: Connection) -> None:
        self._forget(connection.socket)
        connection.socket.close()
        with suppress(ValueError):
            connection.node.connections.remove(connection)

    # ------------------------------------------------------------------------------------------------------- rates

    def _spent(self, node: _Node, cost_bytes: float) -> bool:
        """Charge a node; True if it has to wait now."""
        node.room_bytes -= cost_bytes
        if node.room_bytes > 0 or node.paused:
            return node.paused
        node.paused = True
        self._paused.append(node)
        self._forget(node.listener)
        for connection in node.connections:
            self._forget(connection.socket)
        return True

    def _may_go_on(self, node: _Node, now_seconds: float) -> bool:
        node.fill(now_seconds)
        return node.room_bytes > 0


def _listen(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):  # of a process that was killed
            path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    listener.bind(str(path))
    listener.listen(_BACKLOG)
    return listener

"""The controller's sockets: one for each node and one for the operator. None blocks."""

from __future__ import annotations

import errno
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import zmq

from controller.service.admission import limits_of
from controller.service.node_listener import NodeListener
from controller.service.protocol import Message, encode

logger = logging.getLogger("controller")

_OPERATOR_HIGH_WATER_MARK = 1000  # messages per command
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_LINGER_MILLISECONDS = 1000


class ControlPort:
    """Sends to nodes by name; what a peer does not take is dropped and told in the log."""

    def __init__(self, nodes: Mapping[str, Path], operator: Path) -> None:
        """``nodes`` and ``operator``: the sockets at which they are heard."""
        # The wake-up pipe lets other threads and signal handlers interrupt the poll.
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._nodes = NodeListener("ROUTER", {node: (path, limits_of(node)) for node, path in nodes.items()})
        self._context = zmq.Context()
        self._operators = self._bind_router(operator)
        self._poller = zmq.Poller()
        for readable in (self._operators, self._nodes, self._wake_read):
            self._poller.register(readable, zmq.POLLIN)

    def wait(self, seconds: float) -> None:
        """Until something arrives, somebody wakes it, or the time is over."""
        if self._wake_read in dict(self._poller.poll(max(0, math.ceil(seconds * 1000)))):
            os.read(self._wake_read, 4096)

    def wake(self) -> None:
        """End :meth:`wait`. For any thread, and in signal handlers."""
        if self._wake_write < 0:
            return
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:  # full of wake-ups: one more is not needed
            return

    def from_nodes(self) -> list[tuple[str, bytes]]:
        """Some of what has come: who says it, and the message."""
        return self._nodes.received()

    def from_operators(self) -> Iterator[list[bytes]]:
        """All commands that have come, frame by frame: the sender's id first."""
        while True:
            try:
                frames = self._operators.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield frames

    def complain(self, node: str, text: str) -> None:
        """A node has said something that it may not say."""
        self._nodes.complain(node, text)

    def take_complaints(self) -> list[tuple[str, str]]:
        """The first few of each node, since the last call."""
        found = list(self._nodes.notices)
        self._nodes.notices.clear()
        return found

    def send(self, node: str, message: Message) -> bool:
        """False if the node is gone or does not read."""
        if self._nodes.send(node, encode(message)):
            return True
        logger.warning("%s did not reach %s", type(message).__name__, node)
        return False

    def answer(self, identity: bytes, message: Message) -> None:
        """To a command; it may have given up."""
        try:
            self._operators.send_multipart([identity, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (errno.EHOSTUNREACH, errno.EAGAIN):
                raise
            logger.warning("%s did not reach %r: %s", type(message).__name__, identity, error)

    def close(self) -> None:
        """What was sent still arrives, for as long as LINGER says."""
        if self._nodes.broken:
            logger.warning("%d messages or connections of nodes were refused", self._nodes.broken)
        self._nodes.close(_LINGER_MILLISECONDS / 1000)
        self._operators.close()
        self._context.term()
        self._wake_write, write = -1, self._wake_write
        os.close(self._wake_read)
        os.close(write)

    def _bind_router(self, path: Path) -> zmq.Socket[bytes]:
        """An unknown peer is an error instead of silence."""
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.SNDHWM, _OPERATOR_HIGH_WATER_MARK)
        socket.setsockopt(zmq.RCVHWM, _OPERATOR_HIGH_WATER_MARK)
        socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.LINGER, _LINGER_MILLISECONDS)
        path.parent.mkdir(parents=True, exist_ok=True)
        socket.bind(f"ipc://{path}")
        return socket

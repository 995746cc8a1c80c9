"""The controller's sockets: one for each node and one for the command line, and a PUSH to the recorder. None blocks."""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Iterable, Iterator

import zmq

from controller.service.node_listener import NodeListener
from controller.service.protocol import Message, encode
from testbed.protocol.records import Event, SlotRecord
from testbed.protocol.roles import CONTROLLER, control_sockets
from testbed.protocol.sockets import control_endpoint, make_folder, records_endpoint
from testbed.runtime.base import OPERATOR

logger = logging.getLogger("testbed.controller")

_OPERATOR_HIGH_WATER_MARK = 1000  # messages per command
_RECORDS_HIGH_WATER_MARK = 10_000
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_LINGER_MILLISECONDS = 1000


class ControlPort:
    """Sends to nodes by name; what a peer or the recorder does not take is dropped and told in the log."""

    def __init__(self, lab_directory: str, nodes: Iterable[str], wake_descriptor: int) -> None:
        self._wake_descriptor = wake_descriptor
        self._dropped_records = 0
        self._nodes = NodeListener("ROUTER", control_sockets(lab_directory, nodes))
        self._context = zmq.Context()
        self._operators = self._bind_router(control_endpoint(lab_directory, OPERATOR))
        self._records = self._connect_push(records_endpoint(lab_directory, CONTROLLER))
        self._poller = zmq.Poller()
        for readable in (self._operators, self._nodes, wake_descriptor):
            self._poller.register(readable, zmq.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Until something arrives or the time is over; True if the wake descriptor is readable."""
        ready = dict(self._poller.poll(max(0, math.ceil(seconds * 1000))))
        return self._wake_descriptor in ready

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

    def record(self, record: SlotRecord | Event) -> None:
        """To the recorder; dropped when it has not taken the last ten thousand."""
        try:
            self._records.send(encode(record), zmq.NOBLOCK)
        except zmq.Again:
            self._dropped_records += 1

    def close(self) -> None:
        """What was sent still arrives, for as long as LINGER says."""
        if self._dropped_records:
            logger.warning("%d records were dropped: the recorder did not take them", self._dropped_records)
        if self._nodes.broken:
            logger.warning("%d messages or connections of nodes were refused", self._nodes.broken)
        self._nodes.close(_LINGER_MILLISECONDS / 1000)
        self._operators.close()
        self._records.close()
        self._context.term()

    def _bind_router(self, endpoint: str) -> zmq.Socket[bytes]:
        """An unknown peer is an error instead of silence."""
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.SNDHWM, _OPERATOR_HIGH_WATER_MARK)
        socket.setsockopt(zmq.RCVHWM, _OPERATOR_HIGH_WATER_MARK)
        socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.LINGER, _LINGER_MILLISECONDS)
        make_folder(endpoint)
        socket.bind(endpoint)
        return socket

    def _connect_push(self, endpoint: str) -> zmq.Socket[bytes]:
        """Records wait for a recorder that binds later."""
        socket = self._context.socket(zmq.PUSH)
        socket.setsockopt(zmq.SNDHWM, _RECORDS_HIGH_WATER_MARK)
        socket.setsockopt(zmq.LINGER, _LINGER_MILLISECONDS)
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        socket.connect(endpoint)
        return socket

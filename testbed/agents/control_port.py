"""The controller's two sockets: a ROUTER that everybody connects to, a PUSH to the recorder. Neither ever blocks."""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Iterator

import zmq

from testbed.messages import Event, Message, SlotRecord, control_endpoint, encode, records_endpoint

logger = logging.getLogger("testbed.controller")

_CONTROL_HIGH_WATER_MARK = 1000  # messages per peer
_RECORDS_HIGH_WATER_MARK = 10_000
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_LINGER_MILLISECONDS = 1000


class ControlPort:
    """Sends to nodes by name; what a peer or the recorder does not take is dropped and told in the log."""

    def __init__(self, lab_directory: str, wake_descriptor: int) -> None:
        self._wake_descriptor = wake_descriptor
        self._dropped_records = 0
        self._context = zmq.Context()
        self._router = self._bind_router(control_endpoint(lab_directory))
        self._records = self._connect_push(records_endpoint(lab_directory))
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(wake_descriptor, zmq.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Until something arrives or the time is over; True if the wake descriptor is readable."""
        ready = dict(self._poller.poll(max(0, math.ceil(seconds * 1000))))
        return self._wake_descriptor in ready

    def received(self) -> Iterator[list[bytes]]:
        """Everything that has arrived, frame by frame: the sender's id first."""
        while True:
            try:
                frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield frames

    def send(self, identity: bytes, message: Message) -> bool:
        """False if the peer is gone or does not read."""
        try:
            self._router.send_multipart([identity, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (errno.EHOSTUNREACH, errno.EAGAIN):
                raise
            logger.warning("%s did not reach %r: %s", type(message).__name__, identity, error)
            return False
        return True

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
        self._router.close()
        self._records.close()
        self._context.term()

    def _bind_router(self, endpoint: str) -> zmq.Socket[bytes]:
        """An unknown peer is an error instead of silence; a node that comes back takes its id over."""
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        socket.setsockopt(zmq.SNDHWM, _CONTROL_HIGH_WATER_MARK)
        socket.setsockopt(zmq.RCVHWM, _CONTROL_HIGH_WATER_MARK)
        socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
        socket.setsockopt(zmq.LINGER, _LINGER_MILLISECONDS)
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

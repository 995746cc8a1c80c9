"""A client of a lab's controller: what the command line says to a running lab."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec
import zmq

from controller.service.protocol import Begin, Control, Reply, Status, StatusRequest, decode_control, encode
from testbed.errors import TestbedError, first_line
from testbed.protocol.sockets import control_endpoint
from testbed.runtime.base import OPERATOR

Answer = TypeVar("Answer", Reply, Status)


class ControllerSilentError(TestbedError):
    """The controller did not answer in time, or not in a way that this version understands."""


class ControlClient:
    """One DEALER to the lab's controller. Not thread-safe."""

    def __init__(self, lab_directory: Path, context: zmq.Context[zmq.Socket[bytes]] | None = None) -> None:
        self._socket = (context or zmq.Context.instance()).socket(zmq.DEALER)
        self._socket.setsockopt(zmq.ROUTING_ID, f"cli-{os.getpid()}-{time.monotonic_ns():x}".encode())
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 100)
        self._socket.setsockopt(zmq.RCVHWM, 100)
        self._socket.connect(control_endpoint(lab_directory, OPERATOR))

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def _ask(self, message: Control, kind: type[Answer], timeout_seconds: float) -> Answer:
        while self._socket.poll(0):  # answers to questions that were given up
            self._socket.recv()
        deadline = time.monotonic() + timeout_seconds
        unread = ""
        # a controller that has not come up yet leaves no room after a hundred questions
        if self._socket.poll(max(1, int(timeout_seconds * 1000)), zmq.POLLOUT):
            self._socket.send(encode(message), zmq.NOBLOCK)
        while (left := deadline - time.monotonic()) > 0:
            if not self._socket.poll(max(1, int(left * 1000))):
                continue
            try:
                answer = decode_control(self._socket.recv())
            except msgspec.DecodeError as error:
                unread = f" (what came cannot be read, as from another version of the testbed: {first_line(error)})"
                continue
            if isinstance(answer, kind):
                return answer
        raise ControllerSilentError(
            f"the lab's controller did not answer {type(message).__name__} within {timeout_seconds:g} s{unread}; "
            f"see its log with: testbed logs controller"
        )

    def status(self, timeout_seconds: float = 2.0) -> Status:
        """What the controller knows. Raises ControllerSilentError."""
        return self._ask(StatusRequest(), Status, timeout_seconds)

    def begin(self, duration_seconds: float | None, drain_seconds: float) -> None:
        """Start slot 0. Raises TestbedError if the controller refuses."""
        self.command(Begin(duration_seconds=duration_seconds, drain_seconds=drain_seconds))

    def command(self, message: Control, timeout_seconds: float = 5.0) -> str:
        """Any command that is answered by a Reply; returns its text. Raises TestbedError if it was refused."""
        reply = self._ask(message, Reply, timeout_seconds)
        if not reply.ok:
            raise TestbedError(f"the controller refused {type(message).__name__}: {reply.text}")
        return reply.text

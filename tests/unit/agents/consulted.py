"""UEs that answer questions over real ipc sockets, each a thread; the controller's end runs its port in another."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import zmq

from controller.contract import Scenario
from controller.service import protocol
from controller.service.admission import said_to_controller
from controller.service.consultation import Consultation
from controller.service.control_port import ControlPort
from testbed.mechanisms.delegation.adviser import Adviser
from testbed.protocol import sockets
from testbed.runtime.base import OPERATOR

#: Whether the n-th message that a UE receives or sends gets lost.
Loses = Callable[[int], bool]


class ConsultedUe:
    """One UE's control socket and adviser, as in its agent."""

    def __init__(self, directory: Path, name: str, loses: Loses) -> None:
        self._directory, self.name, self._loses = directory, name, loses
        self._count = itertools.count()
        self.lost = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def leave(self) -> None:
        self._end.set()
        self._thread.join()

    def _lost(self) -> bool:
        lost = self._loses(next(self._count))
        self.lost += lost
        return lost

    def _run(self) -> None:
        adviser = Adviser(self.name)
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.setsockopt(zmq.LINGER, 0)
            dealer.setsockopt(zmq.ROUTING_ID, self.name.encode())
            dealer.connect(sockets.control_endpoint(self._directory, self.name))
            dealer.send(protocol.encode(protocol.Hello(self.name, "ue", os.getpid())))
            while not self._end.is_set():
                if not dealer.poll(10):
                    continue
                message = protocol.decode_control(dealer.recv())
                if self._lost():
                    continue
                if isinstance(message, protocol.Delegation):
                    adviser.accept(message)
                elif isinstance(message, protocol.Question):
                    answer = adviser.answer(message)
                    if not self._lost():
                        dealer.send(protocol.encode(answer))


class Consulting:
    """The controller's main loop, as far as questions are concerned."""

    def __init__(self, directory: Path, scenario: Scenario, policy: str, options: dict[str, object]) -> None:
        (directory / "ipc").mkdir(parents=True)
        self._directory = directory
        nodes = {str(ue.name): sockets.socket_path(directory, ue.name, "control") for ue in scenario.ues}
        self._port = ControlPort(nodes, sockets.socket_path(directory, OPERATOR, "control"))
        self.consultation = Consultation(policy, options, scenario, self._port.wake)
        self.ues: dict[str, ConsultedUe] = {}
        self.greeted: set[str] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def join(self, name: str, loses: Loses = lambda number: False) -> None:
        """Returns when the controller knows it."""
        self.greeted.discard(name)
        self.ues[name] = ConsultedUe(self._directory, name, loses)
        while name not in self.greeted:
            self._end.wait(0.002)

    def __enter__(self) -> Consulting:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for ue in self.ues.values():
            ue.leave()
        self._end.set()
        self._port.wake()
        self._thread.join()
        self._port.close()

    def _run(self) -> None:
        while not self._end.is_set():
            self._port.wait(0.5)
            for node, frame in self._port.from_nodes():
                message = said_to_controller(node, frame)
                if isinstance(message, protocol.Hello):
                    self.consultation.greet(node)
                    self.greeted.add(message.node)
                elif isinstance(message, protocol.Response):
                    self.consultation.take(message)
            for node, message in self.consultation.due():
                self._port.send(node, message)

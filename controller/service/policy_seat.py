"""The policy that decides, each in a worker of its own, and how another takes over while slots go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from controller.contract import DecentralisedPolicy, Policy, Scenario
from controller.seeds import Purpose, integer
from controller.service.consultation import Consultation
from controller.service.protocol import Message, Response
from controller.service.worker import PolicyWorker

#: A policy by name and options; raises ValueError for what there is none of. ``controller.policies.registry.create``.
MakePolicy = Callable[[str, Mapping[str, Any]], Policy]


@dataclass(frozen=True)
class Change:
    """What came of a request for another policy: ``text`` is for whoever asked, and for the log."""

    asked_by: bytes
    ok: bool
    name: str
    text: str


@dataclass(frozen=True)
class _Candidate:
    asked_by: bytes
    name: str
    worker: PolicyWorker


class PolicySeat:
    """Holds the policy in force and, while its reset runs, the one that is to follow. Used by the main loop."""

    def __init__(self, scenario: Scenario, seed: int, make: MakePolicy, wake: Callable[[], None]) -> None:
        """``seed``: the lab's root seed. ``wake`` is called from other threads when there is something to do."""
        self._scenario, self._seed, self._make, self._wake = scenario, seed, make, wake
        self._consultations: dict[PolicyWorker, Consultation] = {}  # of policies whose UEs decide for themselves
        self._candidate: _Candidate | None = None
        self._greeted = False  # somebody has said hello
        self.name = ""
        self.worker: PolicyWorker | None = None

    def take(self, name: str, options: Mapping[str, Any]) -> None:
        """Seat the first policy; its reset begins. Raises ValueError if there is none of that name and options."""
        self.name = name
        self.worker = self._begin(name, options)

    def propose(self, asked_by: bytes, name: str, options: Mapping[str, Any]) -> str:
        """Begin the reset of another policy; :meth:`changed` tells what comes of it. Returns why not, or nothing."""
        if self._candidate is not None or self.worker is None or not self.worker.ready:
            return "another policy is still being set up: try again"
        try:
            worker = self._begin(name, options)
        except ValueError as error:
            return str(error)
        self._candidate = _Candidate(asked_by, name, worker)
        return ""

    def changed(self) -> Change | None:
        """Once the reset of a proposed policy is over: it decides from now on, or the last one goes on."""
        if self._candidate is None or not self._candidate.worker.ready:
            return None
        candidate, self._candidate = self._candidate, None
        name, worker = candidate.name, candidate.worker
        if worker.reset_error:
            self._drop(worker)
            text = f"policy {name!r} failed in reset: {worker.reset_error}; {self.name!r} goes on"
            return Change(candidate.asked_by, False, name, text)
        if self.worker is not None:
            self._drop(self.worker)
        self.worker, self.name = worker, name
        return Change(candidate.asked_by, True, name, f"policy {name} decides from the next slot on")

    def greet(self, node: str) -> None:
        """A node has said hello: it may have to hear of policies."""
        self._greeted = True
        for consultation in self._consultations.values():
            consultation.greet(node)

    def answered(self, response: Response) -> None:
        """Hand over what a UE has answered."""
        for consultation in self._consultations.values():
            consultation.take(response)

    def due(self) -> Iterator[tuple[str, Message]]:
        """What is to be sent, and to whom."""
        for consultation in self._consultations.values():
            yield from consultation.due()

    def close(self) -> None:
        """Let the thread of the policy in force end after what it is doing."""
        if self.worker is not None:
            self.worker.close()

    def _begin(self, name: str, options: Mapping[str, Any]) -> PolicyWorker:
        policy = self._make(name, options)
        consultation = None
        if isinstance(policy, DecentralisedPolicy):
            consultation = Consultation(name, options, self._scenario, self._wake)
            policy.ask_through(consultation.ask)
        worker = PolicyWorker(policy, self._scenario, integer(self._seed, Purpose.POLICY), self._wake)
        if consultation is not None:
            self._consultations[worker] = consultation
            if self._greeted:
                consultation.introduce()
        return worker

    def _drop(self, worker: PolicyWorker) -> None:
        worker.close()
        self._consultations.pop(worker, None)

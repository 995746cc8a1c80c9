"""Asking UEs over the control sockets: what a decentralised policy needs.

The controller stands for the edge. Its policy thread asks one UE at a time (:meth:`Consultation.ask`); the main loop,
which owns the sockets, sends what is due and hands over what comes back. One question costs one message each way. A
question that is not answered in time is sent again under its number - a UE answers any number of times, and the same -
and after some tries the UE counts as gone until it answers again or says hello.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from controller.contract import Scenario, UeDecision, UeName, UeObservation
from controller.service import protocol

#: An answer takes a fraction of a millisecond, and some when the UE has to solve for a new rate.
ANSWER_SECONDS = 0.03
TRIES = 4
#: One who did not answer last time gets one short try.
GONE_SECONDS = 0.01


@dataclass
class Counters:
    """Since the start of the policy, for its metrics and tests."""

    questions: int = 0
    answers: int = 0
    sent_again: int = 0
    refused: int = 0  # the UE could not answer; the last reason is in :attr:`Consultation.last_error`


class Consultation:
    """One decentralised policy's questions. :meth:`ask` belongs to the policy's thread, the rest to the main loop."""

    def __init__(self, name: str, options: Mapping[str, Any], scenario: Scenario, wake: Callable[[], None]) -> None:
        self._name, self._options, self._scenario, self._wake = name, dict(options), scenario, wake
        self._number = next(_numbers)
        self._round = itertools.count()
        self._due: deque[tuple[str, protocol.Message]] = deque()
        self._answers: queue.SimpleQueue[protocol.Response] = queue.SimpleQueue()
        self._asked: tuple[str, int] | None = None  # whose answer to which question is waited for
        self._known: set[str] = set()  # UEs that have the policy
        self._gone: set[str] = set()
        self.counters = Counters()
        self.last_error = ""

    # ------------------------------------------------------------------------------------------ the policy's thread

    def ask(self, ue: UeName, signal: dict[str, float], state: UeObservation) -> UeDecision | None:
        """The answer of one UE; None if it is gone."""
        tries, seconds = (1, GONE_SECONDS) if ue in self._gone else (TRIES, ANSWER_SECONDS)
        question = protocol.Question(self._number, next(self._round), signal, state)
        for attempt in range(tries):
            self.counters.sent_again += attempt > 0
            if ue not in self._known:
                self._known.add(ue)
                self._send(ue, self._delegation(ue))
            self._asked = (ue, question.number)
            self._send(ue, question)
            self._wake()
            answer = self._await(ue, question.number, seconds * (1 + attempt))
            if answer is not None and answer.decision is not None:
                self._gone.discard(ue)
                self.counters.answers += 1
                return answer.decision
            if answer is not None:
                self.last_error = answer.error
                self.counters.refused += 1
            self._known.discard(ue)  # it may have been restarted: it gets the policy again
        self._gone.add(ue)
        return None

    def _send(self, ue: str, message: protocol.Message) -> None:
        self.counters.questions += isinstance(message, protocol.Question)
        self._due.append((ue, message))

    def _await(self, ue: str, number: int, seconds: float) -> protocol.Response | None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                answer = self._answers.get(timeout=left)
            except queue.Empty:
                return None
            if (answer.node, answer.number) == (ue, number):
                return answer
        return None

    def _delegation(self, ue: str) -> protocol.Delegation:
        own = tuple(one for one in self._scenario.ues if one.name == ue)
        return protocol.Delegation(
            self._number, self._name, self._options, msgspec.structs.replace(self._scenario, ues=own)
        )

    # ------------------------------------------------------------------------------------------------ the main loop

    def introduce(self) -> None:
        """Send every UE its part of the policy now, so that its first answer does not wait for that."""
        for ue in self._scenario.ues:
            self._known.add(ue.name)
            self._send(ue.name, self._delegation(ue.name))

    def due(self) -> Iterator[tuple[str, protocol.Message]]:
        """What is to be sent, and to whom."""
        while self._due:
            yield self._due.popleft()

    def take(self, response: protocol.Response) -> None:
        """What a UE has answered; anything that nobody asked it for is dropped."""
        own = response.decision is None or response.decision.name == response.node
        if response.delegation == self._number and (response.node, response.number) == self._asked and own:
            self._answers.put(response)

    def greet(self, node: str) -> None:
        """It has said hello: it may be a new process, which knows nothing."""
        for ue in self._scenario.ues:
            if ue.name == node:
                self._gone.discard(node)
                self._known.add(node)
                self._send(node, self._delegation(node))


_numbers = itertools.count(1)

"""One thread that owns a policy: a decision never blocks the slot clock, and two never run at once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from controller.contract import Decision, Observation, Policy, Scenario, SlotOutcome, watched_state

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """What a policy made of one observation; ``error`` is its exception in words, then ``decision`` is None."""

    slot: int
    decision: Decision | None
    decide_seconds: float
    state: dict[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class _Job:
    outcomes: tuple[SlotOutcome, ...]
    observation: Observation


class PolicyWorker:
    """Runs ``reset`` once, then one ``feedback`` + ``decide`` at a time, in a thread of its own.

    ``notify`` is called from that thread after the reset and after every answer; it must not block. The thread is a
    daemon: a policy that never returns is left behind when its worker is replaced or the process ends.
    """

    def __init__(self, policy: Policy, scenario: Scenario, seed: int, notify: Callable[[], None]) -> None:
        self._policy, self._scenario, self._seed, self._notify = policy, scenario, seed, notify
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._waiting_outcomes: list[SlotOutcome] = []
        self._busy = False
        self._reset_done = threading.Event()
        self._reset_error = ""
        threading.Thread(target=self._run, name="policy", daemon=True).start()

    @property
    def ready(self) -> bool:
        """The reset is over (it may compile or load for seconds); see :attr:`reset_error`."""
        return self._reset_done.is_set()

    @property
    def reset_error(self) -> str:
        """Why the reset failed, in words; empty if it did not (yet)."""
        return self._reset_error

    @property
    def busy(self) -> bool:
        """A decision was asked for and :meth:`poll` has not returned its answer yet."""
        return self._busy

    def submit(self, outcomes: Sequence[SlotOutcome], observation: Observation) -> bool:
        """Ask for a decision. False if the last one still runs (or the reset): outcomes are kept for the next."""
        self._waiting_outcomes.extend(outcomes)
        if self._busy or not self.ready or self._reset_error:
            return False
        self._busy = True
        self._jobs.put(_Job(tuple(self._waiting_outcomes), observation))
        self._waiting_outcomes.clear()
        return True

    def poll(self) -> Answer | None:
        """The answer, once it is there."""
        try:
            answer = self._answers.get_nowait()
        except queue.Empty:
            return None
        self._busy = False
        return answer

    def close(self) -> None:
        """Let the thread end after what it is doing."""
        self._jobs.put(None)

    def _run(self) -> None:
        try:
            self._policy.reset(self._scenario, self._seed)
        except BaseException as error:  # noqa: BLE001 - a user's policy may raise anything (SystemExit too); it is told
            self._reset_error = describe(error)
        self._reset_done.set()
        self._notify()
        while (job := self._jobs.get()) is not None:
            self._answers.put(self._answer(job))
            self._notify()

    def _answer(self, job: _Job) -> Answer:
        return ask(self._policy, job.outcomes, job.observation)


def ask(policy: Policy, outcomes: Sequence[SlotOutcome], observation: Observation) -> Answer:
    """What a policy makes of the outcomes since its last decision and of an observation. Whatever it raises is told."""
    slot, began = observation.slot, time.monotonic()

    def answer() -> Answer:
        for outcome in outcomes:
            policy.feedback(outcome)
        decision = policy.decide(observation)
        took = time.monotonic() - began
        return Answer(slot, decision, took, {str(key): float(value) for key, value in watched_state(policy).items()})

    found = attempt(answer)
    return found if isinstance(found, Answer) else Answer(slot, None, time.monotonic() - began, error=found)


def attempt(call: Callable[[], T]) -> T | str:
    """What a call into somebody's policy returns, or in words what it raised: it may raise anything, SystemExit too."""
    try:
        return call()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise  # not the policy's: somebody ends the program
        return describe(error)


def describe(error: BaseException) -> str:
    """An exception as one line."""
    return f"{type(error).__name__}: {error}"

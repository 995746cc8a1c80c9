"""The policy's thread."""

from __future__ import annotations

import threading

from controller.contract import Decision, Observation, Scenario, SlotOutcome
from controller.policies.examples import example_observation, example_scenario
from controller.policies.static import EdgeOnly
from controller.service.worker import Answer, PolicyWorker

SCENARIO = example_scenario(2)


class _Gated(EdgeOnly):
    """Decides when it is let through; remembers which outcomes it was told."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.told: list[SlotOutcome] = []

    def decide(self, observation: Observation) -> Decision:
        assert self.gate.acquire(timeout=10)
        return super().decide(observation)

    def feedback(self, outcome: SlotOutcome) -> None:
        self.told.append(outcome)


def _start(policy: EdgeOnly) -> tuple[PolicyWorker, threading.Semaphore]:
    notified = threading.Semaphore(0)
    worker = PolicyWorker(policy, SCENARIO, 1, notified.release)
    assert notified.acquire(timeout=10)
    return worker, notified


def _outcome(slot: int) -> SlotOutcome:
    policy = EdgeOnly()
    policy.reset(SCENARIO, 1)
    return SlotOutcome(slot=slot, decision=policy.decide(example_observation(SCENARIO, slot)), ues=())


def test_one_decision_at_a_time_and_no_outcome_is_lost() -> None:
    policy = _Gated()
    worker, notified = _start(policy)
    assert worker.ready
    assert worker.submit([], example_observation(SCENARIO, 0))
    assert worker.busy
    assert worker.poll() is None
    assert not worker.submit([_outcome(0)], example_observation(SCENARIO, 1))
    assert not worker.submit([_outcome(1)], example_observation(SCENARIO, 2))
    policy.gate.release(2)
    assert notified.acquire(timeout=10)
    answer = worker.poll()
    assert isinstance(answer, Answer)
    assert answer.slot == 0
    assert policy.told == []
    assert worker.submit([_outcome(2)], example_observation(SCENARIO, 3))
    assert notified.acquire(timeout=10)
    answer = worker.poll()
    assert answer is not None
    assert answer.slot == 3
    assert [outcome.slot for outcome in policy.told] == [0, 1, 2]
    worker.close()


def test_an_exception_is_an_answer() -> None:
    class Raises(EdgeOnly):
        def state(self) -> dict[str, float]:
            raise KeyError("queue")

    worker, notified = _start(Raises())
    worker.submit([], example_observation(SCENARIO, 0))
    assert notified.acquire(timeout=10)
    answer = worker.poll()
    assert answer is not None
    assert answer.decision is None
    assert answer.error == "KeyError: 'queue'"
    assert worker.submit([], example_observation(SCENARIO, 1))  # the thread lives on
    worker.close()


def test_a_reset_that_fails_takes_no_job() -> None:
    class Raises(EdgeOnly):
        def reset(self, scenario: Scenario, seed: int) -> None:
            raise OSError("no checkpoint")

    worker, _ = _start(Raises())
    assert worker.ready
    assert worker.reset_error == "OSError: no checkpoint"
    assert not worker.submit([], example_observation(SCENARIO, 0))
    worker.close()


def test_a_policy_that_exits_loses_its_slot_only() -> None:
    class Exits(EdgeOnly):
        def decide(self, observation: Observation) -> Decision:
            raise SystemExit(0) if observation.slot == 0 else KeyboardInterrupt

    worker, notified = _start(Exits())
    for slot, error in enumerate(("SystemExit: 0", "KeyboardInterrupt: ")):
        assert worker.submit([], example_observation(SCENARIO, slot)), "the thread lives on"
        assert notified.acquire(timeout=10)
        answer = worker.poll()
        assert answer is not None
        assert (answer.decision, answer.error) == (None, error)
    worker.close()

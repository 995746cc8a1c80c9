"""Each rule of ``check_policy`` against a policy that breaks it and nothing else."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import threading
import time
from typing import Any

import msgspec
import numpy as np
import pytest

from controller.contract import Decision, Observation, Scenario, SlotOutcome, UeDecision
from controller.policies.base import BasicPolicy
from controller.policies.check import PolicyError, check_policy
from controller.policies.examples import example_scenario
from controller.policies.static import EdgeOnly


class _Changed(EdgeOnly):
    """Edge-only with one field of the first UE's decision replaced."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def decide(self, observation: Observation) -> Decision:
        decision = super().decide(observation)
        first: UeDecision = msgspec.structs.replace(decision.ues[0], **self.changes)
        return msgspec.structs.replace(decision, ues=(first, *decision.ues[1:]))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"spectrum_up_hz": 1e9}, "sum of spectrum_up_hz is .* above the total"),
        ({"spectrum_down_hz": 1e9}, "sum of spectrum_down_hz"),
        ({"edge_share": 99.0}, "sum of edge_share"),
        ({"edge_share": -0.1}, "edge_share must be finite and not negative, got -0.1"),
        ({"edge_share": 0.0}, "cut 'input' needs edge_share above 0"),
        ({"spectrum_up_hz": math.nan}, "spectrum_up_hz must be finite"),
        ({"spectrum_up_hz": "8 MHz"}, "spectrum_up_hz must be a number, got '8 MHz'"),
        ({"device_speed": 0.0}, r"device_speed 0 is not in \(0, 0.1\]"),
        ({"device_speed": 0.2}, r"device_speed 0.2 is not in \(0, 0.1\]"),
        ({"transmit_watts": 0.0}, "transmit_watts must be above 0"),
        ({"cut": ("nonesuch",)}, "no graph value is called 'nonesuch'"),
        ({"cut": ("block1",)}, None),
        ({"cut": ("block1", "block2")}, None),
        ({"cut": ("block2", "block1")}, "not canonical"),
        ({"cut": ("stem", "block1")}, "not canonical"),
        ({"codec": "zip"}, "codec 'zip' is not this lab's; allowed: fp32, fp16, uint8"),
        ({"uploading": 3}, "needs a lab with 'uploading'"),
        ({"stop_rule": 3}, "wrong type"),
        ({"name": "ue9"}, "decided UEs are ue9"),
        ({"edge_share": np.float64(0.1)}, None),
    ],
)
def test_a_field_of_a_decision(changes: dict[str, Any], text: str | None) -> None:
    if text is None:
        check_policy(_Changed(**changes))
        return
    with pytest.raises(PolicyError, match=text):
        check_policy(_Changed(**changes))


class _NoDecision(EdgeOnly):
    def decide(self, observation: Observation) -> Any:
        return {"cut": "input"}


class _Twice(EdgeOnly):
    def decide(self, observation: Observation) -> Decision:
        decision = super().decide(observation)
        return msgspec.structs.replace(decision, ues=decision.ues + decision.ues)


class _Global(EdgeOnly):
    def state(self) -> dict[str, float]:
        return {"draw": float(np.random.random())}


class _GlobalPython(EdgeOnly):
    def state(self) -> dict[str, float]:
        return {"draw": random.random()}


class _Remembers(EdgeOnly):
    count = 0

    def feedback(self, outcome: SlotOutcome) -> None:
        self.count += 1

    def state(self) -> dict[str, float]:
        return {"count": float(self.count)}


class _Forgets(_Remembers):
    def reset(self, scenario: Scenario, seed: int) -> None:
        super().reset(scenario, seed)
        self.count = 0


class _InfiniteState(EdgeOnly):
    def state(self) -> dict[str, float]:
        return {"queue": math.inf}


class _TextState(EdgeOnly):
    def state(self) -> Any:
        return {"queue": "long"}


class _ChangesOutcome(EdgeOnly):
    def feedback(self, outcome: SlotOutcome) -> None:
        outcome.ues[0].stage_seconds.clear()


class _ChangesScenario(EdgeOnly):
    def reset(self, scenario: Scenario, seed: int) -> None:
        super().reset(scenario, seed)
        scenario.ues[0].profile.codecs.pop("fp16", None)


class _DividesByGain(EdgeOnly):
    def state(self) -> dict[str, float]:
        return {"inverse": self.inverse}

    def decide(self, observation: Observation) -> Decision:
        self.inverse = 1.0 / observation.ues[0].gain_up[0]
        return super().decide(observation)


class _OnlyThree(EdgeOnly):
    def decide(self, observation: Observation) -> Decision:
        assert len(observation.ues) == 3
        return super().decide(observation)


class _Unserialisable(EdgeOnly):
    def checkpoint_info(self) -> dict[str, Any]:
        return {"policy": self}


class _CountsSlots(EdgeOnly):
    def reset(self, scenario: Scenario, seed: int) -> None:
        super().reset(scenario, seed)
        self.next = 0

    def decide(self, observation: Observation) -> Decision:
        assert observation.slot == self.next
        self.next += 1
        return super().decide(observation)


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (_NoDecision(), "must return a Decision, got dict"),
        (_Twice(), "decided twice"),
        (_Global(), "not deterministic.*draw"),
        (_GlobalPython(), "not deterministic.*draw"),
        (_Remembers(), "not deterministic.*count"),
        (_InfiniteState(), "must be a finite float, got inf"),
        (_TextState(), "must be a finite float, got 'long'"),
        (_ChangesOutcome(), r"feedback\(\) changed the outcome"),
        (_ChangesScenario(), "changed the scenario"),
        (_DividesByGain(), "slot 1: decide.* raised ZeroDivisionError"),
        (_OnlyThree(), "with 1 UEs, slot 0: decide.* raised AssertionError"),
        (_Unserialisable(), r"checkpoint_info\(\) must return a dict of plain data"),
        (_CountsSlots(), "slot 9: decide.* raised AssertionError"),
        (BasicPolicy(), "raised NotImplementedError"),
        (EdgeOnly, "wants a policy object, got the class EdgeOnly"),
        (object(), "object is not a Policy: it lacks reset, decide"),
    ],
)
def test_a_policy_that_breaks_a_rule(policy: Any, text: str) -> None:
    with pytest.raises(PolicyError, match=text):
        check_policy(policy)


def test_a_policy_that_forgets_in_reset_passes_and_a_given_scenario_is_the_only_one() -> None:
    check_policy(_Forgets())
    check_policy(_OnlyThree(), example_scenario(3), slots=20)


def test_the_global_generators_are_left_as_they_were() -> None:
    np.random.seed(5)
    random.seed(5)
    expected = (np.random.random(), random.random())
    np.random.seed(5)
    random.seed(5)
    check_policy(EdgeOnly(), slots=3)
    assert (np.random.random(), random.random()) == expected


class _Slow(EdgeOnly):
    def decide(self, observation: Observation) -> Decision:
        threading.Event().wait(None if observation.slot == 2 else 0)
        return super().decide(observation)


class _Computing(EdgeOnly):
    """Computes without end in one decision, until it is told to stop."""

    stop = False

    def decide(self, observation: Observation) -> Decision:
        while observation.slot == 2 and not self.stop:
            pass
        return super().decide(observation)


class _Helped(EdgeOnly):
    """Has a thread of its own compute for each decision, on a core that others use."""

    def __init__(self, core: int, cpu_seconds: float) -> None:
        self.core, self.cpu_seconds = core, cpu_seconds

    def decide(self, observation: Observation) -> Decision:
        helper = threading.Thread(target=self._compute)
        helper.start()
        helper.join()
        return super().decide(observation)

    def _compute(self) -> None:
        os.sched_setaffinity(0, {self.core})  # of this thread
        began = time.thread_time()
        while time.thread_time() - began < self.cpu_seconds:
            sum(range(10_000))


class _Refuses(EdgeOnly):
    def __init__(self, *labs: str) -> None:
        self.labs = labs

    def reset(self, scenario: Scenario, seed: int) -> None:
        if scenario.name in self.labs:
            raise ValueError(f"not in {scenario.name}")
        super().reset(scenario, seed)


class _NeedsGains(EdgeOnly):
    def decide(self, observation: Observation) -> Decision:
        assert all(ue.channel_kind == "gain" for ue in self.scenario.ues)
        return super().decide(observation)


class _OneModel(EdgeOnly):
    def decide(self, observation: Observation) -> Decision:
        assert len({ue.profile.model for ue in self.scenario.ues}) == 1
        return super().decide(observation)


class _Queueing(EdgeOnly):
    def state(self) -> dict[str, float]:
        return {"wait": self.wait}

    def decide(self, observation: Observation) -> Decision:
        load = 0.03 * observation.ues[0].nominal_arrival_rate_per_second
        self.wait = load / (1 - load) if load < 1 else math.inf
        return super().decide(observation)


def test_a_decision_that_never_ends_is_found_out() -> None:
    with pytest.raises(PolicyError, match=r"slot 2: decide\(\) took more than 0.2 s"):
        check_policy(_Slow(), decide_seconds=0.2)


def test_a_decision_that_computes_without_end_is_found_out() -> None:
    policy = _Computing()
    try:
        with pytest.raises(PolicyError, match=r"slot 2: decide\(\) took more than 0.2 s"):
            check_policy(policy, decide_seconds=0.2)
    finally:
        policy.stop = True


@pytest.mark.thorough
def test_what_a_decision_waits_for_a_core_is_not_its_time() -> None:
    core = min(os.sched_getaffinity(0))
    loop = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    others = [subprocess.Popen([sys.executable, "-S", "-c", loop]) for _ in range(8)]
    try:
        check_policy(_Helped(core, cpu_seconds=0.1), example_scenario(1), slots=1, decide_seconds=0.4)
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (_NeedsGains(), "in the lab rates, with 3 UEs, slot 0: decide.* AssertionError"),
        (_OneModel(), "in the lab mixed, with 3 UEs, slot 0: decide.* AssertionError"),
        (_Queueing(), r"state\(\)\['wait'\] must be a finite float, got inf"),
        (
            _Refuses("example", "mixed", "rates", "noma", "access-points", "uploading"),
            "refuses every lab.* not in example",
        ),
    ],
)
def test_labs_of_every_kind_are_tried(policy: Any, text: str) -> None:
    with pytest.raises(PolicyError, match=text):
        check_policy(policy, slots=11)


def test_a_policy_may_refuse_a_lab_but_not_one_that_it_is_checked_in() -> None:
    check_policy(_Refuses("noma", "uploading"), slots=3)
    with pytest.raises(PolicyError, match=r"reset\(\) raised ValueError: not in example"):
        check_policy(_Refuses("example"), example_scenario(3))

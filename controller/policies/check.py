"""A public checker for policies, like Gymnasium's ``check_env``: run it on your own policy before you run a lab."""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from controller.contract import (
    STAGES,
    Decision,
    Observation,
    Policy,
    Scenario,
    SlotOutcome,
    UeOutcome,
    checkpoint_info,
    watched_state,
)
from controller.model.decision import InvalidDecisionError, enforce
from controller.policies.examples import example_labs, example_observation

_PARTS = ("reset", "decide", "feedback")
_SEED = 7


#: A decision that takes longer is of no use in any lab.
DECIDE_SECONDS = 10.0
#: A decision is looked at so often; it was idle meanwhile if it computed and waited for a core for less than that part.
_LOOK_SECONDS = 0.5
_IDLE_RATIO = 0.02


class PolicyError(AssertionError):
    """A policy breaks the contract; the message says where, what it did and what is asked of it."""


class _RefusedError(PolicyError):
    """``reset`` says that this lab is none for the policy."""


def check_policy(
    policy: Policy, scenario: Scenario | None = None, slots: int = 50, decide_seconds: float = DECIDE_SECONDS
) -> None:
    """Run ``policy`` through ``slots`` slots of made-up observations and check what it answers.

    Without a ``scenario`` it runs in :func:`~controller.policies.examples.example_labs`: one UE, three and twelve,
    mixed models, links whose traces are rates, NOMA, two access points, an edge that starts without models. A
    ValueError in ``reset`` refuses a lab, as it does in the testbed; a policy that refuses all of them has not been
    checked. The observations hold what a lab can bring: outages of one link and of all (gain 0), very good and very bad
    links, stale reports, slots that are skipped, long queues, no arrivals and far too many. Checked are: a decision
    within ``decide_seconds``, however slow the lab that it is for; types; the decided UEs; cuts that exist and are
    canonical; numbers that are finite, not negative and within the totals, speeds in (0, max_speed]; ``state()`` with
    finite floats; ``checkpoint_info()`` as plain data; that neither scenario, observation nor outcome is changed; and
    that after ``reset`` with the same seed the same observations bring the same decisions, whatever was decided before.

    Raises PolicyError.
    """
    if isinstance(policy, type):
        raise PolicyError(f"check_policy wants a policy object, got the class {policy.__name__}: call it first")
    missing = [part for part in _PARTS if not callable(getattr(policy, part, None))]
    if missing:
        raise PolicyError(f"{type(policy).__name__} is not a Policy: it lacks {', '.join(missing)}")
    if slots < 1:
        raise ValueError(f"slots must be at least 1, got {slots}")
    if scenario is not None:
        _check_in(policy, scenario, slots, decide_seconds)
        return
    refusals = []
    for one in example_labs():
        try:
            _check_in(policy, one, slots, decide_seconds)
        except _RefusedError as error:
            refusals.append(error)
    if len(refusals) == len(example_labs()):
        raise PolicyError(f"{type(policy).__name__} refuses every lab, so nothing was checked; first: {refusals[0]}")


def _check_in(policy: Policy, scenario: Scenario, slots: int, decide_seconds: float) -> None:
    where = f"{type(policy).__name__} in the lab {scenario.name}, with {len(scenario.ues)} UEs"
    before = msgspec.msgpack.encode(scenario)
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        runs = []
        for attempt in (1, 2):
            # A policy that draws from a global generator draws differently in the second run, and is found out.
            np.random.seed(attempt)
            random.seed(attempt)
            runs.append(list(_run(policy, scenario, slots, where, decide_seconds)))
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
    if msgspec.msgpack.encode(scenario) != before:
        raise PolicyError(f"{where}: the policy changed the scenario that reset() gave it; it must only read it")
    for slot, (first, second) in enumerate(zip(*runs, strict=True)):
        if first != second:
            raise PolicyError(
                f"{where}: not deterministic: after reset() with the same seed, the decision or state() of observation "
                f"{slot} differs; draw all randomness from the seed and forget everything in reset(). "
                f"First {_first_difference(first, second)}"
            )


def _run(policy: Policy, scenario: Scenario, slots: int, where: str, decide_seconds: float) -> Iterator[dict[str, Any]]:
    """One trajectory: per slot, the decision and the state as plain data."""
    try:
        policy.reset(scenario, _SEED)
    except ValueError as error:
        raise _RefusedError(f"{where}: reset() raised {type(error).__name__}: {error}") from error
    except Exception as error:
        raise PolicyError(f"{where}: reset() raised {type(error).__name__}: {error}") from error
    in_force: Decision | None = None
    for observation in _observations(scenario, slots):
        here = f"{where}, slot {observation.slot}"
        seen = msgspec.msgpack.encode(observation)
        answer = _in_time(f"{here}: decide()", policy, observation, decide_seconds)
        if msgspec.msgpack.encode(observation) != seen:
            raise PolicyError(f"{here}: decide() changed the observation; it must only read it")
        in_force = _check_decision(scenario, in_force, answer, observation, here)
        state = _check_state(_call(f"{here}: state()", watched_state, policy), here)
        yield {"decision": msgspec.to_builtins(in_force), "state": state}
        outcome = _outcome(scenario, observation, in_force)
        told = msgspec.msgpack.encode(outcome)
        _call(f"{here}: feedback()", policy.feedback, outcome)
        if msgspec.msgpack.encode(outcome) != told:
            raise PolicyError(f"{here}: feedback() changed the outcome; it must only read it")
    info = _call(f"{where}: checkpoint_info()", checkpoint_info, policy)
    try:
        if not isinstance(info, dict):
            raise TypeError(f"a {type(info).__name__}")
        msgspec.json.encode(info)
    except (TypeError, msgspec.MsgspecError) as error:
        raise PolicyError(f"{where}: checkpoint_info() must return a dict of plain data (JSON), got {error}") from error


def _call(what: str, function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        raise PolicyError(f"{what} raised {type(error).__name__}: {error}") from error


def _in_time(what: str, policy: Policy, observation: Observation, seconds: float) -> Any:
    """The decision, made in a thread as in a lab: one that never ends is found out, too.

    Its time is what this process computes meanwhile, and what passes while it does not even try to: what it waits for a
    core of a busy host, in this thread or in others that it starts, is not the policy's time.
    """
    answers: list[Any] = []

    def decide() -> None:
        try:
            answers.append(_call(what, policy.decide, observation))
        except PolicyError as error:
            answers.append(error)

    thread = threading.Thread(target=decide, name="policy", daemon=True)
    thread.start()
    began, idle = time.process_time(), 0.0
    while thread.is_alive() and time.process_time() - began + idle < seconds:
        looked, computed, waited = time.monotonic(), time.process_time(), _waited_seconds()
        thread.join(min(_LOOK_SECONDS, seconds))
        passed = time.monotonic() - looked
        if max(time.process_time() - computed, _waited_seconds() - waited) < _IDLE_RATIO * passed:
            idle += passed
    if not answers:
        raise PolicyError(f"{what} took more than {seconds:g} s; a lab gives it half a slot")
    if isinstance(answers[0], PolicyError):
        raise answers[0]
    return answers[0]


def _waited_seconds() -> float:
    """How long the threads of this process could run and had no core to run on; 0 where the kernel does not say."""
    waited = 0
    for task in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, IndexError, ValueError):  # a thread that has ended, or another kernel
            waited += int(task.read_text().split()[1])
    return waited / 1e9


def _check_decision(
    scenario: Scenario, in_force: Decision | None, answer: Any, observation: Observation, where: str
) -> Decision:
    """The decision as it would take force. Stricter than a running lab, which clamps speeds."""
    if not isinstance(answer, Decision):
        raise PolicyError(f"{where}: decide() must return a Decision, got {type(answer).__name__}")
    try:
        enforced = enforce(scenario, in_force, answer, observation)
        msgspec.msgpack.decode(msgspec.msgpack.encode(enforced), type=Decision)
    except InvalidDecisionError as error:
        raise PolicyError(f"{where}: {error}") from error
    except (TypeError, AttributeError, msgspec.MsgspecError) as error:
        raise PolicyError(f"{where}: a field of the decision has the wrong type: {error}") from error
    decided = {ue.name: ue for ue in answer.ues}
    for ue in scenario.ues:
        speed = decided[ue.name].device_speed
        if not 0 < speed <= ue.max_speed * (1 + 1e-9):
            raise PolicyError(f"{where}: {ue.name}: device_speed {speed:g} is not in (0, {ue.max_speed:g}]")
    return enforced


def _check_state(state: Any, where: str) -> dict[str, float]:
    if not isinstance(state, dict):
        raise PolicyError(f"{where}: state() must return a dict, got {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(key, str):
            raise PolicyError(f"{where}: a key of state() must be a str, got {key!r}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise PolicyError(f"{where}: state()[{key!r}] must be a finite float, got {value!r}")
    return {key: float(value) for key, value in state.items()}


def _observations(scenario: Scenario, slots: int) -> Iterator[Observation]:
    """What a lab can bring, the rare cases early, so that a short check meets them too."""
    slot = 0
    for index in range(slots):
        observation = example_observation(scenario, slot, _SEED)
        ues = list(observation.ues)
        replace = msgspec.structs.replace
        match index % 10:
            case 1:  # one link in an outage
                ues[0] = replace(ues[0], gain_up=(0.0,), gain_down=(0.0,))
            case 2:  # all of them
                ues = [replace(ue, gain_up=(0.0,), gain_down=(0.0,)) for ue in ues]
            case 3:  # nobody has reported for three slots
                age = 3 * scenario.slot_seconds
                ues = [replace(ue, report_age_seconds=age) for ue in ues]
            case 4:  # long queues everywhere
                ues = [
                    replace(
                        ue,
                        device_queue_tasks=200,
                        tx_queue_tasks=50,
                        edge_queue_tasks=50,
                        in_flight_tasks=300,
                        tx_backlog_bytes=10_000_000,
                        edge_backlog_seconds=30.0,
                    )
                    for ue in ues
                ]
            case 5:  # nothing arrives
                ues = [
                    replace(ue, nominal_arrival_rate_per_second=0.0, measured_arrival_rate_per_second=0.0) for ue in ues
                ]
            case 6:  # next door to the antenna
                ues = [
                    replace(
                        ue,
                        gain_up=tuple(1e4 * gain for gain in ue.gain_up),
                        gain_down=tuple(1e4 * gain for gain in ue.gain_down),
                    )
                    for ue in ues
                ]
            case 7:  # two slots were skipped before this one
                slot += 2
                observation = replace(observation, slot=slot)
            case 8:  # far more tasks than anything can carry
                ues = [
                    replace(ue, nominal_arrival_rate_per_second=500.0, measured_arrival_rate_per_second=500.0)
                    for ue in ues
                ]
            case 9:  # links that are there, and next to useless
                ues = [
                    replace(
                        ue,
                        gain_up=tuple(1e-6 * gain for gain in ue.gain_up),
                        gain_down=tuple(1e-6 * gain for gain in ue.gain_down),
                    )
                    for ue in ues
                ]
        yield replace(observation, ues=tuple(ues))
        slot += 1


def _outcome(scenario: Scenario, observation: Observation, decision: Decision) -> SlotOutcome:
    """A plausible outcome: what arrived is done; every fifth slot nothing is, and nan stands for its delay."""
    idle = observation.slot % 5 == 4
    completed = 0 if idle else 1
    return SlotOutcome(
        slot=observation.slot,
        decision=decision,
        ues=tuple(
            UeOutcome(
                name=ue.name,
                arrivals=completed,
                completions=completed,
                failures=0,
                mean_delay_seconds=math.nan if idle else 0.7,
                stage_seconds=dict.fromkeys(STAGES, 0.0 if idle else 0.1),
                compute_joules=0.0 if idle else 0.5 * ue.compute_watts * scenario.slot_seconds,
                transmit_joules=0.0 if idle else 0.2 * ue.transmit_watts * scenario.slot_seconds,
                mean_rate_up_bits_per_second=5e6,
                overruns=0,
            )
            for ue in scenario.ues
        ),
    )


def _first_difference(first: Any, second: Any, path: str = "") -> str:
    """Where two pieces of plain data differ first."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        for key in first:
            if first[key] != second[key]:
                return _first_difference(first[key], second[key], f"{path}.{key}")
    if isinstance(first, list | tuple) and isinstance(second, list | tuple) and len(first) == len(second):
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            if one != other:
                return _first_difference(one, other, f"{path}[{index}]")
    return f"difference at {path.lstrip('.') or 'the top'}: {first!r} and {second!r}"

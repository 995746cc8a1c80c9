"""The controller's program: a socket for each node, the slot clock, and a policy in a worker thread.

``waiting -> ready -> running -> draining -> stopped``. The loop never blocks on anything but its poll: the policy
decides in :class:`controller.service.worker.PolicyWorker`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import time
from collections import deque
from pathlib import Path
from typing import Literal

import msgspec

from controller.contract import DecentralisedPolicy, Decision, Observation, Scenario, SlotOutcome
from controller.policies import registry
from controller.seeds import Purpose, integer
from controller.service.clock import SlotClock
from controller.service.engine import PLAYER, SlotEngine
from controller.service.protocol import (
    Apply,
    Begin,
    Control,
    Drain,
    EdgeReport,
    Hello,
    Message,
    PlayerReport,
    Reply,
    Response,
    SetLink,
    SetPolicy,
    Start,
    Status,
    StatusRequest,
    Stop,
    StopLab,
    TaskTotals,
    UeReport,
    Welcome,
)
from controller.service.worker import PolicyWorker
from testbed.mechanisms.delegation.consult import Consultation
from testbed.node.last_words import accounted
from testbed.programs.controller.control_port import ControlPort
from testbed.programs.controller.slot_records import slot_records
from testbed.protocol.configs import ControllerConfig, read_config, read_scenario
from testbed.protocol.records import Event
from testbed.protocol.roles import asked_by_operator, said_to_controller

logger = logging.getLogger("testbed.controller")

State = Literal["waiting", "ready", "running", "draining", "stopped"]

#: From Begin to slot 0, so that every agent has the Start before its clock does.
START_LEAD_SECONDS = 0.5

#: How long a stopped controller still answers, so that whoever waits for the end sees it.
STOPPED_SECONDS = 2.0

#: A node says hello every 0.2 s until it is welcomed; what comes faster than this is not answered.
GREETING_SECONDS = 0.1

_IDLE_POLL_SECONDS = 0.5


def main(config_path: str) -> None:
    """Serve until Stop, StopLab or SIGTERM. Raises what a missing or malformed config or scenario raises."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    config = read_config(Path(config_path), ControllerConfig)
    scenario = read_scenario(Path(config.scenario_path))
    with accounted("controller", config.lab_directory):
        program = ControllerProgram(config, scenario)
        signal.signal(signal.SIGTERM, lambda *_: program.request_stop("SIGTERM"))
        signal.signal(signal.SIGINT, lambda *_: program.request_stop("SIGINT"))
        try:
            program.serve()
        finally:
            program.close()


class ControllerProgram:
    """Sockets and clock around a :class:`controller.service.engine.SlotEngine`."""

    def __init__(self, config: ControllerConfig, scenario: Scenario) -> None:
        self._config, self._scenario = config, scenario
        self._engine = SlotEngine(scenario, config.seed)
        self._state: State = "waiting"
        self._error = ""
        self._hellos: dict[str, Hello] = {}
        self._greeted_seconds: dict[str, float] = {}
        self._refused: set[tuple[str, int]] = set()  # nodes and pids with weights of their own
        self._begin: Begin | None = None
        self._stop_requested = ""
        self._stopped_at = math.inf
        self._malformed = 0
        self._link_requests: deque[bytes] = deque()  # who waits for the player's Reply
        self._policy_request: tuple[bytes, str, PolicyWorker] | None = None

        # The wake-up pipe lets the worker thread and signal handlers interrupt the poll.
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._port = ControlPort(config.lab_directory, config.expected, self._wake_read)

        self._policy_name = config.policy
        self._consultations: dict[PolicyWorker, Consultation] = {}  # of policies whose UEs decide for themselves
        self._worker: PolicyWorker | None = None
        try:
            self._worker = self._make_worker(config.policy, json.loads(config.policy_options_json or "{}"))
        except ValueError as error:
            self._fail(str(error))
        self._clock = SlotClock(scenario.slot_seconds, config.decide_deadline_seconds)
        self._unasked: tuple[list[SlotOutcome], Observation] | None = None  # what the policy has yet to be asked
        self._drain_seconds = math.inf  # when Drain was sent

    # ---------------------------------------------------------------------------------------------------------- loop

    def serve(self) -> None:
        """Returns when the lab has stopped."""
        while time.monotonic() < self._stopped_at + STOPPED_SECONDS:
            self._poll()
            self._check_policy()
            if self._stop_requested:
                self._stop(self._stop_requested)
                return
            if self._state == "ready" and self._begin is not None:
                self._start()
            if self._state in ("running", "draining") and self._worker is not None:
                self._tick(self._worker)

    def request_stop(self, reason: str) -> None:
        """Safe in a signal handler."""
        self._stop_requested = reason
        self._wake()

    def close(self) -> None:
        """Close the sockets; what was sent still arrives (LINGER)."""
        if self._worker is not None:
            self._worker.close()
        self._port.close()
        self._wake_write, write = -1, self._wake_write
        os.close(self._wake_read)
        os.close(write)

    def _wake(self) -> None:
        if self._wake_write < 0:
            return
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:  # full of wake-ups: one more is not needed
            return

    def _poll(self) -> None:
        until = _IDLE_POLL_SECONDS
        if self._state in ("running", "draining"):
            until = min(until, self._clock.next_seconds() - time.monotonic(), self._arrivals_end() - time.monotonic())
        if self._port.wait(until):
            os.read(self._wake_read, 4096)
        for node, frame in self._port.from_nodes():
            try:
                self._hear(node, said_to_controller(node, frame))
            except msgspec.DecodeError as error:  # not one of our messages, or not this node's to send
                self._port.complain(node, f"a message was dropped: {error}")
        for frames in self._port.from_operators():
            self._obey(frames)
        for node, text in self._port.take_complaints():
            self._event(node, "malformed", text)
        for consultation in self._consultations.values():
            for node, message in consultation.due():
                self._port.send(node, message)

    def _obey(self, frames: list[bytes]) -> None:
        """One command."""
        try:
            identity, frame = frames
            message = asked_by_operator(frame)
        except (ValueError, msgspec.DecodeError) as error:  # not two frames, or not one of our messages
            self._malformed += 1
            self._event("controller", "malformed", f"command {self._malformed} dropped: {error}")
            return
        match message:
            case StatusRequest():
                self._port.answer(identity, self._status())
            case Begin():
                self._port.answer(identity, self._accept_begin(message))
            case SetPolicy():
                self._switch_policy(identity, message)
            case SetLink():
                self._forward_link(identity, message)
            case StopLab():
                self._port.answer(identity, Reply(ok=True, text="stopping"))
                self._stop_requested = message.reason

    def _hear(self, node: str, message: Control) -> None:
        match message:
            case UeReport():
                self._engine.take_ue(message)
            case EdgeReport():
                self._engine.take_edge(message)
            case PlayerReport():
                self._engine.take_player(message)
            case Hello():
                self._greet(message)
            case Response():
                for consultation in self._consultations.values():
                    consultation.take(message)
            case Reply():  # the player's answer to a SetLink, in the order in which they were sent
                if self._link_requests:
                    self._port.answer(self._link_requests.popleft(), message)
            case _:
                raise msgspec.DecodeError(f"{type(message).__name__} is not for the controller")

    # ------------------------------------------------------------------------------------------------------ commands

    def _greet(self, hello: Hello) -> None:
        if difference := self._other_weights(hello):
            if self._state == "waiting":
                self._fail(difference)
            elif (hello.node, hello.pid) not in self._refused:  # it goes on saying hello
                self._event(hello.node, "weights", f"{hello.node} does not take part: {difference}")
            self._refused.add((hello.node, hello.pid))
            return
        now = time.monotonic()
        if now < self._greeted_seconds.get(hello.node, -math.inf) + GREETING_SECONDS:
            return  # it says so again: an answer has all that a policy and a run begin with
        self._greeted_seconds[hello.node] = now
        known = self._hellos.get(hello.node)
        self._hellos[hello.node] = hello
        for consultation in self._consultations.values():
            consultation.greet(hello.node)
        self._port.send(hello.node, Welcome(lab=self._config.lab, run_id=self._config.run_id))
        restarted = known is None or (known.pid, known.began_seconds) != (hello.pid, hello.began_seconds)
        if restarted and hello.node == PLAYER:  # what the old player was asked, the new one will not answer
            self._link_requests.clear()
        if restarted and self._state in ("running", "draining"):  # a node that came back takes part again
            self._event(hello.node, "joined", f"{hello.node} joined while the lab is {self._state}")
            self._port.send(hello.node, self._start_message())
            self._port.send(hello.node, self._apply(self._engine.decision))

    def _other_weights(self, hello: Hello) -> str:
        """What is wrong if another node made other weights for the same UE's model; empty if none did."""
        for other in self._hellos.values():
            for ue in other.weights.keys() & hello.weights.keys():
                if other.node != hello.node and other.weights[ue] != hello.weights[ue]:
                    return (
                        f"{other.node} and {hello.node} hold different weights for the model of {ue}: its factory "
                        "draws them from what no seed reaches (numpy.random.default_rng() without one, os.urandom) or "
                        "from files that differ. Seed it, or load a state_dict that lies beside the lab file."
                    )
        return ""

    def _status(self) -> Status:
        return Status(
            lab=self._config.lab,
            run_id=self._config.run_id,
            policy=self._policy_name,
            expected=self._config.expected,
            ready=tuple(node for node in self._config.expected if node in self._hellos),
            hellos=tuple(self._hellos.values()),
            state=self._state,
            slot=self._clock.slot,
            in_flight_tasks=self._engine.in_flight_tasks(),
            error=self._error,
            totals={ue: TaskTotals(count, self._engine.ended[ue]) for ue, count in self._engine.arrived.items()},
        )

    def _accept_begin(self, begin: Begin) -> Reply:
        if self._error:
            return Reply(ok=False, text=self._error)
        if self._begin is not None:
            return Reply(ok=False, text=f"the lab was begun already and is {self._state}")
        self._begin = begin
        return Reply(ok=True, text="slot 0 starts once everybody is ready")

    def _switch_policy(self, identity: bytes, request: SetPolicy) -> None:
        """The new policy takes over when its reset is done; the reply waits for that."""
        if self._policy_request is not None or self._worker is None or not self._worker.ready:
            self._port.answer(identity, Reply(ok=False, text="another policy is still being set up: try again"))
            return
        try:
            worker = self._make_worker(request.name, request.options)
        except ValueError as error:
            self._port.answer(identity, Reply(ok=False, text=str(error)))
            return
        self._policy_request = (identity, request.name, worker)

    def _forward_link(self, identity: bytes, request: SetLink) -> None:
        names = [str(ue.name) for ue in self._scenario.ues]
        if request.node not in names:
            text = f"no link of a node {request.node!r}; allowed: {', '.join(names)}"
            self._port.answer(identity, Reply(ok=False, text=text))
        elif self._port.send(PLAYER, request):
            self._link_requests.append(identity)
        else:
            self._port.answer(
                identity, Reply(ok=False, text="the trace player does not answer: links stay as they are")
            )

    # -------------------------------------------------------------------------------------------------------- policy

    def _make_worker(self, name: str, options: dict[str, object]) -> PolicyWorker:
        policy = registry.create(name, options)
        consultation = None
        if isinstance(policy, DecentralisedPolicy):
            consultation = Consultation(name, options, self._scenario, self._wake)
            policy.ask_through(consultation.ask)
        worker = PolicyWorker(policy, self._scenario, integer(self._config.seed, Purpose.POLICY), self._wake)
        if consultation is not None:
            self._consultations[worker] = consultation
            if self._hellos:
                consultation.introduce()
        return worker

    def _drop(self, worker: PolicyWorker) -> None:
        worker.close()
        self._consultations.pop(worker, None)

    def _check_policy(self) -> None:
        """Follow resets: of the first policy (ready), of one that is to take over (switch)."""
        if self._state == "waiting" and self._worker is not None and self._worker.ready:
            if self._worker.reset_error:
                self._fail(f"policy {self._policy_name!r} failed in reset: {self._worker.reset_error}")
            elif set(self._hellos) == set(self._config.expected):
                self._state = "ready"
        if self._policy_request is None or not self._policy_request[2].ready:
            return
        identity, name, worker = self._policy_request
        self._policy_request = None
        if worker.reset_error:
            self._drop(worker)
            text = f"policy {name!r} failed in reset: {worker.reset_error}; {self._policy_name!r} goes on"
            self._port.answer(identity, Reply(ok=False, text=text))
            self._event("controller", "policy-error", text)
            return
        if self._worker is not None:
            self._drop(self._worker)
        self._worker, self._policy_name = worker, name
        self._port.answer(identity, Reply(ok=True, text=f"policy {name} decides from the next slot on"))
        self._event("controller", "policy", f"policy {name} takes over at slot {self._clock.slot}")

    # ---------------------------------------------------------------------------------------------------------- slots

    def _start(self) -> None:
        self._clock.origin_seconds = time.monotonic() + START_LEAD_SECONDS
        decision = self._engine.bootstrap(self._clock.origin_seconds)
        self._state = "running"
        self._broadcast(self._start_message())
        self._broadcast(self._apply(decision))
        self._event("controller", "start", f"slot 0 starts at {self._clock.origin_seconds:.6f}")

    def _start_message(self) -> Start:
        return Start(
            origin_seconds=self._clock.origin_seconds,
            slot_seconds=self._clock.slot_seconds,
            duration_seconds=self._begin.duration_seconds if self._begin else None,
        )

    def _tick(self, worker: PolicyWorker) -> None:
        """Everything that is due now. Called after each poll."""
        now, clock = time.monotonic(), self._clock
        if now >= self._arrivals_end():
            self._drain(now)
        if clock.due(now):
            clock.enter(now)
        if clock.phase == "collect" and (clock.collected(now) or not self._engine.missing(clock.slot - 1)):
            closed, observation = self._engine.close(clock.slot, now)
            if closed is not None:
                for row in slot_records(closed, clock.boundary_seconds(closed.outcome.slot)):
                    self._port.record(row)
            if self._drained(now):
                self._emit_notices()
                self._stop("end of the run")
                return
            clock.close(now)
            self._unasked = ([closed.outcome] if closed else [], observation)
        if clock.phase == "decide":
            self._decide(worker, now)
        self._emit_notices()

    def _decide(self, worker: PolicyWorker, now: float) -> None:
        """Ask once the policy is free; take the answer of this slot, drop that of an older one, keep the deadline."""
        clock = self._clock
        answer = worker.poll()
        if answer is not None and answer.slot != clock.slot:
            self._event("controller", "decision-dropped", f"the decision of slot {answer.slot} came in {clock.slot}")
            answer = None
        if self._unasked is not None:
            outcomes, observation = self._unasked
            # A busy worker keeps the outcomes for its next job, so they are handed over only once.
            self._unasked = None if worker.submit(outcomes, observation) else ([], observation)
        if answer is None and not clock.decide_over(now):
            return
        self._unasked = None
        clock.settle()
        decision = self._engine.settle(answer, now)
        if decision is not None:
            self._broadcast(self._apply(decision))

    def _apply(self, decision: Decision) -> Apply:
        rates = self._engine.rates()
        return Apply(
            decision=decision,
            rates_up_bits_per_second={ue: rate.up_bits_per_second for ue, rate in rates.items()},
            rates_down_bits_per_second={ue: rate.down_bits_per_second for ue, rate in rates.items()},
        )

    def _arrivals_end(self) -> float:
        """When Drain is due; inf while serving on, and once it was sent."""
        if self._state != "running" or self._begin is None or self._begin.duration_seconds is None:
            return math.inf
        return self._clock.origin_seconds + self._begin.duration_seconds

    def _drain(self, now: float) -> None:
        self._state, self._drain_seconds = "draining", now
        self._broadcast(Drain())
        self._event("controller", "drain", f"arrivals end; {self._engine.in_flight_tasks()} tasks are in flight")

    def _drained(self, now: float) -> bool:
        if self._state != "draining" or self._begin is None:
            return False
        if self._engine.drained_since(self._drain_seconds):
            return True
        if now < self._drain_seconds + self._begin.drain_seconds:
            return False
        left = self._engine.in_flight_tasks()
        self._event(
            "controller", "drain-timeout", f"{left} tasks still in flight after {self._begin.drain_seconds:g} s"
        )
        return True

    def _stop(self, reason: str) -> None:
        self._broadcast(Stop(reason=reason))
        self._event("controller", "stop", reason)
        self._state = "stopped"
        self._stopped_at = time.monotonic()

    # ------------------------------------------------------------------------------------------------------- sending

    def _broadcast(self, message: Message) -> None:
        for node in self._hellos:
            self._port.send(node, message)

    def _event(self, node: str, kind: str, text: str) -> None:
        logger.info("%s %s: %s", node, kind, text)
        self._port.record(Event(monotonic_seconds=time.monotonic(), node=node, kind=kind, text=text))

    def _emit_notices(self) -> None:
        for notice in self._engine.take_notices():
            self._event(notice.node, notice.kind, notice.text)

    def _fail(self, text: str) -> None:
        """The lab cannot be begun; the reason is in every Status."""
        self._error, self._state = text, "stopped"
        self._event("controller", "failed", text)

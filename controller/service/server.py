"""The controller: a socket for each node, the slot clock, and a policy in a worker thread.

``waiting -> ready -> running -> draining -> stopped``. The loop never blocks on anything but its poll: the policy
decides in :class:`controller.service.worker.PolicyWorker`. It opens no file: what it needs is handed in.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from controller.contract import Decision, Observation, Scenario, SlotOutcome
from controller.service.admission import asked_by_operator, said_to_controller
from controller.service.clock import SlotClock
from controller.service.control_port import ControlPort
from controller.service.engine import ClosedSlot, SlotEngine
from controller.service.policy_seat import MakePolicy, PolicySeat
from controller.service.protocol import (
    PLAYER,
    Apply,
    Begin,
    Drain,
    EdgeReport,
    EdgeSays,
    Hello,
    Message,
    PlayerReport,
    PlayerSays,
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
    UeSays,
    Welcome,
)
from controller.service.roll import Roll
from controller.service.worker import PolicyWorker

logger = logging.getLogger("controller")

State = Literal["waiting", "ready", "running", "draining", "stopped"]

#: From Begin to slot 0, so that every agent has the Start before its clock does.
START_LEAD_SECONDS = 0.5

#: How long a stopped controller still answers, so that whoever waits for the end sees it.
STOPPED_SECONDS = 2.0

_IDLE_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Settings:
    """What a controller is told."""

    lab: str
    run_id: str
    nodes: Mapping[str, Path]  # who must say hello, and the UNIX socket at which each is heard
    operator: Path  # the socket for commands
    policy: str
    options: Mapping[str, Any]  # of the policy
    seed: int  # the lab's root seed
    decide_deadline_seconds: float


class Journal(Protocol):
    """Where a controller tells what happens. Neither call may block."""

    def event(self, node: str, kind: str, text: str) -> None:
        """Something worth a line in the log; ``kind`` is one word, ``node`` whom it is about."""

    def slot(self, closed: ClosedSlot, start_seconds: float) -> None:
        """A slot is over; ``start_seconds`` is when it began."""


class ControllerServer:
    """Sockets and clock around a :class:`controller.service.engine.SlotEngine`."""

    def __init__(self, settings: Settings, scenario: Scenario, make_policy: MakePolicy, journal: Journal) -> None:
        self._settings, self._scenario, self._journal = settings, scenario, journal
        self._engine = SlotEngine(scenario, settings.seed)
        self._state: State = "waiting"
        self._error = ""
        self._roll = Roll()
        self._begin: Begin | None = None
        self._stop_requested = ""
        self._stopped_at = math.inf
        self._malformed = 0
        self._link_requests: deque[bytes] = deque()  # who waits for the player's Reply

        self._port = ControlPort(settings.nodes, settings.operator)
        self._seat = PolicySeat(scenario, settings.seed, make_policy, self._port.wake)
        try:
            self._seat.take(settings.policy, settings.options)
        except ValueError as error:
            self._fail(str(error))
        self._clock = SlotClock(scenario.slot_seconds, settings.decide_deadline_seconds)
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
            if self._state in ("running", "draining") and self._seat.worker is not None:
                self._tick(self._seat.worker)

    def request_stop(self, reason: str) -> None:
        """Safe in a signal handler."""
        self._stop_requested = reason
        self._port.wake()

    def close(self) -> None:
        """Close the sockets; what was sent still arrives (LINGER)."""
        self._seat.close()
        self._port.close()

    def _poll(self) -> None:
        until = _IDLE_POLL_SECONDS
        if self._state in ("running", "draining"):
            until = min(until, self._clock.next_seconds() - time.monotonic(), self._arrivals_end() - time.monotonic())
        self._port.wait(until)
        for node, frame in self._port.from_nodes():
            try:
                self._hear(said_to_controller(node, frame))
            except msgspec.DecodeError as error:  # not one of our messages, or not this node's to send
                self._port.complain(node, f"a message was dropped: {error}")
        for frames in self._port.from_operators():
            self._obey(frames)
        for node, text in self._port.take_complaints():
            self._event(node, "malformed", text)
        for node, message in self._seat.due():
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
                if refused := self._seat.propose(identity, message.name, message.options):
                    self._port.answer(identity, Reply(ok=False, text=refused))
            case SetLink():
                self._forward_link(identity, message)
            case StopLab():
                self._port.answer(identity, Reply(ok=True, text="stopping"))
                self._stop_requested = message.reason

    def _hear(self, message: UeSays | EdgeSays | PlayerSays) -> None:
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
                self._seat.answered(message)
            case Reply():  # the player's answer to a SetLink, in the order in which they were sent
                if self._link_requests:
                    self._port.answer(self._link_requests.popleft(), message)

    # ------------------------------------------------------------------------------------------------------ commands

    def _greet(self, hello: Hello) -> None:
        if difference := self._roll.other_weights(hello):
            first = self._roll.refuse(hello)
            if self._state == "waiting":
                self._fail(difference)
            elif first:
                self._event(hello.node, "weights", f"{hello.node} does not take part: {difference}")
            return
        if not self._roll.answers(hello.node, time.monotonic()):
            return
        restarted = self._roll.enter(hello)
        self._seat.greet(hello.node)
        self._port.send(hello.node, Welcome(lab=self._settings.lab, run_id=self._settings.run_id))
        if restarted and hello.node == PLAYER:  # what the old player was asked, the new one will not answer
            self._link_requests.clear()
        if restarted and self._state in ("running", "draining"):  # a node that came back takes part again
            self._event(hello.node, "joined", f"{hello.node} joined while the lab is {self._state}")
            self._port.send(hello.node, self._start_message())
            self._port.send(hello.node, self._apply(self._engine.decision))

    def _status(self) -> Status:
        return Status(
            lab=self._settings.lab,
            run_id=self._settings.run_id,
            policy=self._seat.name,
            expected=tuple(self._settings.nodes),
            ready=tuple(node for node in self._settings.nodes if node in self._roll.hellos),
            hellos=tuple(self._roll.hellos.values()),
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

    def _check_policy(self) -> None:
        """Follow resets: of the first policy (ready), of one that is to take over (change)."""
        worker = self._seat.worker
        if self._state == "waiting" and worker is not None and worker.ready:
            if worker.reset_error:
                self._fail(f"policy {self._seat.name!r} failed in reset: {worker.reset_error}")
            elif set(self._roll.hellos) == set(self._settings.nodes):
                self._state = "ready"
        change = self._seat.changed()
        if change is None:
            return
        self._port.answer(change.asked_by, Reply(ok=change.ok, text=change.text))
        if change.ok:
            self._event("controller", "policy", f"policy {change.name} takes over at slot {self._clock.slot}")
        else:
            self._event("controller", "policy-error", change.text)

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
                self._journal.slot(closed, clock.boundary_seconds(closed.outcome.slot))
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
        for node in self._roll.hellos:
            self._port.send(node, message)

    def _event(self, node: str, kind: str, text: str) -> None:
        logger.info("%s %s: %s", node, kind, text)
        self._journal.event(node, kind, text)

    def _emit_notices(self) -> None:
        for notice in self._engine.take_notices():
            self._event(notice.node, notice.kind, notice.text)

    def _fail(self, text: str) -> None:
        """The lab cannot be begun; the reason is in every Status."""
        self._error, self._state = text, "stopped"
        self._event("controller", "failed", text)

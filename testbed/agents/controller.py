"""The controller's program: one ROUTER for everybody, the slot clock, and a policy in a worker thread.

``waiting -> ready -> running -> draining -> stopped``. The loop never blocks on anything but its poll: the policy
decides in :class:`controller.worker.PolicyWorker`, records leave through a PUSH socket that drops when it is full.
"""

from __future__ import annotations

import errno
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
import zmq

from controller import registry
from controller.clock import SlotClock
from controller.contract import Decision, Observation, Scenario, SlotOutcome, cut_label
from controller.seeds import Purpose, integer
from controller.service import PLAYER, ClosedSlot, SlotEngine
from controller.worker import PolicyWorker
from testbed.configs import ControllerConfig, read_config, read_scenario
from testbed.messages import (
    Apply,
    Begin,
    Control,
    Drain,
    EdgeReport,
    Event,
    Hello,
    Message,
    PlayerReport,
    Reply,
    SetLink,
    SetPolicy,
    SlotRecord,
    Start,
    Status,
    StatusRequest,
    Stop,
    StopLab,
    UeReport,
    Welcome,
    control_endpoint,
    decode_control,
    encode,
    records_endpoint,
)

logger = logging.getLogger("testbed.controller")

State = Literal["waiting", "ready", "running", "draining", "stopped"]

#: From Begin to slot 0, so that every agent has the Start before its clock does.
START_LEAD_SECONDS = 0.5

#: How long a stopped controller still answers, so that whoever waits for the end sees it.
STOPPED_SECONDS = 2.0

_CONTROL_HIGH_WATER_MARK = 1000  # messages per peer
_RECORDS_HIGH_WATER_MARK = 10_000
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_LINGER_MILLISECONDS = 1000
_IDLE_POLL_SECONDS = 0.5


def main(config_path: str) -> None:
    """Serve until Stop, StopLab or SIGTERM. Raises what a missing or malformed config or scenario raises."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    config = read_config(Path(config_path), ControllerConfig)
    scenario = read_scenario(Path(config.scenario_path))
    program = ControllerProgram(config, scenario)
    signal.signal(signal.SIGTERM, lambda *_: program.request_stop("SIGTERM"))
    signal.signal(signal.SIGINT, lambda *_: program.request_stop("SIGINT"))
    try:
        program.serve()
    finally:
        program.close()


def _router(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    """Bound; an unknown peer is an error instead of silence, a node that comes back takes its id over."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    socket.setsockopt(zmq.SNDHWM, _CONTROL_HIGH_WATER_MARK)
    socket.setsockopt(zmq.RCVHWM, _CONTROL_HIGH_WATER_MARK)
    socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.LINGER, _LINGER_MILLISECONDS)
    socket.bind(endpoint)
    return socket


def _push(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    """Connected; records wait for a recorder that binds later, and are dropped when too many wait."""
    socket = context.socket(zmq.PUSH)
    socket.setsockopt(zmq.SNDHWM, _RECORDS_HIGH_WATER_MARK)
    socket.setsockopt(zmq.LINGER, _LINGER_MILLISECONDS)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.connect(endpoint)
    return socket


class ControllerProgram:
    """Sockets and clock around a :class:`controller.service.SlotEngine`."""

    def __init__(self, config: ControllerConfig, scenario: Scenario) -> None:
        self._config, self._scenario = config, scenario
        self._engine = SlotEngine(scenario)
        self._state: State = "waiting"
        self._error = ""
        self._hellos: dict[str, Hello] = {}
        self._begin: Begin | None = None
        self._stop_requested = ""
        self._stopped_at = math.inf
        self._malformed = 0
        self._dropped_records = 0
        self._link_requests: deque[bytes] = deque()  # who waits for the player's Reply
        self._policy_request: tuple[bytes, str, PolicyWorker] | None = None

        # The wake-up pipe lets the worker thread and signal handlers interrupt the poll.
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._context = zmq.Context()
        self._router = _router(self._context, control_endpoint(config.lab_directory))
        self._records = _push(self._context, records_endpoint(config.lab_directory))
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(self._wake_read, zmq.POLLIN)

        self._policy_name = config.policy
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
        self._router.close()
        self._records.close()
        self._context.term()
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
        ready = dict(self._poller.poll(max(0, math.ceil(until * 1000))))
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        while self._router in ready:
            try:
                frames = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._receive(frames)

    def _receive(self, frames: list[bytes]) -> None:
        try:
            identity, frame = frames
            message = decode_control(frame)
        except (ValueError, msgspec.DecodeError) as error:  # not two frames, or not one of our messages
            self._malformed += 1
            self._event("controller", "malformed", f"message {self._malformed} from {frames[0]!r} dropped: {error}")
            return
        self._handle(identity, message)

    def _handle(self, identity: bytes, message: Control) -> None:
        match message:
            case UeReport():
                self._engine.take_ue(message)
            case EdgeReport():
                self._engine.take_edge(message)
            case PlayerReport():
                self._engine.take_player(message)
            case Hello():
                self._greet(identity, message)
            case StatusRequest():
                self._send(identity, self._status())
            case Begin():
                self._send(identity, self._accept_begin(message))
            case SetPolicy():
                self._switch_policy(identity, message)
            case SetLink():
                self._forward_link(identity, message)
            case Reply():  # the player's answer to a SetLink, in the order in which they were sent
                if self._link_requests:
                    self._send(self._link_requests.popleft(), message)
            case StopLab():
                self._send(identity, Reply(ok=True, text="stopping"))
                self._stop_requested = message.reason
            case _:
                self._malformed += 1
                self._event("controller", "malformed", f"{type(message).__name__} is not for the controller: dropped")

    # ------------------------------------------------------------------------------------------------------ commands

    def _greet(self, identity: bytes, hello: Hello) -> None:
        if hello.node not in self._config.expected or identity != hello.node.encode():
            self._event(
                hello.node, "unexpected", f"{identity!r} says it is {hello.node}, which nobody expects: ignored"
            )
            return
        known = self._hellos.get(hello.node)
        self._hellos[hello.node] = hello
        self._send(identity, Welcome(lab=self._config.lab, run_id=self._config.run_id))
        restarted = known is None or known.pid != hello.pid
        if restarted and self._state in ("running", "draining"):  # a node that came back takes part again
            self._event(hello.node, "joined", f"{hello.node} joined while the lab is {self._state}")
            self._send(identity, self._start_message())
            self._send(identity, self._apply(self._engine.decision))

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
            self._send(identity, Reply(ok=False, text="another policy is still being set up: try again"))
            return
        try:
            worker = self._make_worker(request.name, request.options)
        except ValueError as error:
            self._send(identity, Reply(ok=False, text=str(error)))
            return
        self._policy_request = (identity, request.name, worker)

    def _forward_link(self, identity: bytes, request: SetLink) -> None:
        names = [str(ue.name) for ue in self._scenario.ues]
        if request.node not in names:
            text = f"no link of a node {request.node!r}; allowed: {', '.join(names)}"
            self._send(identity, Reply(ok=False, text=text))
        elif self._send(PLAYER.encode(), request):
            self._link_requests.append(identity)
        else:
            self._send(identity, Reply(ok=False, text="the trace player does not answer: links stay as they are"))

    # -------------------------------------------------------------------------------------------------------- policy

    def _make_worker(self, name: str, options: dict[str, object]) -> PolicyWorker:
        policy = registry.create(name, options)
        seed = integer(self._config.seed, Purpose.POLICY)
        return PolicyWorker(policy, self._scenario, seed, self._wake)

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
            worker.close()
            text = f"policy {name!r} failed in reset: {worker.reset_error}; {self._policy_name!r} goes on"
            self._send(identity, Reply(ok=False, text=text))
            self._event("controller", "policy-error", text)
            return
        if self._worker is not None:
            self._worker.close()
        self._worker, self._policy_name = worker, name
        self._send(identity, Reply(ok=True, text=f"policy {name} decides from the next slot on"))
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
                self._record_slot(closed)
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
        if self._dropped_records:
            logger.warning("%d records were dropped: the recorder did not take them", self._dropped_records)
        self._state = "stopped"
        self._stopped_at = time.monotonic()

    def _record_slot(self, closed: ClosedSlot) -> None:
        outcome, decision = closed.outcome, closed.outcome.decision
        slot_start = self._clock.origin_seconds + outcome.slot * self._scenario.slot_seconds
        for seen, choice, came in zip(closed.observation.ues, decision.ues, outcome.ues, strict=True):
            self._record(
                SlotRecord(
                    slot=outcome.slot,
                    ue=seen.name,
                    start_seconds=slot_start,
                    decision_sequence=decision.sequence,
                    cut=cut_label(choice.cut),
                    speed=choice.device_speed,
                    spectrum_up_hz=choice.spectrum_up_hz,
                    spectrum_down_hz=choice.spectrum_down_hz,
                    edge_share=choice.edge_share,
                    gain_up=seen.gain_up[0],
                    rate_up_bits_per_second=came.mean_rate_up_bits_per_second,
                    arrivals=came.arrivals,
                    completions=came.completions,
                    failures=came.failures,
                    mean_delay_seconds=came.mean_delay_seconds,
                    device_queue_tasks=seen.device_queue_tasks,
                    tx_queue_tasks=seen.tx_queue_tasks,
                    edge_queue_tasks=seen.edge_queue_tasks,
                    in_flight_tasks=seen.in_flight_tasks,
                    tx_backlog_bytes=seen.tx_backlog_bytes,
                    compute_joules=came.compute_joules,
                    transmit_joules=came.transmit_joules,
                    head_overruns=closed.head_overruns[seen.name],
                    tail_overruns=closed.tail_overruns[seen.name],
                    report_age_seconds=seen.report_age_seconds,
                    decide_seconds=closed.decide_seconds,
                    decide_late=closed.decide_late,
                    policy_state=closed.policy_state,
                )
            )

    # ------------------------------------------------------------------------------------------------------- sending

    def _send(self, identity: bytes, message: Message) -> bool:
        """False if the peer is gone or does not read."""
        try:
            self._router.send_multipart([identity, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (errno.EHOSTUNREACH, errno.EAGAIN):
                raise
            logger.warning("%s did not reach %r: %s", type(message).__name__, identity, error)
            return False
        return True

    def _broadcast(self, message: Message) -> None:
        for node in self._hellos:
            self._send(node.encode(), message)

    def _record(self, record: SlotRecord | Event) -> None:
        try:
            self._records.send(encode(record), zmq.NOBLOCK)
        except zmq.Again:
            self._dropped_records += 1

    def _event(self, node: str, kind: str, text: str) -> None:
        logger.info("%s %s: %s", node, kind, text)
        self._record(Event(monotonic_seconds=time.monotonic(), node=node, kind=kind, text=text))

    def _emit_notices(self) -> None:
        for notice in self._engine.take_notices():
            self._event(notice.node, notice.kind, notice.text)

    def _fail(self, text: str) -> None:
        """The lab cannot be begun; the reason is in every Status."""
        self._error, self._state = text, "stopped"
        self._event("controller", "failed", text)

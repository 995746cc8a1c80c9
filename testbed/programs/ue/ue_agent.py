"""The UE's program: device, tx queue and books. ``main(config_path)`` runs inside the node's namespace and cgroup.

Threads: the main one owns all sockets and the books; ``stage`` computes; ``deadlines`` ends stages on time. All are to
be made SCHED_FIFO from outside (``Hello``), best with all but ``stage`` one above it. The I/O too, small as it is: an
ordinary thread that shares a core with a stage waits until that stage is through (17 ms measured, and the link idle),
and when it is held up with the interpreter's lock, so is its own node's stage.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Protocol

import msgspec
import zmq

from controller.contract import ALL_ON_DEVICE, ALL_ON_EDGE, UeDecision
from controller.model.arrivals import ArrivalProcess
from controller.service import protocol
from testbed.inference.profiles import read_profile
from testbed.mechanisms.delegation.adviser import Adviser
from testbed.mechanisms.retraining.model_updates import ModelUpdates
from testbed.node import ledger, task_frames
from testbed.node.backend import CpuBackend
from testbed.node.control import ControlLink, DecisionBox, HelloTimer, io_tids
from testbed.node.ledger import SlotSums, Task
from testbed.node.pacing import DeadlineThread
from testbed.node.sight import Sight, Silences, Tuner
from testbed.node.threads import Wakeup
from testbed.node.transport import CreditSender
from testbed.programs.ue.arrivals import ArrivalSchedule
from testbed.programs.ue.ue_stage import StageThread
from testbed.programs.ue.ue_uplink import Uplink
from testbed.protocol import records
from testbed.protocol.configs import UeConfig

_IDLE_SECONDS = 0.5


class DataLink(Protocol):
    """What the I/O thread needs of a data socket."""

    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    blocked: bool  # the socket takes nothing until it polls writable
    late_results: int
    disconnects: int

    @property
    def sender(self) -> CreditSender: ...
    @property
    def waiting_tasks(self) -> int:
        """Not wholly received by the edge."""

    @property
    def backlog_bytes(self) -> int:
        """Bytes that the edge has not acknowledged."""

    def watch(self) -> None:
        """Connection events."""

    def receive(self) -> None: ...
    def send(self) -> None:
        """As much as the credit allows."""

    def expire(self, arrived_before_seconds: float, reason: str) -> None: ...
    def close(self) -> None: ...


class UeAgent:
    """The I/O thread."""

    def __init__(self, config: UeConfig) -> None:
        self._config = config
        profile = read_profile(Path(config.profile_path))
        self._backend = CpuBackend(config.model, config.seed, profile, config.lab_folder)
        self._prepare()
        self._wake = Wakeup()
        self._stop_reason = ""
        self._decisions = DecisionBox()
        self._adviser = Adviser(config.node)
        self._deadlines = DeadlineThread("deadlines")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        sight = Sight(self._context, config.node, config.lab_directory)
        self._stage = self._make_stage(sight)
        self._link = ControlLink(self._context, config.node, config.lab_directory)
        self._silences = Silences(Sight(self._context, config.node, config.lab_directory))
        self._uplink = self._make_uplink()
        self._process = ArrivalProcess(
            config.arrivals, config.slot_seconds, config.seed, config.ue_index, config.arrival_file_times_seconds
        )
        self._updates: ModelUpdates | None = None
        if config.updates_endpoint:
            self._updates = ModelUpdates(
                self._context,
                config.node,
                config.updates_endpoint,
                self._stage.weights,
                self._backend.split,
                config.receive_watts,
                self._wake,
            )
        self._tuner: Tuner | None = None
        if config.channel_refresh == "per_task_stage":
            self._tuner = Tuner(Sight(self._context, config.node, config.lab_directory))
        self._schedule: ArrivalSchedule | None = None
        self._announced = 0  # number of the task that arrives next
        self._in_flight = 0
        self._totals = [0, 0]  # tasks that arrived, that ended
        self._slot = -1  # the one that ends at the next report
        self._report_seconds = math.inf
        self._sums = SlotSums()
        self._commanded: int | None = None  # sequence of the decision whose rate the uplink follows

    def _prepare(self) -> None:
        """Build and warm up what stages will need."""
        self._backend.prepare_heads(self._backend.profile.known_cuts)

    def _make_stage(self, sight: Sight) -> StageThread:
        return StageThread(self._config, self._backend, self._decisions, self._deadlines, self._wake, sight)

    def _make_uplink(self) -> DataLink:
        config = self._config
        self._tasks_up = Uplink(
            self._context,
            config.node,
            config.edge_endpoint,
            config.round_trip_seconds,
            config.task_timeout_seconds,
            self._answered,
            self._received,
            self._lost,
        )
        self._tasks_up.silent_seconds = self._silences.seconds
        if config.channel_refresh == "per_task_stage":
            self._tasks_up.admit = self._admit
        return self._tasks_up

    def request_stop(self, reason: str) -> None:
        """Safe in a signal handler."""
        self._stop_reason = reason
        self._wake.set()

    def run(self) -> None:
        """Returns when all that is to be recorded has been sent."""
        self._deadlines.start()
        self._stage.start()
        if self._updates is not None:
            self._updates.start()
        self._silences.follow()
        hello = HelloTimer(self._link, self._hello)
        self._hello_timer = hello
        poller = zmq.Poller()
        poller.register(self._wake.fileno(), zmq.POLLIN)
        for socket in (self._link.socket, self._uplink.monitor, self._silences.socket):
            poller.register(socket, zmq.POLLIN)
        if self._tuner is not None:
            poller.register(self._tuner.socket, zmq.POLLIN)
        while not self._stop_reason:
            now = time.monotonic()
            due = min(hello.poll(now) or math.inf, self._report_seconds, self._next_arrival(), now + _IDLE_SECONDS)
            poller.register(self._uplink.socket, zmq.POLLIN | (zmq.POLLOUT if self._uplink.blocked else 0))
            poller.poll(max(0, math.ceil((due - now) * 1e3)))
            self._wake.clear()
            self._turn()
        self._finish()

    def _hello(self) -> protocol.Hello:
        tids = (self._deadlines.tid, *io_tids(), *([self._updates.tid] if self._updates else []))
        return protocol.Hello(
            self._config.node,
            "ue",
            os.getpid(),
            stage_tid=self._stage.tid,
            extra_tids=tids,
            weights={self._config.node: self._backend.split.model.weights_digest},
        )

    def _turn(self) -> None:
        self._silences.collect()
        self._uplink.watch()
        self._uplink.receive()
        for message in self._link.received():
            self._handle(message)
        now = time.monotonic()
        self._announce(now)
        self._collect()
        if self._tuner is None:
            self._follow_decision(now)
        else:
            self._tuner.collect()
        self._uplink.send()
        self._uplink.expire(
            now - self._config.task_timeout_seconds,
            f"timeout: {self._config.task_timeout_seconds:g} s passed without an answer",
        )
        while now >= self._report_seconds:
            self._report(now)

    # ------------------------------------------------------------------------------------------------------- control

    def _handle(self, message: protocol.Control) -> None:
        match message:
            case protocol.Welcome():
                self._hello_timer.welcomed()
            case protocol.Start():
                self._begin(message)
            case protocol.Apply():
                self._accept(message)
            case protocol.Delegation():
                self._adviser.accept(message)
            case protocol.Question():
                self._link.send(self._adviser.answer(message))
            case protocol.Drain():
                if self._schedule is not None:
                    self._schedule.end_seconds = time.monotonic()
            case protocol.Stop():
                self._stop_reason = message.reason or "stop"
            case _:
                self._link.event("malformed", f"{type(message).__name__} is not for a UE: dropped")

    def _begin(self, start: protocol.Start) -> None:
        if self._schedule is not None:
            return
        now = time.monotonic()
        schedule = ArrivalSchedule(self._process, start)
        schedule.extend(now)
        self._announced = schedule.first_task(now)
        first_boundary = schedule.first_boundary(now)
        self._slot = first_boundary - 1
        self._report_seconds = schedule.boundary_seconds(first_boundary)
        self._schedule = schedule
        self._stage.schedule(schedule, self._announced)

    def _accept(self, apply: protocol.Apply) -> None:
        """Put a decision where the stage takes it from; one that cannot be carried out is refused with an event."""
        own = next((ue for ue in apply.decision.ues if ue.name == self._config.node), None)
        try:
            self._check(own)
        except ValueError as error:
            self._link.event("decision-refused", f"decision {apply.decision.sequence}: {error}; the last one stays")
            return
        assert own is not None
        if self._updates is not None:
            self._updates.want(own)
            self._updates.rate_bits_per_second = apply.rates_down_bits_per_second.get(self._config.node, 10e6)
        if self._decisions.put(apply):
            self._stage.wake()

    def _check(self, own: UeDecision | None) -> None:
        if own is None:
            raise ValueError(f"it says nothing of {self._config.node}")
        self._backend.check(own.cut)
        if own.stop_rule:
            self._stage.online.prepare(own)
        if (own.cut != ALL_ON_EDGE or own.stop_rule) and not 0 < own.device_speed < math.inf:
            raise ValueError(f"cut {own.cut} at device speed {own.device_speed}")

    def _follow_decision(self, now: float) -> None:
        """The link's rate changes with the decision at once, also for tasks that keep their older cut."""
        apply = self._decisions.in_force(now)
        if apply is None or apply.decision.sequence == self._commanded:
            return
        self._commanded = apply.decision.sequence
        rate = apply.rates_up_bits_per_second.get(self._config.node, 0.0)
        if rate > 0:
            self._uplink.sender.rate.command(rate)

    def _admit(self, task: Task, wire_is_free: bool) -> bool:
        """Whether the wire has the gain of the task that is to be sent next."""
        assert self._tuner is not None
        chain = self._backend.profile.chain_cuts
        column = chain.index(task.cut) if task.cut in chain else -1
        rate = self._tuner.admit(task.number, column, wire_is_free)
        if rate is None:
            return False
        self._uplink.sender.rate.command(rate)
        return True

    # --------------------------------------------------------------------------------------------------------- tasks

    def _next_arrival(self) -> float:
        schedule = self._schedule
        arrival = None if schedule is None else schedule.arrival_seconds(self._announced)
        if schedule is None or arrival is None:
            return math.inf
        return arrival if arrival <= schedule.end_seconds else math.inf

    def _announce(self, now: float) -> None:
        while self._schedule is not None and (arrival := self._next_arrival()) <= now:
            self._link.record(records.TaskArrived(self._config.node, self._announced, arrival))
            self._announced += 1
            self._in_flight += 1
            self._totals[0] += 1
            self._sums.arrivals += 1

    def _collect(self) -> None:
        """Tasks that the stage thread is through with, and models that moved."""
        while self._updates is not None and self._updates.records:
            self._link.record(self._updates.records.popleft())
        while self._stage.ended:
            task = self._stage.ended.popleft()
            self._announce(task.arrival_seconds)  # a record never precedes the arrival's
            self._sums.head_ended(task)
            if task.failure:
                self._lost(task, task.failure)
            elif task.cut == ALL_ON_DEVICE:
                self._complete(task, None, task.head_end_seconds, 0)
            else:
                self._tasks_up.add(task)

    def _answered(
        self, task: Task, result: task_frames.Result, logits: memoryview | None, result_wire_bytes: int
    ) -> None:
        now = time.monotonic()
        try:
            task.answer, task.answer_checksum = self._backend.answer_of(logits or memoryview(b""))
        except ValueError as error:
            self._lost(task, str(error))
            return
        self._complete(task, result, now, result_wire_bytes)

    def _received(self, task: Task) -> None:
        self._sums.transmit_joules += task.transmit_joules
        self._sums.acked_bytes += task.boundary_bytes

    def _complete(self, task: Task, result: task_frames.Result | None, now: float, result_wire_bytes: int) -> None:
        self._completed(ledger.completed(task, self._config.node, result, now, result_wire_bytes))

    def _completed(self, record: records.TaskRecord) -> None:
        self._in_flight -= 1
        self._totals[1] += 1
        self._sums.completed(record)
        self._link.record(record)

    def _lost(self, task: Task, reason: str) -> None:
        self._in_flight -= 1
        self._totals[1] += 1
        self._sums.failures += 1
        if math.isnan(task.received_seconds):  # else it was charged when the edge had received it
            self._sums.transmit_joules += task.transmit_joules
        self._link.record(ledger.failed(task, self._config.node, reason))

    # ------------------------------------------------------------------------------------------------------- reports

    def _report(self, now: float) -> None:
        schedule = self._schedule
        assert schedule is not None
        self._silences.follow()
        if schedule.extend(now):
            self._stage.wake()
        apply = self._decisions.in_force(now)
        sums, self._sums = self._sums, SlotSums()
        self._link.send(
            protocol.UeReport(
                node=self._config.node,
                slot=self._slot,
                monotonic_seconds=now,
                nominal_arrival_rate_per_second=schedule.rate_per_second(self._slot + 1),
                arrivals=sums.arrivals,
                completions=sums.completions,
                failures=sums.failures,
                device_queue_tasks=self._announced - self._stage.started,
                tx_queue_tasks=self._uplink.waiting_tasks,
                in_flight_tasks=self._in_flight,
                tx_backlog_bytes=self._uplink.backlog_bytes,
                decision_sequence=-1 if apply is None else apply.decision.sequence,
                delay_sum_seconds=sums.delay_seconds,
                stage_sum_seconds=sums.stages,
                compute_joules=sums.compute_joules,
                transmit_joules=sums.transmit_joules,
                head_overruns=sums.head_overruns,
                acked_bytes=sums.acked_bytes,
                stale_decisions=self._decisions.stale,
                late_results=self._uplink.late_results,
                disconnects=self._uplink.disconnects,
                uplink_rate_bits_per_second=self._uplink.sender.rate.bits_per_second,
                parts=self._parts(),
            )
        )
        self._slot += 1
        self._report_seconds = schedule.boundary_seconds(self._slot + 1)
        schedule.forget(min(self._announced, self._stage.started), self._slot)

    def _parts(self) -> protocol.UeParts:
        placed = self._stage.weights.placed
        return protocol.UeParts(
            retraining=protocol.RetrainingReport(placed.version, len(placed.nodes), self._updates.fetched_bytes)
            if self._updates
            else protocol.RetrainingReport(),
            stopping=protocol.StoppingReport(self._stage.online.blind),
        )

    def _finish(self) -> None:
        self._stage.stop()
        if self._updates is not None:
            self._updates.stop()
        self._deadlines.stop()
        self._announce(time.monotonic())
        self._collect()
        self._uplink.receive()
        arrived, ended = self._totals
        counts = {
            "arrived_tasks": arrived,
            "ended_tasks": ended,
            "in_flight_tasks": self._in_flight,
            "unsent_records": self._link.dropped,
            "stale_decisions": self._decisions.stale,
            "late_results": self._uplink.late_results,
            "disconnects": self._uplink.disconnects,
            "parts": self._parts(),
        }
        self._link.event("stopped", f"{self._stop_reason}; {msgspec.json.encode(counts).decode()}")
        self._uplink.close()
        self._stage.online.close()
        self._silences.close()
        if self._tuner is not None:
            self._tuner.close()
        self._link.close()
        self._context.term()

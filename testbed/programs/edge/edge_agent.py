"""The edge's program: receives, stamps, computes tails at the shares it was given, answers.

Threads: the main one owns all sockets - it stamps what comes, acknowledges it, puts it together and queues it -;
``compute`` runs tails; ``deadlines`` releases them on time. Scheduling as in :mod:`testbed.programs.ue.ue_agent`.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import Protocol

import zmq

from controller.contract import ALL_ON_DEVICE, Cut, cut_from_label
from controller.service import protocol
from testbed.inference.tensors import FrameHeader, MalformedFrame
from testbed.mechanisms.retraining.model_store import ModelStore
from testbed.node import task_frames
from testbed.node.backend import CpuBackend
from testbed.node.control import ControlLink, DecisionBox, HelloTimer, io_tids
from testbed.node.devices import Choice
from testbed.node.pacing import DeadlineThread
from testbed.node.threads import Wakeup
from testbed.node.transport import Assembler, ReceivedTask, RefusedTaskError
from testbed.node.ue_sockets import UeSockets
from testbed.programs.edge.edge_backends import load_backends, usage_of
from testbed.programs.edge.edge_compute import NO_LOGITS, ComputeThread
from testbed.protocol import records
from testbed.protocol.configs import EdgeConfig

_LARGEST_PART_BYTES = 1 << 20  # agents send chunks of 64 kB, and what a model consists of
_HIGH_WATER = 10_000  # results and acknowledgements for one UE whose downlink is in an outage
_MOST_UNSENT_BYTES = 64 << 20  # of these, whatever the size of an answer
_MOST_STRANGE_CUTS = 64  # of several tensors, and not decided: a decision may reach the UE before it reaches the edge
_MESSAGES_PER_TURN = 64
_PROBE_SECONDS = 0.1
_IDLE_SECONDS = 0.5


class Lateness:
    """How late the receiver wakes up, p99 over a slot: of answers that wait for it, and of a probe every 100 ms."""

    def __init__(self) -> None:
        self._samples: list[float] = []

    def add(self, seconds: float) -> None:
        self._samples.append(seconds)

    def take_p99(self) -> float:
        samples, self._samples = sorted(self._samples), []
        return samples[math.ceil(0.99 * len(samples)) - 1] if samples else 0.0


class Compute(Protocol):
    """What the receiver needs of the thread that computes."""

    tid: int

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def state(self, ue: str, now_seconds: float) -> tuple[int, float]:
        """Tasks that have not started, and seconds of work left at the present share."""

    def take_counts(self, ue: str) -> tuple[int, int]:
        """Stages that ended since the last call, and the overruns among them."""


class EdgeAgent:
    """The receiver."""

    def __init__(self, config: EdgeConfig) -> None:
        self._config = config
        self._wake = Wakeup()
        self._stop_reason = ""
        self._decisions = DecisionBox()
        self._deadlines = DeadlineThread("deadlines")
        self._answers: deque[tuple[str, task_frames.Result, memoryview, float]] = deque()
        self._probes: deque[float] = deque()
        self._backends: dict[str, CpuBackend] = {}
        self._device = Choice(None)
        self._compute = self._make_compute()
        self._assemblers = {ue.name: Assembler(functools.partial(self._check, ue.name)) for ue in config.ues}
        self._decided_cuts: dict[str, set[Cut]] = {ue.name: set() for ue in config.ues}
        self._strange_cuts: dict[str, set[Cut]] = {ue.name: set() for ue in config.ues}
        self._lateness = Lateness()
        self._malformed = 0
        self._undelivered = 0
        self._refused = 0
        self._start: protocol.Start | None = None
        self._slot = -1
        self._report_seconds = math.inf
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._link = ControlLink(self._context, config.node, config.lab_directory)
        self._hello_timer = HelloTimer(self._link, self._hello)
        self._store: ModelStore | None = None
        if config.retraining_interval_seconds:
            self._store = ModelStore(
                self._context,
                {name: backend.split for name, backend in self._backends.items()},
                {ue.name: f"tcp://{ue.address}:{config.port + 1}" for ue in config.ues},
                seed=config.seed,
                interval_seconds=config.retraining_interval_seconds,
                perturbation=config.retraining_perturbation,
                hold_seconds=config.version_hold_seconds,
            )
        self._wires = UeSockets(
            self._context,
            {ue.name: (f"tcp://{ue.address}:{config.port}", ue.round_trip_seconds) for ue in config.ues},
            part_bytes=_LARGEST_PART_BYTES,
            send_high_water=self._send_high_water(),
        )

    def _make_compute(self) -> Compute:
        config = self._config
        self._backends, self._device = load_backends(config)
        self._tails = ComputeThread(self._backends, config.cpus, self._decisions, self._deadlines, self._answer)
        return self._tails

    def _send_high_water(self) -> int:
        largest = max((backend.profile.result_bytes for backend in self._backends.values()), default=0)
        return min(_HIGH_WATER, max(64, _MOST_UNSENT_BYTES // max(largest, 1)))

    def request_stop(self, reason: str) -> None:
        """Safe in a signal handler."""
        self._stop_reason = reason
        self._wake.set()

    def run(self) -> None:
        """Returns when all that is to be recorded has been sent."""
        self._deadlines.start()
        self._compute.start()
        if self._store is not None:
            self._store.start()
        self._deadlines.submit(time.monotonic() + _PROBE_SECONDS, self._probe)
        poller = zmq.Poller()
        poller.register(self._wake.fileno(), zmq.POLLIN)
        poller.register(self._link.socket, zmq.POLLIN)
        self._wires.poll_with(poller)
        while not self._stop_reason:
            now = time.monotonic()
            due = min(self._hello_timer.poll(now) or math.inf, self._report_seconds, now + _IDLE_SECONDS)
            ready = dict(poller.poll(max(0, math.ceil((due - now) * 1e3))))
            self._wake.clear()
            self._receive(ready)
            self._watch_wires()
            self._send_answers()
            self._send_values()
            for message in self._link.received():
                self._handle(message)
            while (now := time.monotonic()) >= self._report_seconds:
                self._report(now)
        self._finish()

    def _hello(self) -> protocol.Hello:
        tids = (self._deadlines.tid, *io_tids(), *([self._store.tid] if self._store else []))
        return protocol.Hello(
            self._config.node,
            "edge",
            os.getpid(),
            stage_tid=self._compute.tid,
            extra_tids=tids,
            device=self._device.device,
            device_reason=self._device.reason,
            weights={ue: backend.split.model.weights_digest for ue, backend in self._backends.items()},
        )

    # ------------------------------------------------------------------------------------------------------ data plane

    def _receive(self, ready: Collection[object]) -> None:
        for ue, frames in self._wires.received(ready, _MESSAGES_PER_TURN):
            now = time.monotonic()
            try:
                if frames is None:
                    raise MalformedFrame("of nobody who may speak on this wire")
                self._take(ue, frames, now)
            except MalformedFrame:
                self._malformed += 1

    def _watch_wires(self) -> None:
        self._wires.check(time.monotonic())
        for ue, reason in [*self._wires.take_cuts(), *(self._store.take_cuts() if self._store else [])]:
            self._malformed += 1
            self._link.event("cut-off", f"{ue} was cut off for a while: {reason}")

    def _take(self, ue: str, frames: Sequence[memoryview], now: float) -> None:
        """One message of a UE. Raises MalformedFrame."""
        ack, task = self._assemblers[ue].feed(frames, now)
        self._send(ue, [task_frames.encode(ack)])
        if task is None:
            return
        if task.refusal:
            self._refuse(ue, task)
        else:
            self._tails.add(ue, task)

    def _check(self, ue: str, header: FrameHeader) -> None:
        """Raises RefusedTaskError for a task of which this edge has no tail, before its bytes come."""
        backend = self._backends[ue]
        cut = cut_from_label(header.cut)
        try:
            if cut == ALL_ON_DEVICE:
                raise ValueError("a local task has no tail")
            self._check_known(ue, cut)
            backend.check(cut)
            backend.check_tensors(cut, header.tensors)
        except ValueError as error:
            raise RefusedTaskError(f"edge: {error}"[:500]) from error
        expected = backend.profile.boundary_bytes(cut, header.codec)
        if header.model_version not in backend.split.weights:
            raise RefusedTaskError(f"edge: model version {header.model_version} is not here any more")
        if header.payload_bytes != expected:
            raise RefusedTaskError(f"edge: cut {header.cut} has {expected} bytes, not {header.payload_bytes}")
        if self._tails.full(ue, header.payload_bytes):
            waiting, _ = self._tails.state(ue, time.monotonic())
            raise RefusedTaskError(f"edge: its queue is full: {waiting} tasks of {ue} wait")

    def _check_known(self, ue: str, cut: Cut) -> None:
        """Each cut that is tried takes milliseconds and memory. Raises ValueError."""
        if len(cut) == 1 or cut in self._decided_cuts[ue]:
            return
        strange = self._strange_cuts[ue]
        if cut not in strange and len(strange) >= _MOST_STRANGE_CUTS:
            raise ValueError("a cut that was never decided")
        strange.add(cut)

    def _refuse(self, ue: str, task: ReceivedTask) -> None:
        self._refused += 1
        nowhere = math.nan
        result = task_frames.Result(task.task, task.received_seconds, nowhere, nowhere, nowhere, 0.0, 0.0, task.refusal)
        self._send(ue, [task_frames.encode(result)])

    def _answer(self, ue: str, result: task_frames.Result, logits: memoryview) -> None:
        """From the computing threads."""
        self._answers.append((ue, result, logits, time.monotonic()))
        self._wake.set()

    def _probe(self, now_seconds: float) -> None:
        self._probes.append(now_seconds)
        self._wake.set()
        self._deadlines.submit(now_seconds + _PROBE_SECONDS, self._probe)

    def _send_answers(self) -> None:
        now = time.monotonic()
        while self._probes:
            self._lateness.add(now - self._probes.popleft())
        while self._answers:
            ue, result, logits, stamp = self._answers.popleft()
            self._lateness.add(max(now - stamp, 0.0))
            frames: list[bytes | memoryview] = [task_frames.encode(result)]
            if logits is not NO_LOGITS:
                frames.append(logits)
            self._send(ue, frames)

    def _send_values(self) -> None:
        """What else is due; an edge that has its models sends answers only."""

    def _send(self, ue: str, frames: list[bytes | memoryview]) -> None:
        self._undelivered += not self._wires.send(ue, frames)

    # --------------------------------------------------------------------------------------------------------- control

    def _handle(self, message: protocol.Control) -> None:
        match message:
            case protocol.Welcome():
                self._hello_timer.welcomed()
            case protocol.Start():
                self._start = message
                if self._store is not None:
                    self._store.begin(message.origin_seconds)
                late = (time.monotonic() - message.origin_seconds) / message.slot_seconds
                self._schedule_report(max(0, math.ceil(late)))
            case protocol.Apply():
                self._accept(message)
            case protocol.Drain():
                pass  # an edge serves what comes until Stop
            case protocol.Stop():
                self._stop_reason = message.reason or "stop"
            case _:
                self._link.event("malformed", f"{type(message).__name__} is not for an edge: dropped")

    def _accept(self, apply: protocol.Apply) -> None:
        self._decisions.put(apply)
        self._wires.rates(apply.rates_up_bits_per_second)
        for own in apply.decision.ues:
            if len(own.cut) > 1 and own.name in self._decided_cuts:
                self._decided_cuts[own.name].add(own.cut)

    def _schedule_report(self, boundary: int) -> None:
        assert self._start is not None
        self._slot = boundary - 1
        self._report_seconds = self._start.origin_seconds + boundary * self._start.slot_seconds

    def _report(self, now: float) -> None:
        apply = self._decisions.in_force(now)
        sequence = -1 if apply is None else apply.decision.sequence
        rows = []
        for name in self._assemblers:
            waiting, seconds = self._compute.state(name, now)
            tails, overruns = self._compute.take_counts(name)
            held = self._cached_nodes(name)
            rows.append(protocol.EdgeUeReport(name, waiting, seconds, tails, overruns, sequence, held))
        p99 = self._lateness.take_p99()
        self._link.send(protocol.EdgeReport(self._slot, now, tuple(rows), p99, self._unreadable))
        self._link.record(self._health(now, p99))
        self._schedule_report(self._slot + 2)

    @property
    def _unreadable(self) -> int:
        """Messages of UEs, and of whoever else spoke on their wires, that could not be read, and UEs cut off."""
        return self._malformed + (self._store.malformed if self._store else 0)

    def _cached_nodes(self, ue: str) -> tuple[str, ...]:
        """Nodes of a UE's model whose parameters it sent; an edge that has its models lists none."""
        return ()

    def _health(self, now: float, lateness_p99_seconds: float) -> records.EdgeHealth:
        usage = usage_of(self._backends)
        return records.EdgeHealth(
            now,
            lateness_p99_seconds,
            self._unreadable,
            dropped_tasks=self._tails.dropped,
            refused_tasks=self._refused,
            device_tails=usage.tails,
            device_tail_seconds=usage.tail_seconds,
            device_upload_seconds=usage.upload_seconds,
            device_download_seconds=usage.download_seconds,
            device_uploaded_bytes=usage.uploaded_bytes,
            device_downloaded_bytes=usage.downloaded_bytes,
        )

    def _finish(self) -> None:
        self._compute.stop()
        if self._store is not None:
            self._store.stop()
        self._deadlines.stop()
        self._send_answers()
        self._link.event(
            "stopped",
            f"{self._stop_reason}; malformed_frames={self._unreadable} refused_tasks={self._refused} "
            f"dropped_tasks={self._health(time.monotonic(), 0.0).dropped_tasks} "
            f"undelivered_messages={self._undelivered} stale_decisions={self._decisions.stale}",
        )
        self._wires.close()
        self._link.close()
        self._context.term()

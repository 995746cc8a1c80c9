"""The edge's program: receives, stamps, computes tails at the shares it was given, answers.

Threads: the main one owns all sockets - it stamps what comes, acknowledges it, puts it together and queues it -;
``compute`` runs tails; ``deadlines`` releases them on time. Scheduling as in :mod:`testbed.programs.ue.ue_agent`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection, Sequence
from typing import Protocol

import zmq

from controller.service import protocol
from testbed.inference.tensors import MalformedFrame
from testbed.node.control import HelloTimer, io_tids
from testbed.node.devices import Choice
from testbed.node.edge_node import EdgeNode, EdgePart
from testbed.protocol import records

_MESSAGES_PER_TURN = 64
_PROBE_SECONDS = 0.1
_IDLE_SECONDS = 0.5


class Compute(Protocol):
    """What the receiver needs of the thread that computes."""

    tid: int

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def state(self, ue: str, now_seconds: float) -> tuple[int, float]:
        """Tasks that have not started, and seconds of work left at the present share."""

    def take_counts(self, ue: str) -> tuple[int, int]:
        """Stages that ended since the last call, and the overruns among them."""


class Service(Protocol):
    """What an edge does with what UEs send. Used by the receiver."""

    device: Choice

    @property
    def compute(self) -> Compute: ...
    @property
    def weights(self) -> dict[str, str]:
        """By UE: checksum of its model's first weights; of UEs that say themselves what they are, none."""

    def take(self, ue: str, frames: Sequence[memoryview], now: float) -> None:
        """One message of a UE. Raises MalformedFrame."""

    def send(self) -> None:
        """What is due to UEs."""

    def decided(self, apply: protocol.Apply) -> None:
        """A decision has come."""

    def slot_ended(self, now: float) -> None: ...
    def cached_nodes(self, ue: str) -> tuple[str, ...]:
        """Nodes of a UE's model whose parameters it sent."""

    def health(self, now: float, lateness_p99_seconds: float, unreadable: int) -> records.EdgeHealth: ...


class EdgeAgent:
    """The receiver. ``parts`` are of the lab's mechanisms."""

    def __init__(self, node: EdgeNode, service: Service, parts: Sequence[EdgePart]) -> None:
        self._node, self._service, self._parts = node, service, parts
        self._stop_reason = ""
        self._malformed = 0
        self._start: protocol.Start | None = None
        self._slot = -1
        self._report_seconds = math.inf
        self._threads = [thread for part in parts for thread in part.threads]
        self._hello_timer = HelloTimer(node.control, self._hello)

    def request_stop(self, reason: str) -> None:
        """Safe in a signal handler."""
        self._stop_reason = reason
        self._node.inbox.wake.set()

    def run(self) -> None:
        """Returns when all that is to be recorded has been sent."""
        node = self._node
        node.deadlines.start()
        self._service.compute.start()
        for thread in self._threads:
            thread.start()
        node.deadlines.submit(time.monotonic() + _PROBE_SECONDS, self._probe)
        poller = zmq.Poller()
        poller.register(node.inbox.wake.fileno(), zmq.POLLIN)
        poller.register(node.control.socket, zmq.POLLIN)
        node.wires.poll_with(poller)
        while not self._stop_reason:
            now = time.monotonic()
            due = min(self._hello_timer.poll(now) or math.inf, self._report_seconds, now + _IDLE_SECONDS)
            ready = dict(poller.poll(max(0, math.ceil((due - now) * 1e3))))
            node.inbox.wake.clear()
            self._receive(ready)
            self._watch_wires()
            node.inbox.work()
            self._service.send()
            for message in node.control.received():
                self._handle(message)
            while (now := time.monotonic()) >= self._report_seconds:
                self._report(now)
        self._finish()

    def _hello(self) -> protocol.Hello:
        node, service = self._node, self._service
        return protocol.Hello(
            node.config.node,
            "edge",
            os.getpid(),
            stage_tid=service.compute.tid,
            extra_tids=(node.deadlines.tid, *io_tids(), *(thread.tid for thread in self._threads)),
            device=service.device.device,
            device_reason=service.device.reason,
            weights=service.weights,
        )

    # ------------------------------------------------------------------------------------------------------ data plane

    def _receive(self, ready: Collection[object]) -> None:
        for ue, frames in self._node.wires.received(ready, _MESSAGES_PER_TURN):
            now = time.monotonic()
            try:
                if frames is None:
                    raise MalformedFrame("of nobody who may speak on this wire")
                self._service.take(ue, frames, now)
            except MalformedFrame:
                self._malformed += 1

    def _watch_wires(self) -> None:
        node = self._node
        node.wires.check(time.monotonic())
        others = (found for part in self._parts for found in part.take_cuts())
        for ue, reason in [*node.wires.take_cuts(), *others]:
            self._malformed += 1
            node.control.event("cut-off", f"{ue} was cut off for a while: {reason}")

    def _probe(self, now_seconds: float) -> None:
        node = self._node
        node.inbox.post(lambda: node.lateness.add(time.monotonic() - now_seconds))
        node.deadlines.submit(now_seconds + _PROBE_SECONDS, self._probe)

    # --------------------------------------------------------------------------------------------------------- control

    def _handle(self, message: protocol.Control) -> None:
        match message:
            case protocol.Welcome():
                self._hello_timer.welcomed()
            case protocol.Start():
                self._start = message
                for part in self._parts:
                    part.begin(message)
                late = (time.monotonic() - message.origin_seconds) / message.slot_seconds
                self._schedule_report(max(0, math.ceil(late)))
            case protocol.Apply():
                self._node.decisions.put(message)
                self._node.wires.rates(message.rates_up_bits_per_second)
                self._service.decided(message)
            case protocol.Drain():
                pass  # an edge serves what comes until Stop
            case protocol.Stop():
                self._stop_reason = message.reason or "stop"
            case _:
                self._node.control.event("malformed", f"{type(message).__name__} is not for an edge: dropped")

    def _schedule_report(self, boundary: int) -> None:
        assert self._start is not None
        self._slot = boundary - 1
        self._report_seconds = self._start.origin_seconds + boundary * self._start.slot_seconds

    def _report(self, now: float) -> None:
        node, service = self._node, self._service
        service.slot_ended(now)
        apply = node.decisions.in_force(now)
        sequence = -1 if apply is None else apply.decision.sequence
        rows = []
        for ue in node.config.ues:
            waiting, seconds = service.compute.state(ue.name, now)
            tails, overruns = service.compute.take_counts(ue.name)
            held = service.cached_nodes(ue.name)
            rows.append(protocol.EdgeUeReport(ue.name, waiting, seconds, tails, overruns, sequence, held))
        p99 = node.lateness.take_p99()
        node.control.send(protocol.EdgeReport(self._slot, now, tuple(rows), p99, self._unreadable))
        node.control.record(service.health(now, p99, self._unreadable))
        self._schedule_report(self._slot + 2)

    @property
    def _unreadable(self) -> int:
        """Messages of UEs, and of whoever else spoke on their wires, that could not be read, and UEs cut off."""
        return self._malformed + sum(part.malformed for part in self._parts)

    def _finish(self) -> None:
        node = self._node
        self._service.compute.stop()
        for thread in self._threads:
            thread.stop()
        node.deadlines.stop()
        node.inbox.work()
        health = self._service.health(time.monotonic(), 0.0, self._unreadable)
        node.control.event(
            "stopped",
            f"{self._stop_reason}; malformed_frames={self._unreadable} refused_tasks={health.refused_tasks} "
            f"dropped_tasks={health.dropped_tasks} "
            f"undelivered_messages={node.undelivered} stale_decisions={node.decisions.stale}",
        )
        node.close()

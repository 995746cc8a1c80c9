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
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq

from controller.model.arrivals import ArrivalProcess
from controller.service import protocol
from testbed.node.arrivals import ArrivalSchedule
from testbed.node.control import HelloTimer, io_tids
from testbed.node.data_link import DataLink
from testbed.node.ue_node import UeNode, UePart
from testbed.programs.ue.ue_stage import Device, StageThread

_IDLE_SECONDS = 0.5


class UeAgent:
    """The I/O thread. ``device`` computes tasks and gives them to ``link``; ``parts`` are of the lab's mechanisms."""

    def __init__(self, node: UeNode, device: Device, link: DataLink, parts: Sequence[UePart]) -> None:
        self._node, self._device, self._link, self._parts = node, device, link, parts
        config = node.config
        self._stop_reason = ""
        self._stage = StageThread(config, node.backend.split.model.signature, node.decisions, device, node.lost)
        self._threads = [thread for part in parts for thread in part.threads]
        self._hello_timer = HelloTimer(node.control, self._hello)
        self._process = ArrivalProcess(
            config.arrivals, config.slot_seconds, config.seed, config.ue_index, config.arrival_file_times_seconds
        )
        self._slot = -1  # the one that ends at the next report
        self._report_seconds = math.inf

    def request_stop(self, reason: str) -> None:
        """Safe in a signal handler."""
        self._stop_reason = reason
        self._node.inbox.wake.set()

    def run(self) -> None:
        """Returns when all that is to be recorded has been sent."""
        node, link = self._node, self._link
        for thread in (node.deadlines, self._stage, *self._threads):
            thread.start()
        node.silences.follow()
        poller = zmq.Poller()
        poller.register(node.inbox.wake.fileno(), zmq.POLLIN)
        ours = (socket for part in self._parts for socket in part.sockets)
        for socket in (node.control.socket, link.monitor, node.silences.socket, *ours):
            poller.register(socket, zmq.POLLIN)
        while not self._stop_reason:
            now = time.monotonic()
            hello = self._hello_timer.poll(now) or math.inf
            due = min(hello, self._report_seconds, node.books.next_arrival_seconds(), now + _IDLE_SECONDS)
            poller.register(link.socket, zmq.POLLIN | (zmq.POLLOUT if link.blocked else 0))
            poller.poll(max(0, math.ceil((due - now) * 1e3)))
            node.inbox.wake.clear()
            self._turn()
        self._finish()

    def _hello(self) -> protocol.Hello:
        node = self._node
        return protocol.Hello(
            node.config.node,
            "ue",
            os.getpid(),
            stage_tid=self._stage.tid,
            extra_tids=(node.deadlines.tid, *io_tids(), *(thread.tid for thread in self._threads)),
            weights={node.config.node: node.backend.split.model.weights_digest},
        )

    def _turn(self) -> None:
        node, link = self._node, self._link
        node.silences.collect()
        link.watch()
        link.receive()
        for message in node.control.received():
            self._handle(message)
        now = time.monotonic()
        node.books.announce(now)
        node.inbox.work()
        for part in self._parts:
            part.turn(now)
        link.send()
        timeout_seconds = node.config.task_timeout_seconds
        link.expire(now - timeout_seconds, f"timeout: {timeout_seconds:g} s passed without an answer")
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
            case protocol.Drain():
                if self._node.books.schedule is not None:
                    self._node.books.schedule.end_seconds = time.monotonic()
            case protocol.Stop():
                self._stop_reason = message.reason or "stop"
            case _:
                if not any(part.heard(message) for part in self._parts):
                    self._node.control.event("malformed", f"{type(message).__name__} is not for a UE: dropped")

    def _begin(self, start: protocol.Start) -> None:
        books = self._node.books
        if books.schedule is not None:
            return
        now = time.monotonic()
        schedule = ArrivalSchedule(self._process, start)
        schedule.extend(now)
        books.begin(schedule, schedule.first_task(now))
        first_boundary = schedule.first_boundary(now)
        self._slot = first_boundary - 1
        self._report_seconds = schedule.boundary_seconds(first_boundary)
        self._stage.schedule(schedule, books.announced)

    def _accept(self, apply: protocol.Apply) -> None:
        """Put a decision where the stage takes it from; one that cannot be carried out is refused with an event."""
        node = self._node
        own = next((ue for ue in apply.decision.ues if ue.name == node.config.node), None)
        try:
            if own is None:
                raise ValueError(f"it says nothing of {node.config.node}")
            node.backend.check(own.cut)
            self._device.check(own)
            for part in self._parts:
                part.check(own)
        except ValueError as error:
            node.control.event("decision-refused", f"decision {apply.decision.sequence}: {error}; the last one stays")
            return
        for part in self._parts:
            part.decided(apply, own)
        if node.decisions.put(apply):
            self._stage.wake()

    # ------------------------------------------------------------------------------------------------------- reports

    def _report(self, now: float) -> None:
        node, link, books = self._node, self._link, self._node.books
        schedule = books.schedule
        assert schedule is not None
        node.silences.follow()
        if schedule.extend(now):
            self._stage.wake()
        apply = node.decisions.in_force(now)
        sums = books.take_sums()
        node.control.send(
            protocol.UeReport(
                node=node.config.node,
                slot=self._slot,
                monotonic_seconds=now,
                nominal_arrival_rate_per_second=schedule.rate_per_second(self._slot + 1),
                arrivals=sums.arrivals,
                completions=sums.completions,
                failures=sums.failures,
                device_queue_tasks=books.announced - self._stage.started,
                tx_queue_tasks=link.waiting_tasks,
                in_flight_tasks=books.in_flight_tasks,
                tx_backlog_bytes=link.backlog_bytes,
                decision_sequence=-1 if apply is None else apply.decision.sequence,
                delay_sum_seconds=sums.delay_seconds,
                stage_sum_seconds=sums.stages,
                compute_joules=sums.compute_joules,
                transmit_joules=sums.transmit_joules,
                head_overruns=sums.head_overruns,
                acked_bytes=sums.acked_bytes,
                stale_decisions=node.decisions.stale,
                late_results=link.late_results,
                disconnects=link.disconnects,
                uplink_rate_bits_per_second=link.sender.rate.bits_per_second,
                parts=protocol.UeParts(**self._reported()),
            )
        )
        self._slot += 1
        self._report_seconds = schedule.boundary_seconds(self._slot + 1)
        schedule.forget(min(books.announced, self._stage.started), self._slot)

    def _reported(self) -> dict[str, Any]:
        return {part.name: part.report() for part in self._parts if part.name}

    def _finish(self) -> None:
        node, link, books = self._node, self._link, self._node.books
        for thread in (self._stage, *self._threads, node.deadlines):
            thread.stop()
        books.announce(time.monotonic())
        node.inbox.work()
        link.receive()
        for part in self._parts:
            part.close()
        counts = {
            "arrived_tasks": books.arrived_tasks,
            "ended_tasks": books.ended_tasks,
            "in_flight_tasks": books.in_flight_tasks,
            "unsent_records": node.control.dropped,
            "stale_decisions": node.decisions.stale,
            "late_results": link.late_results,
            "disconnects": link.disconnects,
            **self._reported(),
        }
        node.control.event("stopped", f"{self._stop_reason}; {msgspec.json.encode(counts).decode()}")
        link.close()
        node.close()

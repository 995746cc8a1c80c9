"""The UE's device queue: tasks as they arrive, one after another, each under the decision in force when it starts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from controller.contract import UeDecision
from controller.service import protocol
from testbed.inference.signature import Signature
from testbed.node.arrivals import ArrivalSchedule
from testbed.node.control import DecisionBox
from testbed.node.feed import Feed
from testbed.node.last_words import reason_of
from testbed.node.ledger import Task
from testbed.node.threads import AgentThread
from testbed.protocol import records
from testbed.protocol.configs import UeConfig

#: A decision is made at its slot's start and is here some milliseconds later. A head that starts in between waits so
#: long for it, within the margin between computation and target: its cut would be the last slot's while edge and wire
#: already serve the new one.
DECISION_WAIT_SECONDS = 10e-3


def decision_wait_seconds(decided_slot: int, schedule: ArrivalSchedule, start_seconds: float, now: float) -> float:
    """How long a head that starts then waits on when the newest decision is of ``decided_slot``; 0: it takes that."""
    slot = schedule.slot_at(start_seconds)
    if decided_slot >= slot:
        return 0.0
    return max(0.0, schedule.boundary_seconds(slot) + DECISION_WAIT_SECONDS - now)


class Device(Protocol):
    """What computes a UE's tasks."""

    def check(self, own: UeDecision) -> None:
        """Raises ValueError for a decision that it cannot carry out. From the I/O thread."""

    def serve(self, task: Task, own: UeDecision, image: Tensor) -> float:
        """Compute until the device is free again. Returns when that is."""

    def interrupt(self) -> None:
        """End what :meth:`serve` waits for: the program ends. From another thread."""


class StageThread(AgentThread):
    """Takes tasks. Open loop: a task's arrival is its scheduled time, however late this thread is.

    A task starts, for the books, when it has arrived and the device is free; that this thread gets a core only later
    uses up the margin between computation and target, as it would not on the device that is emulated. No ZeroMQ in
    here but the UE's sight of its channel, and no clock but CLOCK_MONOTONIC. ``lost(task)``: it was not, or not wholly,
    served, and ``task.failure`` says why.
    """

    def __init__(
        self,
        config: UeConfig,
        signature: Signature,
        decisions: DecisionBox,
        device: Device,
        lost: Callable[[Task], None],
    ) -> None:
        super().__init__("stage")
        self._config = config
        self._decisions = decisions
        self._device = device
        self._lost = lost
        self._feed = Feed(config.inputs, signature, config.seed, config.ue_index)
        self._schedule: ArrivalSchedule | None = None
        self._first_task = 0
        self.started = 0  # number of the task that leaves the device queue next

    def schedule(self, schedule: ArrivalSchedule, first_task: int) -> None:
        self._first_task = self.started = first_task
        self._schedule = schedule
        self._wake.set()

    def wake(self) -> None:
        """There are new arrivals, or a new decision."""
        self._wake.set()

    def _interrupt(self) -> None:
        super()._interrupt()
        self._device.interrupt()

    def _run(self) -> None:
        free_seconds = 0.0  # when the device ended its last stage
        served = 0
        while not self._stopping:
            number = self._first_task + served
            arrival = self._next_arrival(number)
            if arrival is None:
                continue
            start = max(arrival, free_seconds)
            if self._is_dropped(number, arrival, free_seconds):
                served += 1
                self.started += 1
                self._lost(Task(number, arrival, input=self._feed.index(number), dropped=True, failure=records.DROPPED))
                continue
            decision = self._decision(start)
            if decision is None:
                continue
            task = Task(number, arrival, input=self._feed.index(number))
            served += 1
            if time.monotonic() - arrival > self._config.task_timeout_seconds:
                task.failure = f"timeout: {self._config.task_timeout_seconds:g} s passed in the device queue"
                self.started += 1
                self._lost(task)
                continue
            task.head_start_seconds = start
            self.started += 1
            try:
                free_seconds = self._serve(task, *decision)
            except Exception as error:  # noqa: BLE001 - a model may raise anything: its task fails, the device goes on
                free_seconds = max(start, time.monotonic())
                task.failure = reason_of("head", error)
                self._lost(task)

    def _next_arrival(self, number: int) -> float | None:
        """Wait for the task's arrival; None after any other wake-up."""
        schedule = self._schedule
        arrival = None if schedule is None else schedule.arrival_seconds(number)
        if schedule is None or arrival is None:
            self._wake.wait()
            return None
        while (left := arrival - time.monotonic()) > 0:
            self._wake.wait(left)
            if self._stopping:
                return None
        if arrival <= schedule.end_seconds:
            return arrival
        self._wake.wait()
        return None

    def _is_dropped(self, number: int, arrival_seconds: float, free_seconds: float) -> bool:
        """Whether the camera has thrown a task away by the time that the device is free for it."""
        match self._config.arrivals.on_busy:
            case "drop":
                return arrival_seconds < free_seconds
            case "latest":
                assert self._schedule is not None  # there was an arrival
                newer = self._schedule.arrival_seconds(number + 1)
                return newer is not None and newer < free_seconds and newer <= self._schedule.end_seconds
            case _:
                return False

    def _decision(self, start_seconds: float) -> tuple[protocol.Apply, UeDecision] | None:
        """The one of the slot in which the head starts, or the last one if that does not come in time; waits for the
        first one."""
        now = max(start_seconds, time.monotonic())
        apply = self._decisions.in_force(now)
        if apply is None:
            change = self._decisions.next_change_seconds()
            self._wake.wait(None if change is None else change - now)
            return None
        assert self._schedule is not None  # there was an arrival
        left = decision_wait_seconds(apply.decision.slot, self._schedule, start_seconds, now)
        if left > 0:
            self._wake.wait(left)
            return None
        (own,) = (ue for ue in apply.decision.ues if ue.name == self._config.node)
        return apply, own

    def _serve(self, task: Task, apply: protocol.Apply, own: UeDecision) -> float:
        task.decision_sequence = apply.decision.sequence
        task.speed = own.device_speed
        task.transmit_watts = self._config.transmit_watts if own.transmit_watts is None else own.transmit_watts
        began = time.monotonic()
        given = self._feed.input(task.number)
        task.head_compute_seconds = time.monotonic() - began
        return self._device.serve(task, own, given)

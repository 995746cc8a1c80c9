"""The UE's device: a FCFS queue and one stage at a time, really computed and ended at its target time."""

from __future__ import annotations

import time
from collections import deque

from controller.contract import ALL_ON_EDGE, Codec, UeDecision
from controller.service import protocol
from testbed.mechanisms.retraining.model_updates import DeviceWeights
from testbed.mechanisms.stopping.online_split import OnlineHead, Stopped
from testbed.node.backend import IMAGES, CpuBackend, task_image
from testbed.node.control import DecisionBox
from testbed.node.last_words import reason_of
from testbed.node.ledger import Task
from testbed.node.pacing import DeadlineThread
from testbed.node.sight import Sight
from testbed.node.threads import AgentThread, Wakeup
from testbed.node.times import StageTimes
from testbed.programs.ue.arrivals import ArrivalSchedule
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


class StageThread(AgentThread):
    """Computes heads. Open loop: a task's arrival is its scheduled time, however late this thread is.

    A head starts, for the books, when its task has arrived and the one before has ended; that this thread gets a
    core only later uses up the margin between computation and target, as it would not on the device that is emulated.
    No ZeroMQ in here but the UE's sight of its channel, and no clock but CLOCK_MONOTONIC. Ended tasks go to
    :attr:`ended`, and ``wake_io`` is set.
    """

    def __init__(
        self,
        config: UeConfig,
        backend: CpuBackend,
        decisions: DecisionBox,
        deadlines: DeadlineThread,
        wake_io: Wakeup,
        sight: Sight,
    ) -> None:
        super().__init__("stage")
        self._config = config
        self._backend = backend
        self._times = StageTimes(backend.profile)
        self._decisions = decisions
        self._deadlines = deadlines
        self._wake_io = wake_io
        self.weights = DeviceWeights(backend.split)
        self.online = OnlineHead(backend, sight, self._wait_until)
        shape = backend.split.model.input_shape
        self._images = [task_image(shape, config.seed, config.ue_index, number) for number in range(IMAGES)]
        self._schedule: ArrivalSchedule | None = None
        self._first_task = 0
        self._released = Wakeup()
        self.ended: deque[Task] = deque()
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
        self._released.set()

    def _run(self) -> None:
        free_seconds = 0.0  # when the device ended its last stage
        served = 0
        while not self._stopping:
            number = self._first_task + served
            arrival = self._next_arrival(number)
            if arrival is None:
                continue
            start = max(arrival, free_seconds)
            decision = self._decision(start)
            if decision is None:
                continue
            task = Task(number, arrival)
            served += 1
            if time.monotonic() - arrival > self._config.task_timeout_seconds:
                task.failure = f"timeout: {self._config.task_timeout_seconds:g} s passed in the device queue"
                self.started += 1
                self._hand_over(task)
                continue
            task.head_start_seconds = start
            self.started += 1
            try:
                free_seconds = self._serve(task, *decision)
            except Exception as error:  # noqa: BLE001 - a model may raise anything: its task fails, the device goes on
                free_seconds = max(start, time.monotonic())
                task.failure = reason_of("head", error)
                self._hand_over(task)

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
        """Compute one head and wait for its target. Returns when the device is free again."""
        config = self._config
        self.weights.adopt()
        own = self.weights.fit(own)
        task.model_version = self.weights.placed.version
        image = self._images[task.number % IMAGES]
        stopped = Stopped(own.cut, (), 0.0)
        if own.stop_rule:
            stopped = self.online.run(task.number, own, image, task.head_start_seconds)
        cut = stopped.cut
        codec: Codec = config.input_codec if cut == ALL_ON_EDGE else (own.codec or config.boundary_codec)
        task.cut, task.codec = cut, codec
        task.decision_sequence = apply.decision.sequence
        task.transmit_watts = config.transmit_watts if own.transmit_watts is None else own.transmit_watts
        reference = self._times.head_seconds(cut, codec)
        task.speed = own.device_speed
        if reference > 0:
            task.head_target_seconds = reference / own.device_speed
        began = time.monotonic()
        if stopped.values:
            task.header, task.buffers = self._backend.pack(task.number, cut, stopped.values, codec)
        else:
            task.header, task.buffers = self._backend.head(task.number, cut, codec, image)
        computed = time.monotonic()
        task.head_compute_seconds = stopped.compute_seconds + computed - began
        target = task.head_start_seconds + task.head_target_seconds
        if reference == 0:
            task.head_end_seconds = task.head_start_seconds
        elif computed >= target:
            task.head_overrun = True
            task.head_end_seconds = computed
        else:
            self._deadlines.submit(target, lambda now: self._release(task, now))
            self._released.wait()
            return task.head_end_seconds
        self._finish(task)
        return task.head_end_seconds

    def _wait_until(self, deadline_seconds: float) -> None:
        if deadline_seconds > time.monotonic():
            self._deadlines.submit(deadline_seconds, lambda _: self._released.set())
            self._released.wait()

    def _release(self, task: Task, now_seconds: float) -> None:
        task.head_end_seconds = now_seconds
        self._finish(task)
        self._released.set()

    def _finish(self, task: Task) -> None:
        """From this thread or the deadline thread."""
        if task.cut == ():
            try:
                task.answer, task.answer_checksum = self._backend.answer_of(task.buffers[0])
            except Exception as error:  # noqa: BLE001 - bytes that are no logits; it may be the deadline thread's
                task.failure = reason_of("answer", error)
            task.buffers = []
        else:
            task.boundary_bytes = sum(len(buffer) for buffer in task.buffers)
        draw = self._config.compute_watts * (task.speed / self._config.max_speed) ** 3
        if task.head_target_seconds > 0:
            task.compute_joules = draw * (task.head_end_seconds - task.head_start_seconds)
        self._hand_over(task)

    def _hand_over(self, task: Task) -> None:
        self.ended.append(task)
        self._wake_io.set()

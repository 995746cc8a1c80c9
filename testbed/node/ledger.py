"""A UE's books: every arrived task from its stamps to its one record, and the sums of a slot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from controller.contract import STAGES, Cut, cut_label
from controller.service.protocol import Message
from testbed.node.arrivals import ArrivalSchedule
from testbed.node.task_frames import Result
from testbed.node.transport import TaskStream
from testbed.protocol import records

NAN = math.nan


@dataclass(slots=True, eq=False)
class Task:
    """One task. Filled by the stage thread until its head ends, by the I/O thread afterwards. Times are seconds."""

    number: int
    arrival_seconds: float
    cut: Cut | None = None  # None: its head never started
    codec: str = ""
    decision_sequence: int = -1
    speed: float = 0.0
    transmit_watts: float = 0.0
    head_start_seconds: float = NAN
    head_end_seconds: float = NAN
    head_target_seconds: float = 0.0
    head_compute_seconds: float = 0.0
    head_overrun: bool = False  # its computation ended after its target
    compute_joules: float = 0.0
    boundary_bytes: int = 0
    header: bytes = b""
    buffers: list[memoryview] = field(default_factory=list)
    answer: int = -1
    answer_checksum: int = 0
    model_version: int = 0
    failure: str = ""  # why the stage thread gave it up
    input: int = -1  # which of the UE's inputs it is about
    dropped: bool = False  # it found the device busy
    stream: TaskStream | None = None
    wire_bytes: int = 0
    acknowledged_bytes: int = 0  # of the encoded tensors
    transfer_start_seconds: float = NAN
    received_seconds: float = NAN
    transmit_joules: float = 0.0

    @property
    def unacknowledged_bytes(self) -> int:
        return self.boundary_bytes - self.acknowledged_bytes


def completed(
    task: Task, ue: str, result: Result | None, result_received: float, result_wire_bytes: int
) -> records.TaskRecord:
    """The record of a task whose answer is there; ``result`` is None for a local one."""
    end = task.head_end_seconds
    return records.TaskRecord(
        ue=ue,
        task=task.number,
        status="completed",
        reason="",
        cut=cut_label(task.cut or ()),
        codec=task.codec,
        decision_sequence=task.decision_sequence,
        speed=task.speed,
        share=0.0 if result is None else result.share,
        arrival_seconds=task.arrival_seconds,
        head_start_seconds=task.head_start_seconds,
        head_end_seconds=end,
        transfer_start_seconds=end if result is None else task.transfer_start_seconds,
        received_seconds=end if result is None else task.received_seconds,
        tail_start_seconds=end if result is None else result.tail_start_seconds,
        tail_end_seconds=end if result is None else result.tail_end_seconds,
        result_received_seconds=end if result is None else result_received,
        head_target_seconds=task.head_target_seconds,
        tail_target_seconds=0.0 if result is None else result.tail_target_seconds,
        head_compute_seconds=task.head_compute_seconds,
        tail_compute_seconds=0.0 if result is None else result.tail_compute_seconds,
        boundary_bytes=task.boundary_bytes,
        wire_bytes=task.wire_bytes,
        result_wire_bytes=result_wire_bytes,
        compute_joules=task.compute_joules,
        transmit_joules=task.transmit_joules,
        answer=task.answer,
        model_version=task.model_version,
        answer_checksum=task.answer_checksum,
        input=task.input,
    )


def failed(task: Task, ue: str, reason: str) -> records.TaskRecord:
    """The record of a task that ends without an answer, or that the device never took."""
    return records.TaskRecord(
        ue=ue,
        task=task.number,
        status="dropped" if task.dropped else "failed",
        reason=reason,
        cut="" if task.cut is None else cut_label(task.cut),
        codec=task.codec,
        decision_sequence=task.decision_sequence,
        speed=task.speed,
        share=0.0,
        arrival_seconds=task.arrival_seconds,
        head_start_seconds=task.head_start_seconds,
        head_end_seconds=task.head_end_seconds,
        transfer_start_seconds=task.transfer_start_seconds,
        received_seconds=task.received_seconds,
        tail_start_seconds=NAN,
        tail_end_seconds=NAN,
        result_received_seconds=NAN,
        head_target_seconds=task.head_target_seconds,
        tail_target_seconds=0.0,
        head_compute_seconds=task.head_compute_seconds,
        tail_compute_seconds=0.0,
        boundary_bytes=task.boundary_bytes,
        wire_bytes=task.wire_bytes,
        result_wire_bytes=0,
        compute_joules=task.compute_joules,
        transmit_joules=task.transmit_joules,
        answer=-1,
        model_version=task.model_version,
        input=task.input,
    )


def stage_seconds(record: records.TaskRecord) -> dict[str, float]:
    """A completed task's stages, by :data:`controller.contract.STAGES`; they sum to its end-to-end delay."""
    stamps = (
        record.arrival_seconds,
        record.head_start_seconds,
        record.head_end_seconds,
        record.transfer_start_seconds,
        record.received_seconds,
        record.tail_start_seconds,
        record.tail_end_seconds,
        record.result_received_seconds,
    )
    return {name: stamps[i + 1] - stamps[i] for i, name in enumerate(STAGES)}


@dataclass(slots=True)
class SlotSums:
    """What one slot brought; a new one starts at every slot boundary."""

    arrivals: int = 0
    completions: int = 0
    failures: int = 0
    head_overruns: int = 0
    acked_bytes: int = 0
    delay_seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    compute_joules: float = 0.0
    transmit_joules: float = 0.0


class Books:
    """A UE's tasks from their arrival to their record, counted. Used by the I/O thread only.

    ``record`` takes what happened; a task's end never precedes its arrival there.
    """

    def __init__(self, ue: str, record: Callable[[Message], None]) -> None:
        self._ue, self._record = ue, record
        self.schedule: ArrivalSchedule | None = None
        self.announced = 0  # number of the task that arrives next
        self.arrived_tasks = 0
        self.ended_tasks = 0
        self._sums = SlotSums()

    @property
    def in_flight_tasks(self) -> int:
        return self.arrived_tasks - self.ended_tasks

    def begin(self, schedule: ArrivalSchedule, first_task: int) -> None:
        """Tasks arrive by ``schedule`` from now on, ``first_task`` first."""
        self.schedule, self.announced = schedule, first_task

    def next_arrival_seconds(self) -> float:
        """When the next task arrives; inf: none is known."""
        schedule = self.schedule
        arrival = None if schedule is None else schedule.arrival_seconds(self.announced)
        return math.inf if schedule is None or arrival is None or arrival > schedule.end_seconds else arrival

    def announce(self, until_seconds: float) -> None:
        """Tasks that have arrived by then."""
        while self.schedule is not None and (arrival := self.next_arrival_seconds()) <= until_seconds:
            self._record(records.TaskArrived(self._ue, self.announced, arrival))
            self.announced += 1
            self.arrived_tasks += 1
            self._sums.arrivals += 1

    def head_ended(self, task: Task) -> None:
        self.announce(task.arrival_seconds)
        if task.head_target_seconds > 0:
            self.computed(task.compute_joules, overrun=task.head_overrun)

    def computed(self, joules: float, *, overrun: bool) -> None:
        """What the device did for a task is over."""
        self._sums.compute_joules += joules
        self._sums.head_overruns += overrun

    def received(self, joules: float, acked_bytes: int) -> None:
        """The edge has all of a task."""
        self._sums.transmit_joules += joules
        self._sums.acked_bytes += acked_bytes

    def completed(self, record: records.TaskRecord) -> None:
        self._end(record)
        self._sums.completions += 1
        self._sums.delay_seconds += record.result_received_seconds - record.arrival_seconds
        for name, seconds in stage_seconds(record).items():
            self._sums.stages[name] += seconds

    def lost(self, task: Task, reason: str) -> None:
        if math.isnan(task.received_seconds):  # else it was charged when the edge had received it
            self._sums.transmit_joules += task.transmit_joules
        self._end(failed(task, self._ue, reason))
        self._sums.failures += not task.dropped

    def take_sums(self) -> SlotSums:
        """Of the slot that ends; the next one begins."""
        sums, self._sums = self._sums, SlotSums()
        return sums

    def _end(self, record: records.TaskRecord) -> None:
        self.announce(record.arrival_seconds)
        self.ended_tasks += 1
        self._record(record)

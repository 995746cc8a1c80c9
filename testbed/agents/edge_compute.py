"""The edge's compute: a FCFS queue per UE, each served at its share, all on one core in segments."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from controller.contract import RESIDUAL_SHARE
from testbed.agents.backend import CpuBackend, Tail
from testbed.agents.control import DecisionBox
from testbed.agents.last_words import reason_of
from testbed.agents.pacing import DeadlineThread
from testbed.agents.threads import AgentThread
from testbed.agents.times import StageTimes
from testbed.agents.transport import ReceivedTask
from testbed.agents.wire import Result

NO_LOGITS = memoryview(b"")


@dataclass(slots=True)
class _Running:
    """The tail that a UE's queue has started and not released."""

    task: ReceivedTask
    start_seconds: float
    target_seconds: float  # of the stage
    share: float
    tail: Tail | None = None
    compute_seconds: float = 0.0

    @property
    def deadline_seconds(self) -> float:
        return self.start_seconds + self.target_seconds


class _Queue:
    """One UE's tasks at the edge. ``running`` is changed by the compute and the deadline thread in turns."""

    def __init__(self, ue: str, backend: CpuBackend) -> None:
        self.ue = ue
        self.backend = backend
        self.times = StageTimes(backend.profile)
        self.waiting: deque[ReceivedTask] = deque()
        self.running: _Running | None = None
        self.computed = False  # the running tail waits for its target only
        self.free_seconds = 0.0  # when its last tail ended
        self.tails = 0
        self.overruns = 0
        self.reported = (0, 0)  # of both


class ComputeThread(AgentThread):
    """Runs tails: always the next segment of the one with the earliest target.

    A tail starts, for the books, when it is received and the one before it of the same UE has ended, and takes its
    share then. Results go to ``done(ue, result, logits)``, from this thread or the deadline thread.
    """

    def __init__(
        self,
        backends: Mapping[str, CpuBackend],
        cpus: float,
        decisions: DecisionBox,
        deadlines: DeadlineThread,
        done: Callable[[str, Result, memoryview], None],
    ) -> None:
        super().__init__("compute")
        self._queues = {ue: _Queue(ue, backend) for ue, backend in backends.items()}
        self._cpus = cpus
        self._decisions = decisions
        self._deadlines = deadlines
        self._done = done

    def add(self, ue: str, task: ReceivedTask) -> None:
        self._queues[ue].waiting.append(task)
        self._wake.set()

    def share(self, ue: str, now_seconds: float) -> float:
        return decided_share(self._decisions, ue, self._cpus, len(self._queues), now_seconds)

    def state(self, ue: str, now_seconds: float) -> tuple[int, float]:
        """Tasks whose tail has not started, and seconds of work left at the present share."""
        queue = self._queues[ue]
        share = self.share(ue, now_seconds)
        waiting = list(queue.waiting)
        seconds = sum(self._reference_seconds(queue, task) for task in waiting) / share
        running = queue.running
        if running is not None:
            seconds += max(running.deadline_seconds - now_seconds, 0.0)
        return len(waiting), seconds

    def take_counts(self, ue: str) -> tuple[int, int]:
        """Tails that ended since the last call, and the overruns among them."""
        queue = self._queues[ue]
        counts = queue.tails, queue.overruns
        tails, overruns = counts[0] - queue.reported[0], counts[1] - queue.reported[1]
        queue.reported = counts
        return tails, overruns

    @staticmethod
    def _reference_seconds(queue: _Queue, task: ReceivedTask) -> float:
        return queue.times.tail_seconds(task.cut, task.header.codec)

    def _run(self) -> None:
        while not self._stopping:
            for queue in self._queues.values():
                if queue.running is None and queue.waiting:
                    self._start(queue)
            ready = [queue for queue in self._queues.values() if queue.running is not None and not queue.computed]
            if ready:
                self._advance(min(ready, key=_deadline))
            else:
                self._wake.wait()

    def _start(self, queue: _Queue) -> None:
        task = queue.waiting.popleft()
        start = max(task.received_seconds, queue.free_seconds)
        share = self.share(queue.ue, max(start, time.monotonic()))
        queue.computed = False
        queue.running = _Running(task, start, self._reference_seconds(queue, task) / share, share)

    def _advance(self, queue: _Queue) -> None:
        """One step of a tail: decode, or a segment."""
        running = queue.running
        assert running is not None
        began = time.monotonic()
        try:
            queue.backend.split.weights.use(running.task.header.model_version)
            if running.tail is None:
                running.tail = queue.backend.tail(running.task.header, running.task.buffers)
            else:
                running.tail.step()
            now = time.monotonic()
            running.compute_seconds += now - began
            if not running.tail.finished:
                return
            logits = running.tail.logits()
        except Exception as error:  # noqa: BLE001 - a model, or values that do not fit it, may raise anything
            self._end(queue, time.monotonic(), NO_LOGITS, reason_of("tail", error))
            return
        queue.computed = True
        if now >= running.deadline_seconds:
            queue.overruns += 1
            self._end(queue, now, logits, "")
        else:
            self._deadlines.submit(running.deadline_seconds, lambda released: self._end(queue, released, logits, ""))

    def _end(self, queue: _Queue, now_seconds: float, logits: memoryview, reason: str) -> None:
        running = queue.running
        assert running is not None
        result = Result(
            running.task.task,
            running.task.received_seconds,
            running.start_seconds,
            now_seconds,
            running.target_seconds,
            running.compute_seconds,
            running.share,
            reason,
        )
        queue.tails += 1
        queue.free_seconds = now_seconds
        queue.running = None
        self._done(queue.ue, result, logits)
        self._wake.set()


def decided_share(decisions: DecisionBox, ue: str, cpus: float, ues: int, now_seconds: float) -> float:
    """Reference cores of a UE by the decision in force; an equal part before the first one."""
    apply = decisions.in_force(now_seconds)
    if apply is None:
        return cpus / ues
    decided = next((own.edge_share for own in apply.decision.ues if own.name == ue), 0.0)
    return decided if decided > 0 else RESIDUAL_SHARE * cpus


def _deadline(queue: _Queue) -> float:
    return queue.running.deadline_seconds if queue.running is not None else float("inf")

"""The edge's compute: a FCFS queue per UE, each served at its share, all on one core in segments."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from testbed.node.backend import CpuBackend, Tail
from testbed.node.control import DecisionBox, decided_share
from testbed.node.last_words import reason_of
from testbed.node.pacing import DeadlineThread
from testbed.node.task_frames import Result
from testbed.node.threads import AgentThread
from testbed.node.times import StageTimes
from testbed.node.transport import ReceivedTask

NO_LOGITS = memoryview(b"")
#: Of all UEs together; each has an equal part. What a UE sends beyond it is refused.
MOST_WAITING_BYTES = 512 << 20
MOST_WAITING_TASKS = 10_000  # of a UE
TOO_LATE = "timeout: dropped by the edge, whose tail would have ended too late"


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
        self.came_bytes = 0  # by the receiver
        self.taken_bytes = 0  # by the compute thread
        self.dropped = 0  # too late to be started
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
        queue = self._queues[ue]
        queue.came_bytes += task.header.payload_bytes
        queue.waiting.append(task)
        self._wake.set()

    def full(self, ue: str, more_bytes: int) -> bool:
        """Whether a task of so many bytes has no room in a UE's queue. An empty queue has room for any."""
        queue = self._queues[ue]
        waiting_bytes = queue.came_bytes - queue.taken_bytes
        room = MOST_WAITING_BYTES // len(self._queues)
        return len(queue.waiting) >= MOST_WAITING_TASKS or (waiting_bytes > 0 and waiting_bytes + more_bytes > room)

    @property
    def dropped(self) -> int:
        """Tasks that were not started since their UEs would not have waited for them."""
        return sum(queue.dropped for queue in self._queues.values())

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
        """The next task, but for those whose answer would come too late: they would make all behind them late, too."""
        while queue.waiting:
            task = queue.waiting.popleft()
            queue.taken_bytes += task.header.payload_bytes
            start = max(task.received_seconds, queue.free_seconds)
            share = self.share(queue.ue, max(start, time.monotonic()))
            target = self._reference_seconds(queue, task) / share
            if start + target > task.expires_seconds:
                queue.dropped += 1
                nowhere = math.nan
                dropped = Result(
                    task.task, task.received_seconds, nowhere, nowhere, target, 0.0, share, reason=TOO_LATE
                )
                self._done(queue.ue, dropped, NO_LOGITS)
                continue
            queue.computed = False
            queue.running = _Running(task, start, target, share)
            return

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


def _deadline(queue: _Queue) -> float:
    return queue.running.deadline_seconds if queue.running is not None else float("inf")

"""A campaign computed: what is done is left as it is, what was cut off is computed anew, failures end nothing."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from testbed.campaign.executor import Executor
from testbed.campaign.jobs import Job, LabRun, Outcome, Simulation, Training
from testbed.campaign.prepare import Task
from testbed.campaign.store import JournalLine, Store


@dataclass(frozen=True)
class Progress:
    """Where a campaign stands; points only."""

    points: int
    done: int  # invalid and failed ones, too
    running: Mapping[str, str]  # host by title, trainings too
    seconds_left: float | None  # None: nothing like it was computed yet


@dataclass(frozen=True)
class Standing:
    """Of a point: what came of it, if anything."""

    task: Task
    state: str  # "done", "invalid", "failed" or "missing"
    text: str = ""


def standings(tasks: Sequence[Task], store: Store) -> list[Standing]:
    """Of all points, as the folder says."""
    found = []
    for task in tasks:
        record, failure = store.record(store.directory(task.key)), store.failure(task.key)
        if record is not None:
            found.append(Standing(task, "done" if record.valid else "invalid", record.reason))
        elif failure is not None:
            found.append(Standing(task, "failed", failure))
        else:
            found.append(Standing(task, "missing"))
    return found


def compute(
    tasks: Sequence[Task],
    store: Store,
    executor: Executor,
    retries: int,
    progress: Callable[[Progress], None],
) -> None:
    """Compute all points that are not done. ``retries``: of a lab's run that is invalid; a simulation repeats itself.

    Raises TestbedError while another command computes this campaign. Ctrl-C (KeyboardInterrupt) leaves what is done.
    """
    with store.held():
        store.tidy()
        run = _Run(tasks, store, executor, retries, progress)
        try:
            run.go_through()
        finally:
            executor.close()


class _Run:
    def __init__(
        self,
        tasks: Sequence[Task],
        store: Store,
        executor: Executor,
        retries: int,
        progress: Callable[[Progress], None],
    ) -> None:
        self._store, self._executor, self._retries, self._progress = store, executor, retries, progress
        self._all = {task.key for task in tasks}
        # two points may be the same in content: it is computed once
        self._open = {task.key: task for task in tasks if store.record(store.directory(task.key)) is None}
        self._jobs: dict[str, Job] = {}
        self._attempts: Counter[str] = Counter()
        self._waiting: dict[str, list[Task]] = defaultdict(list)  # by the training that they need
        self._finished = 0
        self._times = Times(store.journal())

    def go_through(self) -> None:
        for task in self._open.values():
            training = task.training
            if training is None or self._store.record(self._store.trained(training.key)) is not None:
                self._submit(task.job)
                continue
            if training.key not in self._waiting:
                self._submit(training)
            self._waiting[training.key].append(task)
        self._tell()
        for outcome in self._executor.results():
            self._take(outcome)
            self._tell()

    def _submit(self, job: Job) -> None:
        self._jobs[job.key] = job
        self._attempts[job.key] += 1
        self._executor.submit(job)

    def _take(self, outcome: Outcome) -> None:
        job, attempt = self._jobs[outcome.key], self._attempts[outcome.key]
        kind = kind_of(job)
        line = JournalLine(outcome.key, kind, outcome.status, attempt, outcome.seconds, outcome.host)
        self._store.note(line)
        self._times.add(line)
        if isinstance(job, Training):
            self._take_training(job, outcome)
        elif outcome.status == "invalid" and isinstance(job, LabRun) and attempt <= self._retries:
            self._submit(job)
        else:
            self._finish(self._open[outcome.key], outcome, attempt)

    def _take_training(self, job: Training, outcome: Outcome) -> None:
        directory = self._store.trained(job.key)
        title = f"training of {self._waiting[job.key][0].point.title}"
        self._store.finish(directory, outcome, title, 1)
        for task in self._waiting.pop(job.key):
            if outcome.status == "failed":
                failed = Outcome(task.key, "failed", 0.0, outcome.host, f"its training failed: {outcome.text}")
                self._finish(task, failed, 0)
            else:
                self._submit(task.job)

    def _finish(self, task: Task, outcome: Outcome, attempt: int) -> None:
        self._store.finish(self._store.directory(task.key), outcome, task.point.title, attempt)
        self._finished += 1

    def _tell(self) -> None:
        open_points = len(self._open) - self._finished
        running = {self._title(key): host for key, host in self._executor.running().items()}
        left = self._times.left([task.job for task in self._open.values()], self._finished)
        self._progress(Progress(len(self._all), len(self._all) - open_points, running, left if open_points else 0.0))

    def _title(self, key: str) -> str:
        return self._open[key].point.title if key in self._open else "training"


def kind_of(job: Job) -> str:
    return {Simulation: "simulator", LabRun: "lab", Training: "training"}[type(job)]


class Times:
    """How long points take, from those that were computed before."""

    def __init__(self, journal: Sequence[JournalLine]) -> None:
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._begin = time.monotonic()
        for line in journal:
            self.add(line)

    def add(self, line: JournalLine) -> None:
        if line.status != "failed":
            self._seconds[line.kind].append(line.seconds)

    def of(self, job: Job) -> float | None:
        """Mean of those of its kind; of a lab that never ran its tasks' time and what comes around it."""
        seconds = self._seconds.get(kind_of(job))
        if seconds:
            return sum(seconds) / len(seconds)
        return job.duration_seconds + LAB_OVERHEAD_SECONDS if isinstance(job, LabRun) else None

    def left(self, jobs: Sequence[Job], finished: int) -> float | None:
        """Of jobs of which so many have finished: by the pace so far, else by the mean; None if unknown."""
        if finished:
            return (time.monotonic() - self._begin) / finished * (len(jobs) - finished)
        return self.total(jobs, 1)

    def total(self, jobs: Sequence[Job], cores: float) -> float | None:
        """Of all of them: simulations on all cores, labs one after the other; None if a kind was never computed."""
        total = 0.0
        for job in jobs:
            seconds = self.of(job)
            if seconds is None:
                return None
            total += seconds if isinstance(job, LabRun) else seconds / cores
        return total


#: Bringing a lab up, draining, writing tables, taking it down.
LAB_OVERHEAD_SECONDS = 20.0

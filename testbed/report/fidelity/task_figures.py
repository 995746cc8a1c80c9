"""What became of the tasks that arrived, and whether the lab could keep up with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from testbed.records.manifest import Manifest
from testbed.records.tables import RunTables, column
from testbed.report.fidelity.figure import Evidence, Figure, ratio
from testbed.report.fidelity.intervals import student_quantile
from testbed.report.fidelity.limits import DRAIN_SECONDS, NOT_MEASURED, Value

#: How reasons of tasks begin that were given up after the lab's ``task_timeout``.
TIMEOUT = "timeout:"
#: The means of so many stretches of a run stand for its slots: neighbouring slots are alike.
BATCHES = 10
#: A queue grows if, at the lower confidence limit, this part of what arrives stays and the run gathers so many tasks.
GROWING_RATIO = 0.02
GROWING_TASKS = 2.0


@dataclass(frozen=True)
class TaskEnds:
    """Numbers of tasks. ``in_flight``: that had not ended after the drain."""

    arrived: int
    completed: int
    failed: int  # timed-out ones not included
    timed_out: int
    in_flight: int
    ues_without_completion: int  # of those with tasks
    dropped: int = 0  # that found their device busy, which never took them
    most_failures: str = ""  # the most frequent reason of failed ones, and how often


class Backlog(msgspec.Struct, frozen=True):
    """Tasks in the system against slots, while tasks arrive."""

    slots: int
    slope_tasks_per_slot: Value
    low_tasks_per_slot: Value  # 95 % confidence interval
    high_tasks_per_slot: Value
    unstable: bool  # it grew through the whole run


def ends_of(tables: RunTables, manifest: Manifest) -> TaskEnds:
    """Slot mode has no tasks: those of a slot that the formula calls overloaded do not end."""
    if manifest.runtime_features.get("mode") == "slot":
        return _ends_of_slots(tables.slots)
    tasks = tables.tasks
    status = column(tasks, "status")
    timed_out = np.array([(reason or "").startswith(TIMEOUT) for reason in column(tasks, "reason")], dtype=bool)
    timed_out &= status == "failed"
    ues = column(tasks, "ue")
    completed, dropped = status == "completed", status == "dropped"
    return TaskEnds(
        arrived=len(tasks),
        completed=int(completed.sum()),
        failed=int((status == "failed").sum() - timed_out.sum()),
        timed_out=int(timed_out.sum()),
        in_flight=int((status == "in_flight").sum()),
        ues_without_completion=len(set(ues) - set(ues[completed])),
        dropped=int(dropped.sum()),
        most_failures=_most(column(tasks, "reason")[(status == "failed") & ~timed_out]),
    )


def _most(reasons: NDArray[Any]) -> str:
    if not len(reasons):
        return ""
    reason, times = Counter(reasons.tolist()).most_common(1)[0]
    return f"{times} times: {reason or 'no reason given'}"


def _ends_of_slots(slots: pa.Table) -> TaskEnds:
    arrivals = column(slots, "arrivals")
    answered = np.isfinite(column(slots, "mean_delay_seconds"))
    arrived, completed = int(arrivals.sum()), int(arrivals[answered].sum())
    ues = column(slots, "ue")
    silent = set(ues[arrivals > 0]) - set(ues[answered & (arrivals > 0)])
    return TaskEnds(arrived, completed, 0, 0, arrived - completed, len(silent))


def backlog_of(tables: RunTables, manifest: Manifest) -> Backlog:
    """The mean growth from one of :data:`BATCHES` stretches to the next, with Student's interval.

    A queue that cannot keep up is a random walk with a drift: its increments are as good as independent, its distances
    from a fitted line are not, and their interval would be several times too narrow. Of a stable queue it is too wide.
    """
    held, arrivals = _by_slot(tables.slots, manifest)
    size = len(held) // BATCHES
    if size < 2:
        return Backlog(len(held), NOT_MEASURED, NOT_MEASURED, NOT_MEASURED, False)
    growth = np.diff(held[len(held) - size * BATCHES :].reshape(BATCHES, size).mean(axis=1)) / size
    slope = float(growth.mean())
    half = float(student_quantile(0.975, len(growth) - 1) * growth.std(ddof=1) / np.sqrt(len(growth)))
    low = slope - half
    unstable = low > GROWING_RATIO * arrivals and low * len(held) > GROWING_TASKS
    return Backlog(len(held), slope, low, slope + half, unstable)


def _by_slot(slots: pa.Table, manifest: Manifest) -> tuple[NDArray[np.float64], float]:
    """Tasks in the system at the start of each slot in which tasks arrive, and how many arrive in a slot."""
    numbers = column(slots, "slot")
    end = np.inf if manifest.duration_seconds is None else manifest.duration_seconds / manifest.slot_seconds - 0.5
    counted = (numbers >= 0) & (numbers < end)
    if not counted.any():
        return np.empty(0), 0.0
    present, slot = np.unique(numbers[counted], return_inverse=True)
    held = np.bincount(slot, column(slots, "in_flight_tasks")[counted]).astype(np.float64)
    return held, float(column(slots, "arrivals")[counted].sum()) / len(present)


def ends(run: Evidence) -> TaskEnds:
    return ends_of(run.tables, run.manifest)


def backlog(run: Evidence) -> Backlog:
    return backlog_of(run.tables, run.manifest)


def _of_arrived(part: Callable[[TaskEnds], int]) -> Callable[[Evidence], Value]:
    """Of those that arrived and that a device took."""
    return lambda run: ratio(part(run.once(ends)), run.once(ends).arrived - run.once(ends).dropped)


def _most_failures(run: Evidence) -> str:
    most = run.once(ends).most_failures
    return f" ({most})" if most else ""


def _slope_interval(run: Evidence) -> str:
    queue = run.once(backlog)
    if queue.slope_tasks_per_slot == NOT_MEASURED:
        return ""
    return f" (95 % interval {queue.low_tasks_per_slot:.3g} to {queue.high_tasks_per_slot:.3g})"


#: What makes a run one of nothing, or of a part of its tasks; and, without a limit, whether its queue grew.
TASK_FIGURES = (
    Figure(
        "nothing_arrived",
        "count",
        "no task arrived",
        of=lambda run: float(not run.once(ends).arrived),
        limit=0.0,
        why="a run of nothing keeps every other limit",
    ),
    Figure(
        "nothing_completed",
        "count",
        "no task completed",
        of=lambda run: float(run.once(ends).arrived > 0 and not run.once(ends).completed),
        limit=0.0,
        why="the same",
    ),
    Figure(
        "ues_without_completion",
        "count",
        "UEs of whose tasks none completed",
        of=lambda run: float(run.once(ends).ues_without_completion),
        limit=0.0,
        why="the same of a UE",
    ),
    Figure(
        "in_flight_ratio",
        "ratio",
        f"part of the arrived tasks that had not ended {DRAIN_SECONDS:g} s after the last arrival",
        of=_of_arrived(lambda ends: ends.in_flight),
        limit=0.1,
        why="quiet runs: 0; twice as much as failed ones, since tasks of labs whose delay is some seconds outlive the"
        " drain and are no slower than others",
    ),
    Figure(
        "failed_ratio",
        "ratio",
        "part of the arrived tasks that failed",
        of=_of_arrived(lambda ends: ends.failed),
        limit=0.05,
        why="a mean without the slowest 5 % of an exponential delay is 16 % too low",
        detail=_most_failures,
    ),
    Figure(
        "timed_out_ratio",
        "ratio",
        "part of the arrived tasks that were given up after the lab's task_timeout",
        of=_of_arrived(lambda ends: ends.timed_out),
        limit=0.05,
        why="the same",
    ),
    Figure(
        "backlog_slope",
        "count",
        "tasks in the system against slots, tasks more a slot",
        of=lambda run: run.once(backlog).slope_tasks_per_slot,
        detail=_slope_interval,
    ),
    Figure(
        "unstable",
        "count",
        "the queue grew through the whole run",
        of=lambda run: float(run.once(backlog).unstable),
    ),
)

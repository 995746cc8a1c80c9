"""How close stages came to their target times, and whether the stages of a task make up its delay."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from controller.contract import STAGES
from testbed.records.tables import STAGE_COLUMNS, RunTables, column
from testbed.report.fidelity.figure import Evidence, Figure, Headline, Limit, largest, quantile, ratio
from testbed.report.fidelity.limits import JUDGED_STAGE_SECONDS, NOT_MEASURED, Value

#: Stages of one UE are judged by themselves from so many on.
JUDGED_STAGES = 20


class StageFidelity(msgspec.Struct, frozen=True):
    """Heads or tails of one UE. Errors are |achieved / target - 1| of stages of 5 ms and more."""

    stages: int  # all that had a target
    judged: int
    target_seconds: Value  # mean of the judged ones
    achieved_seconds: Value
    computing_seconds: Value  # of which the host really computed
    error_p50: Value
    error_p90: Value
    error_max: Value
    overruns: int


def stage_time_errors(tasks: pa.Table, stage: str) -> NDArray[np.float64]:
    """|stage / target - 1| of the ``head`` or ``tail`` stages with a target of at least ``JUDGED_STAGE_SECONDS``."""
    target, achieved, _ = _times(tasks, stage)
    return np.abs(achieved / target - 1.0)


def all_stage_time_errors(tasks: pa.Table) -> NDArray[np.float64]:
    """Of heads and tails together."""
    return np.concatenate([stage_time_errors(tasks, stage) for stage in ("head", "tail")])


def _times(tasks: pa.Table, stage: str) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Target, achieved and computing times of the judged stages."""
    target = column(tasks, f"{stage}_target_seconds").astype(np.float64)
    achieved = column(tasks, f"stage_{stage}_seconds").astype(np.float64)
    computing = column(tasks, f"{stage}_compute_seconds").astype(np.float64)
    judged = (target >= JUDGED_STAGE_SECONDS) & np.isfinite(achieved)
    return target[judged], achieved[judged], computing[judged]


def overruns(tables: RunTables, stage: str | None = None, ue: str | None = None) -> tuple[int, int]:
    """(stages, overruns): the larger of what the agents counted and what the tasks' computing times show.

    Both count too few: a lost report loses counts, and a tail that waited for another one computed in time.
    """
    tasks, slots = tables.tasks, tables.slots
    if ue is not None:
        tasks, slots = tasks.filter(column(tasks, "ue") == ue), slots.filter(column(slots, "ue") == ue)
    stages = shown = counted = 0
    for one in ("head", "tail") if stage is None else (stage,):
        target = column(tasks, f"{one}_target_seconds").astype(np.float64)
        computed = column(tasks, f"{one}_compute_seconds").astype(np.float64)
        paced = (target > 0) & np.isfinite(computed)
        stages += int(paced.sum())
        shown += int((computed[paced] > target[paced]).sum())
        counted += int(column(slots, f"{one}_overruns").sum())
    return stages, max(counted, shown)


def stages_of(tables: RunTables, ue: str) -> dict[str, StageFidelity]:
    """Of one UE, by "head" and "tail"."""
    tasks = tables.tasks.filter(column(tables.tasks, "ue") == ue)
    found = {}
    for stage in ("head", "tail"):
        target, achieved, computing = _times(tasks, stage)
        errors = np.abs(achieved / target - 1.0)
        count, over = overruns(tables, stage, ue)
        found[stage] = StageFidelity(
            stages=count,
            judged=len(errors),
            target_seconds=_mean(target),
            achieved_seconds=_mean(achieved),
            computing_seconds=_mean(computing),
            error_p50=quantile(errors, 0.5),
            error_p90=quantile(errors, 0.9),
            error_max=quantile(errors, 1.0),
            overruns=over,
        )
    return found


def worst(stages: dict[str, dict[str, StageFidelity]]) -> Value:
    """The largest median error of a UE's heads or tails, of those that are enough to be judged."""
    every = (one for by_stage in stages.values() for one in by_stage.values())
    return largest(one.error_p50 for one in every if one.judged >= JUDGED_STAGES)


def stage_sum_error_seconds(tables: RunTables) -> Value:
    """Of completed tasks: how far a stage lies before the one that it follows, or their sum from the E2E delay."""
    tasks = tables.tasks.filter(column(tables.tasks, "status") == "completed")
    if not len(tasks):
        return NOT_MEASURED
    stages = np.stack([column(tasks, STAGE_COLUMNS[stage]).astype(np.float64) for stage in STAGES])
    delay = column(tasks, "e2e_delay_seconds").astype(np.float64)
    worst_error = max(float(np.abs(stages.sum(axis=0) - delay).max()), float((-stages).max()), 0.0)
    return worst_error if math.isfinite(worst_error) else NOT_MEASURED


def _mean(values: NDArray[np.float64]) -> Value:
    return float(values.mean()) if len(values) else NOT_MEASURED


def stages(run: Evidence) -> dict[str, dict[str, StageFidelity]]:
    """By UE, and "head" and "tail"."""
    return {ue: stages_of(run.tables, ue) for ue in sorted(set(column(run.tables.tasks, "ue")))}


def _errors(run: Evidence) -> NDArray[np.float64]:
    return all_stage_time_errors(run.tables.tasks)


def _overrun_ratio(run: Evidence) -> Value:
    count, late = overruns(run.tables)
    return ratio(late, count)


STAGE_FIGURES = (
    Figure(
        "stage_time_error_p50",
        "ratio",
        "stage time against its target, stages of 5 ms and more (median)",
        of=lambda run: quantile(run.once(_errors), 0.5),
        limit=Limit(realtime=0.003, ordinary=0.02),
        why="quiet: below 0.001 %",
        timed=True,
        headline=Headline(2, "stages {} off (p50)"),
    ),
    Figure(
        "stage_time_error_p90",
        "ratio",
        "stage time against its target, stages of 5 ms and more (90th percentile)",
        of=lambda run: quantile(run.once(_errors), 0.9),
        limit=Limit(realtime=0.01, ordinary=0.15),
        timed=True,
    ),
    Figure(
        "stage_time_error_worst",
        "ratio",
        "the largest of the medians of each UE's heads and tails",
        of=lambda run: worst(run.once(stages)),
        limit=Limit(realtime=0.003, ordinary=0.02),
        timed=True,
    ),
    Figure(
        "overrun_ratio",
        "ratio",
        "stages whose computation ended after its target",
        of=_overrun_ratio,
        limit=Limit(realtime=0.01, ordinary=0.10),
        why="an overrun is a stage that was slower than the device it emulates",
        timed=True,
        headline=Headline(3, "{} overruns"),
    ),
    Figure(
        "stage_sum_error_seconds",
        "s",
        "how far a completed task's stages are from making up its delay, one after the other",
        of=lambda run: stage_sum_error_seconds(run.tables),
        limit=1e-6,
        why="rounding of stamps",
    ),
)

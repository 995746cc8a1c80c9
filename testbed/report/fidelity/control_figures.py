"""Whether decisions and reports came in time, and whether the books of tasks agree."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from testbed.records.tables import RunTables, column
from testbed.report.fidelity.figure import Evidence, Figure, Wider, quantile, ratio
from testbed.report.fidelity.limits import Value


def _late_decisions(run: Evidence) -> Value:
    """Of all slots up to the last: those that a held-up controller jumped over had no decision at all."""
    slots = run.tables.slots
    known = column(slots, "slot") >= 0
    numbers = np.unique(column(slots, "slot")[known].astype(np.int64))
    late = np.unique(column(slots, "slot")[known & column(slots, "decide_late").astype(bool)])
    reached = int(numbers[-1]) + 1 if len(numbers) else 0
    return ratio(float(len(late) + reached - len(numbers)), reached)


def _stale_reports(run: Evidence) -> Value:
    slots = run.tables.slots
    return ratio(float((column(slots, "report_age_seconds") > run.manifest.slot_seconds).sum()), len(slots))


def _refused_decisions(run: Evidence) -> Value:
    kinds = column(run.tables.events, "kind")
    refused = float(np.isin(kinds, ("policy-error", "decision-invalid")).sum())
    return ratio(refused * len(run.manifest.ues), len(run.tables.slots))


def _malformed_frames(run: Evidence) -> Value:
    health = run.tables.health
    kinds = column(health, "kind")
    recorder, edge = health.filter(kinds == "host"), health.filter(kinds == "edge")
    return _last(recorder, "malformed_records") + _last(edge, "malformed_frames")


def _last(table: pa.Table, name: str) -> float:
    values = column(table, name)
    return float(values[-1]) if len(values) else 0.0


def _missing_numbers(tables: RunTables) -> int:
    ues, numbers = column(tables.tasks, "ue"), column(tables.tasks, "task")
    missing = 0
    for ue in set(ues):
        mine = numbers[ues == ue]
        missing += int(mine.max() - mine.min() + 1 - len(mine))
    return missing


CONTROL_FIGURES = (
    Figure(
        "late_decision_ratio",
        "ratio",
        "slots in which the policy missed its deadline, or that the controller was too late for",
        of=_late_decisions,
        limit=0.05,
        timed=True,
    ),
    Figure(
        "stale_report_ratio",
        "ratio",
        "reports that were more than a slot old when they were used",
        of=_stale_reports,
        limit=0.05,
        timed=True,
    ),
    Figure(
        "oldest_report_seconds",
        "s",
        "the longest time for which a UE, the edge or the trace player was not heard of",
        of=lambda run: quantile(column(run.tables.slots, "report_age_seconds"), 1.0),
        limit=1.0,
        wider=Wider(lambda run: 2 * run.manifest.slot_seconds, "two slots"),
        why="a program that stands still for 1 s adds 10 s of delay in all at 20 tasks/s: 8 ms to the mean of a minute",
        timed=True,
    ),
    Figure(
        "refused_decision_ratio",
        "ratio",
        "slots in which the policy raised or decided what cannot be, and the last decision stayed",
        of=_refused_decisions,
        limit=0.05,
    ),
    Figure(
        "malformed_frames",
        "count",
        "frames that the edge or the recorder could not read",
        of=_malformed_frames,
        limit=0.0,
    ),
    Figure(
        "tasks_ended_twice",
        "count",
        "tasks with more than one end",
        of=lambda run: float((column(run.tables.tasks, "records") > 1).sum()),
        limit=0.0,
    ),
    Figure(
        "tasks_unannounced",
        "count",
        "tasks that ended and never arrived",
        of=lambda run: float((~column(run.tables.tasks, "announced").astype(bool)).sum()),
        limit=0.0,
    ),
    Figure(
        "tasks_lost",
        "count",
        "gaps in the numbers of the tasks",
        of=lambda run: float(_missing_numbers(run.tables)),
        limit=0.0,
    ),
    Figure(
        "ended_early",
        "count",
        "the run died or was interrupted; tasks that were under way count as in flight",
        of=lambda run: float(run.manifest.ended_utc is None),
        limit=0.0,
    ),
)

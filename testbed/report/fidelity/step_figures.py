"""How late the steps of traces were, which were left out, and what wires dropped that nobody ordered."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from testbed.records.tables import RunTables, column
from testbed.report.fidelity.figure import Evidence, Figure, Headline, Limit, quantile, ratio
from testbed.report.fidelity.intervals import binomial_quantile
from testbed.report.fidelity.limits import NOT_MEASURED, Value


def _planned_and_lateness(run: Evidence) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each trace step, in seconds."""
    steps: pa.Table = run.tables.links.filter(column(run.tables.links, "cause") == "trace")
    planned = column(steps, "planned_seconds")
    return planned, column(steps, "applied_seconds") - planned


def _lateness_by_instant(run: Evidence) -> NDArray[np.float64]:
    """Of the latest of the links that step together."""
    planned, lateness = run.once(_planned_and_lateness)
    instants, instant = np.unique(planned, return_inverse=True)
    latest = np.full(len(instants), -np.inf)
    np.maximum.at(latest, instant, lateness)
    return latest


def _quantile_at_least(values: NDArray[np.float64], q: float, confidence: float = 0.95) -> Value:
    """The lower confidence limit of a quantile, an order statistic: few values cannot tell a high quantile from their
    maximum, and the one late step in fifty that a short run may have is no evidence against it.
    """
    if not len(values):
        return NOT_MEASURED
    above = binomial_quantile(confidence, len(values), 1 - q)  # as many may lie above the quantile by chance
    return float(np.sort(values)[-1 - min(above, len(values) - 1)])


def skipped_steps(tables: RunTables) -> Value:
    """Steps of the traces' grids that have no record. A trace without an even grid cannot show a gap: not counted."""
    links = tables.links
    ues, directions, causes = (column(links, name) for name in ("ue", "direction", "cause"))
    planned = column(links, "planned_seconds")
    skipped: Value = NOT_MEASURED
    for ue in set(ues):
        gaps = np.diff(np.sort(planned[(ues == ue) & (directions == "up") & (causes == "trace")]))
        if len(gaps):
            grid = float(np.median(gaps))
            if (np.abs(gaps / grid - np.rint(gaps / grid)) < 0.01).mean() < 0.9:
                continue
            missing = float(np.maximum(np.rint(gaps / grid) - 1.0, 0.0).sum())
            skipped = missing if skipped == NOT_MEASURED else float(skipped) + missing
    return skipped


def _skipped(run: Evidence) -> Value:
    return skipped_steps(run.tables)


def _skipped_ratio(run: Evidence) -> Value:
    skipped = run.once(_skipped)
    if skipped == NOT_MEASURED:
        return NOT_MEASURED
    _, lateness = run.once(_planned_and_lateness)
    return ratio(float(skipped), float(skipped) + len(lateness) / 2)


STEP_FIGURES = (
    Figure(
        "step_lateness_p99_seconds",
        "s",
        "a trace step was applied this long after its time (99th percentile, its lower 95 % confidence limit)",
        of=lambda run: _quantile_at_least(_lateness_by_instant(run), 0.99),
        limit=Limit(realtime=0.0005, ordinary=0.010),
        why="quiet: 0.28-0.35 ms; ordinary scheduling: 3.6-7.5 ms",
        timed=True,
        headline=Headline(1, "trace steps {} late (p99)"),
    ),
    Figure(
        "step_lateness_max_seconds",
        "s",
        "the latest trace step",
        of=lambda run: quantile(run.once(_planned_and_lateness)[1], 1.0),
        limit=Limit(realtime=0.010, ordinary=0.050),
        why="one step in hundreds; a virtual machine pauses for 1-5 ms now and then, and one late step of 100 ms"
        " changes no mean",
        timed=True,
    ),
    Figure(
        "skipped_steps",
        "count",
        "trace steps that the player left out because it was late",
        of=lambda run: run.once(_skipped),
    ),
    Figure(
        "skipped_step_ratio",
        "ratio",
        "part of the trace steps that was left out",
        of=_skipped_ratio,
        limit=0.01,
        timed=True,
    ),
    Figure(
        "unordered_drops",
        "count",
        "packets that a wire dropped though no loss was asked for",
        of=lambda run: float(column(run.tables.drops, "dropped_packets").sum()),
        limit=0.0,
    ),
)

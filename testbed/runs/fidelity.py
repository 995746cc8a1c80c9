"""How well the emulation did what it claims: figures, their limits, and whether the run may be used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from testbed.runs.finalise import RunTables, column
from testbed.runs.manifest import Manifest
from testbed.runs.rates import applied_rates
from testbed.runs.uplink import Uplink, uplink_of

NOT_MEASURED: Final = "not_measured"
Value = float | Literal["not_measured"]

#: Only stages this long are judged: of a shorter one the timer's grain is a visible part.
JUDGED_STAGE_SECONDS = 0.005
#: A link's rate is judged when it was saturated for at least this long in all.
SATURATED_SECONDS = 2.0


class Limits(msgspec.Struct, frozen=True):
    """Above any of these a run is invalid. All are upper limits; ratios are of 1."""

    rate_error: float
    step_lateness_p99_seconds: float
    step_lateness_max_seconds: float
    stage_time_error_p50: float
    stage_time_error_p90: float
    overrun_ratio: float
    receiver_lateness_p99_seconds: float
    skipped_step_ratio: float = 0.01
    uplink_integral_error: float = 0.05
    throttled_ratio: float = 0.01
    steal_ratio: float = 0.05
    late_decision_ratio: float = 0.05
    stale_report_ratio: float = 0.05


#: Stages and trace player run SCHED_FIFO.
REALTIME = Limits(
    rate_error=0.05,
    step_lateness_p99_seconds=0.0005,
    step_lateness_max_seconds=0.010,
    stage_time_error_p50=0.003,
    stage_time_error_p90=0.01,
    overrun_ratio=0.01,
    receiver_lateness_p99_seconds=0.020,
)
#: Without real-time priority (no root, or a host that refuses it).
ORDINARY = Limits(
    rate_error=0.05,
    step_lateness_p99_seconds=0.010,
    step_lateness_max_seconds=0.050,
    stage_time_error_p50=0.02,
    stage_time_error_p90=0.15,
    overrun_ratio=0.10,
    receiver_lateness_p99_seconds=0.050,
)


class Figure(msgspec.Struct, frozen=True):
    """One figure. Without a limit it only informs."""

    name: str
    value: Value
    unit: str  # "s", "ratio" or "count"
    limit: float | None
    ok: bool
    meaning: str


class UeFidelity(msgspec.Struct, frozen=True):
    transferred_tasks: int
    uplink_integral_ratio: Value  # integral of the applied rate over the transfers / bits on the wire
    uplink_stage_ratio: Value  # mean uplink stage / mean stage that the applied rate predicts
    rate_ratio: Value  # bits on the wire / integral of the applied rate, back-to-back transfers only
    stage_time_error_p50: Value
    overruns: int


class Fidelity(msgspec.Struct, frozen=True):
    """``fidelity.json``."""

    valid: bool
    invalid_reasons: list[str]
    limits: Literal["realtime", "ordinary"]
    figures: list[Figure]
    ues: dict[str, UeFidelity]

    def value(self, name: str) -> Value:
        return next(figure.value for figure in self.figures if figure.name == name)


def assess(tables: RunTables, manifest: Manifest) -> Fidelity:
    """All figures of a run. A figure that this run cannot give is ``not_measured`` and passes."""
    realtime = bool(manifest.runtime_features.get("realtime"))
    lossy = set(column(tables.links, "ue")[column(tables.links, "loss_ratio").astype(float) > 0])
    uplinks = {
        ue: uplink_of(
            tables,
            ue,
            rate,
            manifest.ues[ue].uplink_delay_seconds if ue in manifest.ues else 0.0,
            lossy=ue in lossy,
        )
        for ue, rate in applied_rates(tables.links, "up").items()
    }
    figures = list(_figures(tables, manifest, REALTIME if realtime else ORDINARY, list(uplinks.values())))
    reasons = [
        f"{figure.name} is {_text(figure.value, figure.unit)}, limit {_text(figure.limit, figure.unit)}:"
        f" {figure.meaning}"
        for figure in figures
        if not figure.ok
    ]
    return Fidelity(
        valid=not reasons,
        invalid_reasons=reasons,
        limits="realtime" if realtime else "ordinary",
        figures=figures,
        ues=_per_ue(tables, uplinks),
    )


def write_fidelity(fidelity: Fidelity, run_directory: Path) -> None:
    (run_directory / "fidelity.json").write_bytes(msgspec.json.format(msgspec.json.encode(fidelity), indent=1) + b"\n")


def _text(value: Value | None, unit: str) -> str:
    if not isinstance(value, int | float):
        return str(value)
    if unit == "s":
        return f"{value * 1e3:.3g} ms"
    return f"{value * 100:.3g} %" if unit == "ratio" else f"{value:g}"


def _quantile(values: NDArray[np.float64], q: float) -> Value:
    return float(np.quantile(values, q)) if len(values) else NOT_MEASURED


def _ratio(part: float, whole: float) -> Value:
    return part / whole if whole else NOT_MEASURED


def _error(part: float, whole: float) -> Value:
    return abs(part / whole - 1.0) if whole else NOT_MEASURED


def _figures(tables: RunTables, manifest: Manifest, limits: Limits, uplinks: list[Uplink]) -> Iterator[Figure]:
    def figure(name: str, value: Value, unit: str, meaning: str, limit: float | None = None) -> Figure:
        ok = limit is None or value == NOT_MEASURED or (isinstance(value, int | float) and value <= limit)
        return Figure(name, value, unit, limit, ok, meaning)

    # -- links
    saturated = [uplink for uplink in uplinks if uplink.saturated_seconds >= SATURATED_SECONDS]
    yield figure(
        "rate_error",
        _error(sum(u.saturated_bits for u in saturated), sum(u.saturated_integral_bits for u in saturated)),
        "ratio",
        "achieved uplink rate against the commanded one while transfers were back to back",
        limits.rate_error,
    )
    yield figure(
        "uplink_integral_error",
        _error(sum(u.integral_bits for u in uplinks), sum(u.bits for u in uplinks)),
        "ratio",
        "integral of the applied rate over the transfers of 5 ms and more against the bits that were on the wire",
        limits.uplink_integral_error,
    )
    yield figure(
        "uplink_stage_error",
        _error(sum(u.stage_seconds for u in uplinks), sum(u.predicted_seconds for u in uplinks)),
        "ratio",
        "mean uplink stage against the one that the applied rate predicts",
    )
    causes = column(tables.links, "cause")
    lateness = (column(tables.links, "applied_seconds") - column(tables.links, "planned_seconds"))[causes == "trace"]
    yield figure(
        "step_lateness_p99_seconds",
        _quantile(lateness, 0.99),
        "s",
        "a trace step was applied this long after its time (99th percentile)",
        limits.step_lateness_p99_seconds,
    )
    yield figure(
        "step_lateness_max_seconds",
        _quantile(lateness, 1.0),
        "s",
        "the latest trace step",
        limits.step_lateness_max_seconds,
    )
    skipped = skipped_steps(tables)
    yield figure("skipped_steps", skipped, "count", "trace steps that the player left out because it was late")
    yield figure(
        "skipped_step_ratio",
        NOT_MEASURED if skipped == NOT_MEASURED else _ratio(float(skipped), float(skipped) + len(lateness) / 2),
        "ratio",
        "part of the trace steps that was left out",
        limits.skipped_step_ratio,
    )
    yield figure(
        "unordered_drops",
        float(column(tables.drops, "dropped_packets").sum()),
        "count",
        "packets that a wire dropped though no loss was asked for",
        0.0,
    )
    # -- stages
    errors = stage_time_errors(tables)
    yield figure(
        "stage_time_error_p50",
        _quantile(errors, 0.5),
        "ratio",
        "stage time against its target, stages of 5 ms and more (median)",
        limits.stage_time_error_p50,
    )
    yield figure(
        "stage_time_error_p90",
        _quantile(errors, 0.9),
        "ratio",
        "stage time against its target, stages of 5 ms and more (90th percentile)",
        limits.stage_time_error_p90,
    )
    stages, overruns = _overruns(tables)
    yield figure(
        "overrun_ratio",
        _ratio(overruns, stages),
        "ratio",
        "stages whose computation ended after its target",
        limits.overrun_ratio,
    )
    # -- host
    kinds = column(tables.health, "kind")
    edge = tables.health.filter(kinds == "edge")
    host = tables.health.filter(kinds == "host")
    yield figure(
        "receiver_lateness_p99_seconds",
        _quantile(column(edge, "receiver_lateness_p99_seconds"), 0.5),
        "s",
        "lateness of the edge's receiver (median over reports of the 99th percentile)",
        limits.receiver_lateness_p99_seconds,
    )
    yield figure(
        "throttled_ratio",
        _throttled(tables),
        "ratio",
        "part of the run for which the most throttled node was held at its cap",
        limits.throttled_ratio,
    )
    yield figure(
        "steal_ratio",
        float(column(host, "steal_ratio").mean()) if len(host) else NOT_MEASURED,
        "ratio",
        "CPU time that the hypervisor gave to others",
        limits.steal_ratio,
    )
    yield figure(
        "busy_ratio",
        float(column(host, "busy_ratio").mean()) if len(host) else NOT_MEASURED,
        "ratio",
        "the host's cores in use, mean",
    )
    yield figure(
        "running_tasks_p90",
        _quantile(column(host, "running_tasks").astype(np.float64), 0.9),
        "count",
        "the host's run queue (90th percentile)",
    )
    # -- control and bookkeeping
    slots = len(tables.slots)
    yield figure(
        "late_decision_ratio",
        _ratio(float(column(tables.slots, "decide_late").sum()), slots),
        "ratio",
        "slots in which the policy missed its deadline",
        limits.late_decision_ratio,
    )
    yield figure(
        "stale_report_ratio",
        _ratio(float((column(tables.slots, "report_age_seconds") > manifest.slot_seconds).sum()), slots),
        "ratio",
        "reports that were more than a slot old when they were used",
        limits.stale_report_ratio,
    )
    malformed = _last(host, "malformed_records") + _last(edge, "malformed_frames")
    yield figure("malformed_frames", malformed, "count", "frames that the edge or the recorder could not read", 0.0)
    tasks = tables.tasks
    ended = column(tasks, "records")
    yield figure("tasks_ended_twice", float((ended > 1).sum()), "count", "tasks with more than one end", 0.0)
    unannounced = float((~column(tasks, "announced").astype(bool)).sum())
    yield figure("tasks_unannounced", unannounced, "count", "tasks that ended and never arrived", 0.0)
    yield figure("tasks_lost", float(_missing_numbers(tables)), "count", "gaps in the numbers of the tasks", 0.0)
    yield figure(
        "ended_early",
        float(manifest.ended_utc is None),
        "count",
        "the run died or was interrupted; tasks that were under way count as in flight",
        0.0,
    )
    died = float((column(tables.events, "kind") == "died").sum())
    yield figure("processes_died", died, "count", "processes of the lab that died during the run", 0.0)


def _last(table: pa.Table, name: str) -> float:
    values = column(table, name)
    return float(values[-1]) if len(values) else 0.0


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


def stage_time_errors(tables: RunTables, ue: str | None = None) -> NDArray[np.float64]:
    """|stage / target - 1| of all heads and tails with a target of at least ``JUDGED_STAGE_SECONDS``."""
    tasks = tables.tasks if ue is None else tables.tasks.filter(column(tables.tasks, "ue") == ue)
    errors = []
    for stage in ("head", "tail"):
        target = column(tasks, f"{stage}_target_seconds").astype(np.float64)
        achieved = column(tasks, f"stage_{stage}_seconds").astype(np.float64)
        judged = (target >= JUDGED_STAGE_SECONDS) & np.isfinite(achieved)
        errors.append(np.abs(achieved[judged] / target[judged] - 1.0))
    return np.concatenate(errors)


def _overruns(tables: RunTables, ue: str | None = None) -> tuple[int, int]:
    """(stages, overruns): the larger of what the agents counted and what the tasks' computing times show.

    Both count too few: a lost report loses counts, and a tail that waited for another one computed in time.
    """
    tasks, slots = tables.tasks, tables.slots
    if ue is not None:
        tasks, slots = tasks.filter(column(tasks, "ue") == ue), slots.filter(column(slots, "ue") == ue)
    stages = shown = 0
    for stage in ("head", "tail"):
        target = column(tasks, f"{stage}_target_seconds").astype(np.float64)
        computed = column(tasks, f"{stage}_compute_seconds").astype(np.float64)
        paced = (target > 0) & np.isfinite(computed)
        stages += int(paced.sum())
        shown += int((computed[paced] > target[paced]).sum())
    counted = int(column(slots, "head_overruns").sum() + column(slots, "tail_overruns").sum())
    return stages, max(counted, shown)


def _throttled(tables: RunTables) -> Value:
    """Of the node that was throttled most, over the time in which tasks arrived."""
    arrivals = column(tables.tasks, "arrival_seconds")
    health = tables.health.filter(column(tables.health, "kind") == "node")
    if not len(health) or not len(arrivals):
        return NOT_MEASURED
    nodes, times = column(health, "node"), column(health, "monotonic_seconds")
    throttled = column(health, "throttled_seconds")
    worst: Value = NOT_MEASURED
    for node in set(nodes):
        mine = (nodes == node) & (times >= arrivals.min())
        if mine.sum() < 2:
            continue
        ratio = float(np.ptp(throttled[mine]) / np.ptp(times[mine]))
        worst = ratio if worst == NOT_MEASURED else max(float(worst), ratio)
    return worst


def _missing_numbers(tables: RunTables) -> int:
    ues, numbers = column(tables.tasks, "ue"), column(tables.tasks, "task")
    missing = 0
    for ue in set(ues):
        mine = numbers[ues == ue]
        missing += int(mine.max() - mine.min() + 1 - len(mine))
    return missing


def _per_ue(tables: RunTables, uplinks: dict[str, Uplink]) -> dict[str, UeFidelity]:
    nothing = Uplink(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    result = {}
    for ue in sorted(set(column(tables.tasks, "ue"))):
        uplink = uplinks.get(ue, nothing)
        result[ue] = UeFidelity(
            transferred_tasks=uplink.tasks,
            uplink_integral_ratio=_ratio(uplink.integral_bits, uplink.bits),
            uplink_stage_ratio=_ratio(uplink.stage_seconds, uplink.predicted_seconds),
            rate_ratio=_ratio(uplink.saturated_bits, uplink.saturated_integral_bits),
            stage_time_error_p50=_quantile(stage_time_errors(tables, ue), 0.5),
            overruns=_overruns(tables, ue)[1],
        )
    return result

"""How well the emulation did what it claims: figures, their limits, and whether the run may be used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from testbed.records.manifest import Manifest
from testbed.records.tables import RunTables, column
from testbed.report.fidelity.host_figures import (
    causes,
    host_samples,
    mean_of,
    paused_ratio,
    quantile_of,
    throttled_ratio,
)
from testbed.report.fidelity.intervals import binomial_quantile
from testbed.report.fidelity.limits import NOT_MEASURED, ORDINARY, REALTIME, Figure, Limits, Value, figure
from testbed.report.fidelity.link_figures import (
    LinkFidelity,
    RoundTripFidelity,
    link_specs,
    links_of,
    round_trips_of,
    unanswered,
)
from testbed.report.fidelity.rates import applied_rates
from testbed.report.fidelity.record_figures import record_figures
from testbed.report.fidelity.stage_figures import (
    StageFidelity,
    all_stage_time_errors,
    overruns,
    stage_sum_error_seconds,
    stages_of,
    worst,
)
from testbed.report.fidelity.task_figures import Backlog, TaskEnds, backlog_of, ends_of, task_figures
from testbed.report.fidelity.uplink import Uplink, uplink_of

#: Broken by a host that is too slow, too busy or not there: the reason is looked for.
TIMED = frozenset(
    {
        "rate_error",
        "rate_window_error",
        "uplink_integral_error",
        "round_trip_error",
        "step_lateness_p99_seconds",
        "step_lateness_max_seconds",
        "skipped_step_ratio",
        "stage_time_error_p50",
        "stage_time_error_worst",
        "stage_time_error_p90",
        "overrun_ratio",
        "receiver_lateness_p99_seconds",
        "throttled_ratio",
        "waiting_tasks_per_core",
        "late_decision_ratio",
        "stale_report_ratio",
        "oldest_report_seconds",
    }
)


class UeFidelity(msgspec.Struct, frozen=True):
    transferred_tasks: int
    uplink_integral_ratio: Value  # integral of the applied rate over the transfers / bits on the wire
    uplink_stage_ratio: Value  # mean uplink stage / mean stage that the applied rate predicts
    round_trip: RoundTripFidelity | None
    stages: dict[str, StageFidelity]  # "head", "tail"


class Fidelity(msgspec.Struct, frozen=True):
    """``fidelity.json``."""

    valid: bool
    invalid_reasons: list[str]
    limits: Literal["realtime", "ordinary"]
    figures: list[Figure]
    ues: dict[str, UeFidelity]
    links: dict[str, LinkFidelity]  # by "UE DIRECTION"
    backlog: Backlog

    def value(self, name: str) -> Value:
        return next(figure.value for figure in self.figures if figure.name == name)


@dataclass(frozen=True)
class _Parts:
    """What is worked out once and used by several figures."""

    uplinks: dict[str, Uplink]
    links: dict[str, LinkFidelity]
    round_trips: dict[str, RoundTripFidelity]
    stages: dict[str, dict[str, StageFidelity]]
    unanswered: Value
    ends: TaskEnds
    backlog: Backlog


def assess(tables: RunTables, manifest: Manifest) -> Fidelity:
    """All figures of a run. One that this run cannot give is ``not_measured`` and passes: that there are records, of
    everybody and up to the end, are figures of their own.
    """
    realtime = bool(manifest.runtime_features.get("realtime"))
    parts = _parts(tables, manifest)
    figures = list(_figures(tables, manifest, REALTIME if realtime else ORDINARY, parts))
    return Fidelity(
        valid=all(figure.ok for figure in figures),
        invalid_reasons=_reasons(figures, tables, manifest),
        limits="realtime" if realtime else "ordinary",
        figures=figures,
        ues={
            ue: UeFidelity(
                transferred_tasks=uplink.tasks,
                uplink_integral_ratio=_ratio(uplink.integral_bits, uplink.bits),
                uplink_stage_ratio=_ratio(uplink.stage_seconds, uplink.predicted_seconds),
                round_trip=parts.round_trips.get(ue),
                stages=parts.stages[ue],
            )
            for ue in parts.stages
            for uplink in (parts.uplinks.get(ue, Uplink()),)
        },
        links=parts.links,
        backlog=parts.backlog,
    )


def write_fidelity(fidelity: Fidelity, run_directory: Path) -> None:
    (run_directory / "fidelity.json").write_bytes(msgspec.json.format(msgspec.json.encode(fidelity), indent=1) + b"\n")


def _parts(tables: RunTables, manifest: Manifest) -> _Parts:
    lossy = set(column(tables.links, "ue")[column(tables.links, "loss_ratio").astype(float) > 0])
    uplinks = {
        ue: uplink_of(tables, ue, rate, lossy=ue in lossy) for ue, rate in applied_rates(tables.links, "up").items()
    }
    specs = link_specs(manifest)
    round_trips = round_trips_of(tables, manifest, specs)
    return _Parts(
        uplinks=uplinks,
        links=links_of(tables, manifest, specs),
        round_trips=round_trips,
        stages={ue: stages_of(tables, ue) for ue in sorted(set(column(tables.tasks, "ue")))},
        unanswered=unanswered(round_trips, specs),
        ends=ends_of(tables, manifest),
        backlog=backlog_of(tables, manifest),
    )


def _reasons(figures: list[Figure], tables: RunTables, manifest: Manifest) -> list[str]:
    reasons = [
        f"{figure.name} is {_text(figure.value, figure.unit)}, limit {_text(figure.limit, figure.unit)}:"
        f" {figure.meaning}"
        for figure in figures
        if not figure.ok
    ]
    if any(figure.name in TIMED and not figure.ok for figure in figures):
        reasons.append(f"cause: {'; '.join(causes(tables, manifest))}")
    return reasons


def _text(value: Value | None, unit: str) -> str:
    if not isinstance(value, int | float):
        return str(value)
    if unit == "s":
        return f"{value * 1e3:.3g} ms"
    return f"{value * 100:.3g} %" if unit == "ratio" else f"{value:g}"


def _worst(values: Iterable[Value]) -> Value:
    measured = [float(value) for value in values if value != NOT_MEASURED]
    return max(measured, default=NOT_MEASURED)


def _quantile(values: NDArray[np.float64], q: float) -> Value:
    return float(np.quantile(values, q)) if len(values) else NOT_MEASURED


def _quantile_at_least(values: NDArray[np.float64], q: float, confidence: float = 0.95) -> Value:
    """The lower confidence limit of a quantile, an order statistic: few values cannot tell a high quantile from their
    maximum, and the one late step in fifty that a short run may have is no evidence against it.
    """
    if not len(values):
        return NOT_MEASURED
    above = binomial_quantile(confidence, len(values), 1 - q)  # as many may lie above the quantile by chance
    return float(np.sort(values)[-1 - min(above, len(values) - 1)])


def _ratio(part: float, whole: float) -> Value:
    return part / whole if whole else NOT_MEASURED


def _error(part: float, whole: float) -> Value:
    return abs(part / whole - 1.0) if whole else NOT_MEASURED


def _figures(tables: RunTables, manifest: Manifest, limits: Limits, parts: _Parts) -> Iterator[Figure]:
    # -- links
    uplinks = list(parts.uplinks.values())
    yield figure(
        "rate_error",
        _worst(link.rate_error for link in parts.links.values()),
        "ratio",
        "achieved uplink rate against the commanded one while transfers were back to back, of the worst link",
        limits.rate_error,
    )
    yield figure(
        "rate_window_error",
        _worst(link.worst_window_error for link in parts.links.values()),
        "ratio",
        "the same in the worst window of 5 s (longer in a long run)",
        limits.rate_window_error,
    )
    yield figure(
        "round_trip_error",
        _worst(trip.error for trip in parts.round_trips.values() if trip.judged),
        "ratio",
        "round trip of an idle wire minus its configured delay, as a part of the tolerance; of the worst wire",
        limits.round_trip_error,
    )
    yield figure(
        "echoes_lost",
        parts.unanswered,
        "count",
        "echoes that an idle wire lost though no loss was asked for",
        0.0,
    )
    losses = [link.loss for link in parts.links.values() if link.loss is not None]
    yield figure(
        "losses_off",
        float(sum(not loss.ok for loss in losses)) if losses else NOT_MEASURED,
        "count",
        "directions of wires whose ordered loss lies outside the interval of the measured one",
        0.0,
    )
    allowed, sent = sum(u.integral_bits for u in uplinks), sum(u.bits for u in uplinks)
    early = sum(u.first_frame_bits for u in uplinks) / sent if allowed < sent else 0.0
    yield figure(
        "uplink_integral_error",
        _error(allowed, sent),
        "ratio",
        "integral of the applied rate over the transfers of 5 ms and more against the bits that were on the wire",
        max(limits.uplink_integral_error, early),
    )
    yield figure(
        "uplink_stage_error",
        _error(sum(u.stage_seconds for u in uplinks), sum(u.predicted_seconds for u in uplinks)),
        "ratio",
        "mean uplink stage against the one that the applied rate predicts",
    )
    steps = tables.links.filter(column(tables.links, "cause") == "trace")
    planned = column(steps, "planned_seconds")
    lateness = column(steps, "applied_seconds") - planned
    instants, instant = np.unique(planned, return_inverse=True)
    latest = np.full(len(instants), -np.inf)
    np.maximum.at(latest, instant, lateness)  # of the links that step together
    yield figure(
        "step_lateness_p99_seconds",
        _quantile_at_least(latest, 0.99),
        "s",
        "a trace step was applied this long after its time (99th percentile, its lower 95 % confidence limit)",
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
    errors = all_stage_time_errors(tables.tasks)
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
    yield figure(
        "stage_time_error_worst",
        worst(parts.stages),
        "ratio",
        "the largest of the medians of each UE's heads and tails",
        limits.stage_time_error_p50,
    )
    stages, late = overruns(tables)
    yield figure(
        "overrun_ratio",
        _ratio(late, stages),
        "ratio",
        "stages whose computation ended after its target",
        limits.overrun_ratio,
    )
    yield figure(
        "stage_sum_error_seconds",
        stage_sum_error_seconds(tables),
        "s",
        "how far a completed task's stages are from making up its delay, one after the other",
        limits.stage_sum_error_seconds,
    )
    # -- host
    edge = tables.health.filter(column(tables.health, "kind") == "edge")
    yield figure(
        "receiver_lateness_p99_seconds",
        _quantile(column(edge, "receiver_lateness_p99_seconds"), 0.5),
        "s",
        "lateness of the edge's receiver (median over reports of the 99th percentile)",
        limits.receiver_lateness_p99_seconds,
    )
    yield figure(
        "throttled_ratio",
        throttled_ratio(tables),
        "ratio",
        "part of the run for which the most throttled node was held at its cap",
        limits.throttled_ratio,
    )
    host = host_samples(tables)
    yield figure(
        "steal_ratio",
        mean_of(host, "steal_ratio"),
        "ratio",
        "CPU time that the hypervisor gave to others",
        limits.steal_ratio,
    )
    yield figure(
        "longest_pause_seconds",
        quantile_of(host, "longest_pause_seconds", 1.0),
        "s",
        "the longest time for which a CPU of the host stood still",
    )
    yield figure(
        "paused_ratio", paused_ratio(host), "ratio", "the part of the time in which a CPU of the host stood still"
    )
    running = quantile_of(host, "running_tasks", 0.9)
    yield figure(
        "waiting_tasks_per_core",
        running if running == NOT_MEASURED else float(running) / manifest.cores,
        "count",
        "the host's run queue over its cores (90th percentile)",
        limits.waiting_tasks_per_core,
    )
    yield figure("busy_ratio", mean_of(host, "busy_ratio"), "ratio", "the host's cores in use, mean")
    yield figure("lab_cores", mean_of(host, "lab_cores"), "count", "cores that the lab's processes used, mean")
    yield figure(
        "foreign_cores",
        mean_of(host, "foreign_cores"),
        "count",
        "cores that processes used which are not the lab's, mean",
    )
    yield from task_figures(parts.ends, parts.backlog, limits)
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
    yield figure(
        "oldest_report_seconds",
        _quantile(column(tables.slots, "report_age_seconds"), 1.0),
        "s",
        "the longest time for which a UE, the edge or the trace player was not heard of",
        max(limits.oldest_report_seconds, 2 * manifest.slot_seconds),
    )
    kinds = column(tables.events, "kind")
    refused = float(np.isin(kinds, ("policy-error", "decision-invalid")).sum())
    yield figure(
        "refused_decision_ratio",
        _ratio(refused * len(manifest.ues), slots),
        "ratio",
        "slots in which the policy raised or decided what cannot be, and the last decision stayed",
        limits.refused_decision_ratio,
    )
    recorder = tables.health.filter(column(tables.health, "kind") == "host")
    malformed = _last(recorder, "malformed_records") + _last(edge, "malformed_frames")
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
    yield from record_figures(tables, manifest, limits)


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


def _missing_numbers(tables: RunTables) -> int:
    ues, numbers = column(tables.tasks, "ue"), column(tables.tasks, "task")
    missing = 0
    for ue in set(ues):
        mine = numbers[ues == ue]
        missing += int(mine.max() - mine.min() + 1 - len(mine))
    return missing

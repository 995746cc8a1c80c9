"""Whether the records are whole: held against what did not go through the recorder."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pyarrow as pa

from controller.service.protocol import TaskTotals
from testbed.protocol.monitoring import MONITORING_NODES
from testbed.records.manifest import SIMULATOR, Manifest
from testbed.records.tables import RunTables, column, deaths
from testbed.report.fidelity.limits import NOT_MEASURED, Figure, Limits, Value, figure


def is_vouched(manifest: Manifest) -> bool:
    """Whether a run says enough of itself to be held against its records; one that has no end is invalid anyway."""
    return manifest.runtime != SIMULATOR and manifest.manifest_version >= 2 and manifest.ended_utc is not None


def silent_sources(tables: RunTables, manifest: Manifest) -> Value:
    """Programs of a lab that left no record at all, a player's wire each: nothing that they did was measured."""
    if manifest.runtime == SIMULATOR:
        return NOT_MEASURED
    kinds = set(column(tables.health, "kind"))
    silent = sum(kind not in kinds for kind in ("host", "edge")) + (not len(tables.slots))
    return float(silent + len(set(manifest.ues) - set(column(tables.links, "ue"))))


def ended_early_seconds(tables: RunTables, manifest: Manifest) -> Value:
    """How long before the run's end the recorder made its last record: it samples the host as its last act."""
    if not is_vouched(manifest) or manifest.ended_monotonic_seconds is None:
        return NOT_MEASURED
    samples = _samples(tables.health)
    return max(manifest.ended_monotonic_seconds - samples[-1], 0.0) if len(samples) else float("inf")


def longest_gap_seconds(tables: RunTables, manifest: Manifest) -> Value:
    """The longest time between two samples of the host, of which the recorder makes one a second."""
    if manifest.runtime == SIMULATOR:
        return NOT_MEASURED
    samples = _samples(tables.health)
    return float(np.diff(samples).max()) if len(samples) > 1 else NOT_MEASURED


def unrecorded_tasks(tables: RunTables, manifest: Manifest) -> Value:
    """Arrivals and ends that a UE told the controller of, or counted in its last words, and that have no record.

    A UE of which neither is known counts as one.
    """
    if not is_vouched(manifest):
        return NOT_MEASURED
    said = _last_words(tables.events)
    ues, status = column(tables.tasks, "ue"), column(tables.tasks, "status")
    announced = column(tables.tasks, "announced").astype(bool)
    ended = (column(tables.tasks, "records") > 0) & (status != "in_flight")
    missing = 0
    for ue in manifest.ues:
        counts = [totals[ue] for totals in (manifest.totals, said) if ue in totals]
        if not counts:
            missing += 1
            continue
        mine = ues == ue
        missing += max(0, max(one.arrived for one in counts) - int((mine & announced).sum()))
        missing += max(0, max(one.ended for one in counts) - int((mine & ended).sum()))
    return float(missing)


def missing_arrivals(tables: RunTables, manifest: Manifest) -> Value:
    """Tasks that arrive by the law and the seed of their UE, and of which there is no record.

    What a UE counts ends with it: one that was stopped for good counts what it recorded, and no more.
    """
    if not is_vouched(manifest) or not manifest.expected_tasks:
        return NOT_MEASURED
    ues = column(tables.tasks, "ue")
    return float(sum(max(0, count - int((ues == ue).sum())) for ue, count in manifest.expected_tasks.items()))


def silent_at_the_end(tables: RunTables) -> set[str]:
    """Nodes that had stopped to report when the run ended, by the controller's events."""
    silent: dict[str, bool] = {}
    for node, kind in zip(tables.events["node"].to_pylist(), tables.events["kind"].to_pylist(), strict=True):
        if kind in ("silent", "back", "joined"):
            silent[node] = kind == "silent"
    return {node for node, is_silent in silent.items() if is_silent}


def died_programs(tables: RunTables, manifest: Manifest) -> set[str]:
    """Nodes whose program ended before the run, by their own words or the manifest; monitoring is no part of a run."""
    return ({*deaths(tables.events)} | {*manifest.ended_programs}) - {*MONITORING_NODES}


def _samples(health: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.sort(column(health, "monotonic_seconds")[column(health, "kind") == "host"].astype(np.float64))


def _last_words(events: pa.Table) -> dict[str, TaskTotals]:
    """Totals in the events with which UEs end, of all processes that a UE had."""
    found: dict[str, TaskTotals] = {}
    for node, kind, text in zip(*(events[name].to_pylist() for name in ("node", "kind", "text")), strict=True):
        counts = _counts(text) if kind == "stopped" else {}
        if {"arrived_tasks", "ended_tasks"} <= counts.keys():
            before = found.get(node, TaskTotals())
            found[node] = TaskTotals(before.arrived + counts["arrived_tasks"], before.ended + counts["ended_tasks"])
    return found


def _counts(text: str) -> dict[str, int]:
    try:
        counts = msgspec.json.decode(text[text.index("{") :], type=dict[str, float])
    except (ValueError, msgspec.DecodeError):
        return {}
    return {name: int(value) for name, value in counts.items()}


def record_figures(tables: RunTables, manifest: Manifest, limits: Limits) -> Iterator[Figure]:
    """Whether every program lived, spoke, and was recorded to the end."""
    died = died_programs(tables, manifest)
    named = f": {', '.join(sorted(died))}" if died else ""
    yield figure(
        "processes_died", float(len(died)), "count", f"processes of the lab that died during the run{named}", 0.0
    )
    silent = silent_at_the_end(tables)
    named = f": {', '.join(sorted(silent))}" if silent else ""
    yield figure(
        "silent_at_the_end",
        float(len(silent)) if is_vouched(manifest) else NOT_MEASURED,  # else they ended one after the other
        "count",
        f"programs that had stopped to report when the run ended{named}",
        0.0,
    )
    yield figure(
        "silent_sources",
        silent_sources(tables, manifest),
        "count",
        "programs and wires of the lab that left no record at all",
        0.0,
    )
    yield figure(
        "records_end_early_seconds",
        ended_early_seconds(tables, manifest),
        "s",
        "the records end before the run did",
        limits.records_end_early_seconds,
    )
    yield figure(
        "unrecorded_seconds",
        longest_gap_seconds(tables, manifest),
        "s",
        "the longest time without a sample of the host, of which the recorder makes one a second",
        limits.unrecorded_seconds,
    )
    yield figure(
        "tasks_unrecorded",
        unrecorded_tasks(tables, manifest),
        "count",
        "arrivals and ends of tasks that UEs counted and the records lack, and UEs that nobody counted",
        0.0,
    )
    yield figure(
        "arrivals_missing",
        missing_arrivals(tables, manifest),
        "count",
        "tasks that arrive by the law and the seed of their UE and were never recorded",
        0.0,
    )

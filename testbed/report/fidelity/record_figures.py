"""Whether the records are whole: held against what did not go through the recorder."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pyarrow as pa

from controller.service.protocol import TaskTotals
from testbed.protocol.monitoring import MONITORING_NODES
from testbed.records.manifest import SIMULATOR, Manifest
from testbed.records.tables import RunTables, column, deaths
from testbed.report.fidelity.figure import Evidence, Figure
from testbed.report.fidelity.limits import NOT_MEASURED, Value


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


def _died(run: Evidence) -> set[str]:
    return died_programs(run.tables, run.manifest)


def _silent(run: Evidence) -> set[str]:
    return silent_at_the_end(run.tables)


def _names_of(nodes: Callable[[Evidence], set[str]]) -> Callable[[Evidence], str]:
    return lambda run: f": {', '.join(sorted(nodes(run)))}" if nodes(run) else ""


def _silent_count(run: Evidence) -> Value:
    if not is_vouched(run.manifest):
        return NOT_MEASURED  # they ended one after the other
    return float(len(_silent(run)))


RECORD_FIGURES = (
    Figure(
        "processes_died",
        "count",
        "processes of the lab that died during the run",
        of=lambda run: float(len(_died(run))),
        limit=0.0,
        detail=_names_of(_died),
    ),
    Figure(
        "silent_at_the_end",
        "count",
        "programs that had stopped to report when the run ended",
        of=_silent_count,
        limit=0.0,
        detail=_names_of(_silent),
    ),
    Figure(
        "silent_sources",
        "count",
        "programs and wires of the lab that left no record at all",
        of=lambda run: silent_sources(run.tables, run.manifest),
        limit=0.0,
    ),
    Figure(
        "records_end_early_seconds",
        "s",
        "the records end before the run did",
        of=lambda run: ended_early_seconds(run.tables, run.manifest),
        limit=2.0,
        why="a recorder that lives ends after the run: 0",
    ),
    Figure(
        "unrecorded_seconds",
        "s",
        "the longest time without a sample of the host, of which the recorder makes one a second",
        of=lambda run: longest_gap_seconds(run.tables, run.manifest),
        limit=5.0,
        why="it samples every second, at a low priority",
    ),
    Figure(
        "tasks_unrecorded",
        "count",
        "arrivals and ends of tasks that UEs counted and the records lack, and UEs that nobody counted",
        of=lambda run: unrecorded_tasks(run.tables, run.manifest),
        limit=0.0,
    ),
    Figure(
        "arrivals_missing",
        "count",
        "tasks that arrive by the law and the seed of their UE and were never recorded",
        of=lambda run: missing_arrivals(run.tables, run.manifest),
        limit=0.0,
    ),
)

"""The gap between a simulation and a run of the same lab: what was predicted, what was measured, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from controller.contract import STAGES
from testbed.records.manifest import SIMULATOR, Manifest, read_manifest
from testbed.records.tables import STAGE_COLUMNS, RunTables, column, read_tables
from testbed.report.fidelity.fidelity import Fidelity, assess
from testbed.report.fidelity.limits import NOT_MEASURED
from testbed.report.summary import origin_seconds

Floats = NDArray[np.float64]

#: Arrivals are functions of the seed: stamps of the same task differ by the rounding of a clock that starts elsewhere.
SAME_ARRIVAL_SECONDS = 1e-4
#: A cause is worth a line from this part of the measured delay on.
WORTH_SAYING_RATIO = 0.01


class Pair(msgspec.Struct, frozen=True):
    """Means of the same tasks in seconds (energy: joules per UE and slot)."""

    simulated: float | None
    measured: float | None
    ratio: float | None  # measured / simulated; None where there is nothing to divide


class ArrivalsPair(msgspec.Struct, frozen=True):
    simulated: int
    measured: int
    compared: int  # tasks that completed in both
    equal: bool  # the tasks that are in both arrived at the same times
    largest_difference_seconds: float | None


class Gap(msgspec.Struct, frozen=True):
    """``causes_seconds`` sum to the measured minus the simulated mean E2E delay."""

    simulated_run: str
    measured_run: str
    policy: str
    arrivals: ArrivalsPair
    e2e_seconds: Pair
    stages_seconds: dict[str, Pair]
    ues_seconds: dict[str, Pair]
    energy_joules_per_slot: Pair
    same_cut_ratio: float | None  # part of the compared tasks that took the same cut in both
    causes_seconds: dict[str, float]
    reasons: list[str]


class _Side:
    def __init__(self, directory: Path) -> None:
        self.manifest: Manifest = read_manifest(directory)
        self.tables: RunTables = read_tables(directory)
        self.origin = origin_seconds(self.tables)

    def comparable_tasks(self, suffix: str) -> pa.Table:
        kept = [
            *("ue", "task", "status", "cut", "arrival_seconds", "e2e_delay_seconds"),
            *("decision_sequence", "head_start_seconds", "head_target_seconds", "tail_target_seconds"),
            *STAGE_COLUMNS.values(),
        ]
        tasks = self.tables.tasks.select(kept)
        return tasks.rename_columns([name if name in ("ue", "task") else name + suffix for name in kept])


def find_simulation(run: Path, among: Sequence[Path]) -> Path | None:
    """The event-mode simulation of the same policy, seed and UEs as ``run``; the first if there are several."""
    wanted = read_manifest(run)
    for directory in among:
        manifest = read_manifest(directory)
        if (
            manifest.runtime == SIMULATOR
            and manifest.runtime_features.get("mode") == "event"
            and (manifest.policy, manifest.seed) == (wanted.policy, wanted.seed)
            and set(manifest.ues) == set(wanted.ues)
        ):
            return directory
    return None


def gap_of(simulation: Path, run: Path) -> Gap:
    """Compare task by task. Raises InputError for a directory without a run or without tables."""
    simulated, measured = _Side(simulation), _Side(run)
    both = simulated.comparable_tasks("_s").join(
        measured.comparable_tasks("_m"), keys=["ue", "task"], join_type="inner"
    )
    moved = (column(both, "arrival_seconds_m") - measured.origin) - (
        column(both, "arrival_seconds_s") - simulated.origin
    )
    done = both.filter((column(both, "status_s") == "completed") & (column(both, "status_m") == "completed"))
    largest = float(np.abs(moved).max()) if len(moved) else None
    arrivals = ArrivalsPair(
        simulated=len(simulated.tables.tasks),
        measured=len(measured.tables.tasks),
        compared=len(done),
        equal=largest is not None and largest <= SAME_ARRIVAL_SECONDS,
        largest_difference_seconds=largest,
    )
    ues = column(done, "ue")
    same_cut = column(done, "cut_s") == column(done, "cut_m")
    causes = _causes(done, same_cut)
    e2e = _pair(done, "e2e_delay_seconds")
    fidelity = assess(measured.tables, measured.manifest)
    return Gap(
        simulated_run=str(simulation),
        measured_run=str(run),
        policy=measured.manifest.policy,
        arrivals=arrivals,
        e2e_seconds=e2e,
        stages_seconds={stage: _pair(done, STAGE_COLUMNS[stage]) for stage in STAGES},
        ues_seconds={str(ue): _pair(done.filter(ues == ue), "e2e_delay_seconds") for ue in sorted(set(ues))},
        energy_joules_per_slot=_energy(simulated, measured),
        same_cut_ratio=float(same_cut.mean()) if len(done) else None,
        causes_seconds=causes,
        reasons=[
            *_differences(simulated.manifest, measured.manifest, arrivals),
            *_largest(causes, e2e, same_cut),
            *_late_starts(done.filter(~same_cut), measured),
            *_records(fidelity, measured),
        ],
    )


def _ratio(simulated: float | None, measured: float | None) -> Pair:
    ratio = measured / simulated if simulated and measured is not None else None
    return Pair(simulated, measured, ratio)


def _pair(done: pa.Table, name: str) -> Pair:
    if not len(done):
        return Pair(None, None, None)
    return _ratio(float(column(done, f"{name}_s").mean()), float(column(done, f"{name}_m").mean()))


def _energy(simulated: _Side, measured: _Side) -> Pair:
    """Over the slots that both have: a longer side's other slots are other weather."""
    ends = [float(column(side.tables.slots, "slot").max(initial=-1)) for side in (simulated, measured)]
    durations = [side.manifest.duration_seconds for side in (simulated, measured)]
    limit = min([end + 1 for end in ends] + [d / simulated.manifest.slot_seconds for d in durations if d is not None])
    means = []
    for side in (simulated, measured):
        slots = column(side.tables.slots, "slot")
        joules = column(side.tables.slots, "compute_joules") + column(side.tables.slots, "transmit_joules")
        counted = (slots >= 0) & (slots < limit - 0.5)
        means.append(float(joules[counted].mean()) if counted.any() else None)
    return _ratio(*means)


def _causes(done: pa.Table, same_cut: NDArray[np.bool_]) -> dict[str, float]:
    """Measured minus simulated, per task on average, by where it arose."""
    if not len(done):
        return {}

    def stage(name: str, side: str) -> Floats:
        return np.asarray(column(done, STAGE_COLUMNS[name] + side), dtype=np.float64)

    def mean(values: Floats, chosen: NDArray[np.bool_]) -> float:
        return float(np.where(chosen, values, 0.0).mean())

    total = np.asarray(column(done, "e2e_delay_seconds_m") - column(done, "e2e_delay_seconds_s"), dtype=np.float64)
    causes = {"other cut": mean(total, ~same_cut)}
    for name, decided in (("head", "other speed"), ("tail", "other edge share")):
        target = np.asarray(column(done, f"{name}_target_seconds_m"), dtype=np.float64)
        target = np.where(np.isfinite(target), target, stage(name, "_m"))
        causes[decided] = mean(target - stage(name, "_s"), same_cut)
        causes[f"{name} off its target"] = mean(stage(name, "_m") - target, same_cut)
    for name in ("uplink", "downlink"):
        causes[name] = mean(stage(name, "_m") - stage(name, "_s"), same_cut)
    causes["queueing"] = sum(
        mean(stage(name, "_m") - stage(name, "_s"), same_cut) for name in ("ue_queue", "tx_queue", "edge_queue")
    )
    return causes


def _largest(causes: dict[str, float], e2e: Pair, same_cut: NDArray[np.bool_]) -> list[str]:
    texts = {
        "other cut": f"{1 - same_cut.mean() if len(same_cut) else 0:.1%} of the tasks took another cut",
        "other speed": "heads ran at another decided speed",
        "other edge share": "tails ran at another decided share",
        "head off its target": "heads ended off their target time",
        "tail off its target": "tails ended off their target time",
        "uplink": "uplink transfers took another time (rate in force, TCP)",
        "downlink": "downlink transfers took another time (rate in force, TCP)",
        "queueing": "tasks waited another time in the queues",
    }
    threshold = WORTH_SAYING_RATIO * (e2e.measured or 0.0)
    worth = sorted((item for item in causes.items() if abs(item[1]) >= threshold), key=lambda item: -abs(item[1]))
    return [f"{texts[name]}: {seconds * 1e3:+.1f} ms of the mean" for name, seconds in worth]


def _late_starts(other_cut: pa.Table, measured: _Side) -> list[str]:
    """Tasks whose head started in a slot before that slot's decision had reached their UE."""
    slots = measured.tables.slots
    keys = zip(column(slots, "ue"), column(slots, "slot"), strict=True)
    decided = dict(zip(keys, column(slots, "decision_sequence"), strict=True))
    late = []
    for ue, start, sequence in zip(
        column(other_cut, "ue"),
        column(other_cut, "head_start_seconds_m") - measured.origin,
        column(other_cut, "decision_sequence_m"),
        strict=True,
    ):
        slot, since = divmod(start, measured.manifest.slot_seconds)
        if sequence < decided.get((ue, int(slot)), sequence):
            late.append(since)
    if not late:
        return []
    return [
        f"of these, {len(late)} started up to {max(late) * 1e3:.1f} ms into a slot, before its decision was in force; "
        "the simulator's are in force at once"
    ]


def _differences(simulated: Manifest, measured: Manifest, arrivals: ArrivalsPair) -> list[str]:
    found = []
    for what in ("seed", "policy", "policy_options", "slot_seconds"):
        one, other = (_without_folder(getattr(manifest, what)) for manifest in (simulated, measured))
        if one != other:
            found.append(f"{what} differs: {one!r} simulated, {other!r} measured")
    for ue in sorted(set(simulated.ues) & set(measured.ues)):
        if simulated.ues[ue].profile_sha256 != measured.ues[ue].profile_sha256:
            found.append(f"{ue} has another profile in the simulation")
    if not arrivals.equal:
        found.append("the tasks are not the same: arrivals differ")
    return found


def _without_folder(value: Any) -> Any:
    """Options with the checkpoint's file name only: a lab may have been copied."""
    if isinstance(value, dict) and isinstance(value.get("checkpoint"), str):
        return {**value, "checkpoint": Path(value["checkpoint"]).name}
    return value


def _records(fidelity: Fidelity, measured: _Side) -> list[str]:
    """What the run says of itself that a simulation knows nothing of."""
    found = []
    shown = {
        "overrun_ratio": ("{:.2%} of the stages computed past their target", 0.001),
        "uplink_integral_error": ("the bits on the uplinks are {:.1%} off the integral of the applied rate", 0.01),
        "uplink_stage_error": ("uplink stages are {:.1%} off what the applied rate predicts", 0.02),
        "late_decision_ratio": ("{:.1%} of the decisions came late", 0.0),
        "stale_report_ratio": ("{:.1%} of the reports were stale when they were used", 0.0),
        "skipped_step_ratio": ("{:.2%} of the trace steps were left out", 0.0),
    }
    for name, (text, limit) in shown.items():
        value = fidelity.value(name)
        if value != NOT_MEASURED and isinstance(value, float) and value > limit:
            found.append(text.format(value))
    failed = int((column(measured.tables.tasks, "status") == "failed").sum())
    if failed:
        found.append(f"{failed} tasks failed in the run; the simulator loses none")
    found += [f"the run is invalid: {reason}" for reason in fidelity.invalid_reasons]
    return found

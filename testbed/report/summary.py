"""The summary of a run, of the testbed or of the simulator: ``summary.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from controller.contract import STAGES
from testbed.errors import InputError
from testbed.records.manifest import Manifest
from testbed.records.run_format import require_known
from testbed.records.tables import STAGE_COLUMNS, RunTables, column
from testbed.report.fidelity.fidelity import HEADLINES, Fidelity
from testbed.report.fidelity.limits import CENSORED_RATIO, Value
from testbed.report.fidelity.task_figures import Backlog
from testbed.report.markets import settled_ratio
from testbed.report.placement_costs import PlacementCosts, placement_costs


class TaskCounts(msgspec.Struct, frozen=True):
    """arrived = completed + failed + in_flight + dropped."""

    arrived: int
    completed: int
    failed: int
    in_flight: int
    dropped: int = 0  # that found their device busy, which never took them


class Delay(msgspec.Struct, frozen=True):
    """Of the completed tasks; None where there is none."""

    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None


class Summary(msgspec.Struct, frozen=True):
    """What ``--json`` prints, and what ``compare`` reads."""

    run_id: str
    lab: str
    policy: str
    runtime: str
    seed: int
    duration_seconds: float
    valid: bool
    invalid_reasons: list[str]
    tasks: TaskCounts
    e2e_delay_seconds: Delay
    stages_seconds: dict[str, float | None]  # means over the completed tasks; they sum to the mean E2E delay
    energy_joules_per_slot: float | None  # mean over UEs and slots
    cuts: dict[str, float]  # share of the tasks that took a cut, by label
    fidelity: dict[str, Value]  # the figures that have a headline
    run_dir: str
    #: part of the tasks that devices took which the delays are not of; above 1 % they are censored
    missing_ratio: float = 0.0
    censored: bool = False
    backlog: Backlog | None = None  # None: written before it was looked at
    unstable: bool = False  # its queue grew through the whole run: the delays are of this duration
    placement: PlacementCosts | None = None  # of a lab whose models move, or of a policy that places them
    settled_ratio: float | None = None  # of the slots, under a policy whose UEs settle a market


def summarise(
    tables: RunTables, manifest: Manifest, fidelity: Fidelity, run_directory: Path, *, warm_up_seconds: float = 0.0
) -> Summary:
    """Figures straight from the records. Tasks that arrive in the first ``warm_up_seconds`` are left out."""
    origin, tasks = origin_seconds(tables), tables.tasks
    if warm_up_seconds > 0:  # else all: no task is left out, wherever the start is
        tasks = tasks.filter(column(tasks, "arrival_seconds") >= origin + warm_up_seconds)
    status = column(tasks, "status")
    completed = tasks.filter(status == "completed")
    delays = column(completed, "e2e_delay_seconds")
    stages: dict[str, float | None] = dict.fromkeys(STAGES)
    if len(delays):
        stages = {stage: float(column(completed, STAGE_COLUMNS[stage]).mean()) for stage in STAGES}
    cuts = column(tasks, "cut")
    labels, numbers = np.unique(cuts[[bool(cut) for cut in cuts]].astype(str), return_counts=True)
    completions = int((status == "completed").sum())
    dropped = int((status == "dropped").sum())
    return Summary(
        run_id=manifest.run_id,
        lab=manifest.lab,
        policy=manifest.policy,
        runtime=manifest.runtime,
        seed=manifest.seed,
        duration_seconds=duration_seconds(tables, manifest),
        valid=fidelity.valid,
        invalid_reasons=fidelity.invalid_reasons,
        tasks=TaskCounts(
            arrived=len(tasks),
            completed=completions,
            failed=int((status == "failed").sum()),
            in_flight=int((status == "in_flight").sum()),
            dropped=dropped,
        ),
        e2e_delay_seconds=Delay(
            mean=float(delays.mean()) if len(delays) else None,
            **{f"p{q}": float(np.quantile(delays, q / 100)) if len(delays) else None for q in (50, 95, 99)},
        ),
        stages_seconds=stages,
        energy_joules_per_slot=_energy(tables, manifest, origin, warm_up_seconds),
        cuts={str(label): float(number / numbers.sum()) for label, number in zip(labels, numbers, strict=True)},
        fidelity={name: fidelity.value(name) for name in HEADLINES},
        run_dir=str(run_directory.resolve()),
        **missing_of(len(tasks) - dropped, completions),
        backlog=fidelity.backlog,
        unstable=fidelity.backlog.unstable,
        settled_ratio=settled_ratio(tables),
        placement=placement_costs(tables, tasks, manifest, duration_seconds(tables, manifest) - warm_up_seconds),
    )


def missing_of(taken: int, completed: int) -> dict[str, Any]:
    """``missing_ratio`` and ``censored``: slow tasks are those that are missing, so a mean without them is too low."""
    missing = 1.0 - completed / taken if taken else 0.0
    return {"missing_ratio": missing, "censored": missing > CENSORED_RATIO}


def marks_of(summary: Summary) -> list[str]:
    """What a reader of the delays has to know before."""
    marks = []
    if summary.censored:
        marks.append(f"censored: {summary.missing_ratio:.1%} of the arrived are not in the delays, so they are too low")
    if summary.unstable and summary.backlog is not None:
        low, high = summary.backlog.low_tasks_per_slot, summary.backlog.high_tasks_per_slot
        marks.append(f"unstable: the queue grew through the whole run, by {low:.2g} to {high:.2g} tasks a slot (95 %)")
    if summary.settled_ratio is not None and summary.settled_ratio < 1.0:
        marks.append(
            f"unsettled: in {1.0 - summary.settled_ratio:.1%} of the slots the UEs' market had not come to rest when "
            "its rounds ended, so what they hold there is no equilibrium"
        )
    return marks


def write_summary(summary: Summary, run_directory: Path) -> None:
    (run_directory / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=1) + b"\n")


def read_summary(run_directory: Path) -> Summary:
    """Raises InputError where there is none, or for a run that another version of the testbed wrote."""
    require_known(run_directory)
    path = run_directory / "summary.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Summary)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            "there is no summary.json",
            where=str(run_directory),
            allowed="the directory of a finished run",
            fix=f"For a run that died: `testbed report {run_directory}` makes one.",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the summary cannot be read: {error}", where=str(path)) from error


def origin_seconds(tables: RunTables) -> float:
    """Start of slot 0, or the first arrival of a run without slots; 0 for a run without either.

    A controller that was held up enters its first slot late: then the start follows from the slots that it had.
    """
    known = column(tables.slots, "slot") >= 0
    if known.any():
        slots, starts = (column(tables.slots, name)[known].astype(np.float64) for name in ("slot", "start_seconds"))
        first, last = slots.argmin(), slots.argmax()
        if slots[first] == slots[last]:
            return float(starts.min())
        length = (starts[last] - starts[first]) / (slots[last] - slots[first])
        return float(starts[first] - slots[first] * length)
    arrivals = column(tables.tasks, "arrival_seconds")
    return float(arrivals.min()) if len(arrivals) else 0.0


def duration_seconds(tables: RunTables, manifest: Manifest) -> float:
    """For how long tasks arrived: as commanded if the run came to its end, else until the last record."""
    if manifest.ended_utc is not None and manifest.duration_seconds is not None:
        return manifest.duration_seconds
    seen = np.concatenate([column(tables.tasks, "arrival_seconds"), column(tables.slots, "start_seconds")])
    return float(seen.max() - origin_seconds(tables)) if len(seen) else 0.0


def _energy(tables: RunTables, manifest: Manifest, origin: float, warm_up_seconds: float) -> float | None:
    """Mean over UEs and over the slots in which tasks could arrive (the drain would only dilute it)."""
    starts = column(tables.slots, "start_seconds") - origin
    end = manifest.duration_seconds if manifest.duration_seconds is not None else np.inf
    # Half a slot of tolerance: slot starts are sums of floats.
    counted = (starts >= warm_up_seconds) & (starts < end - manifest.slot_seconds / 2)
    joules = column(tables.slots, "compute_joules") + column(tables.slots, "transmit_joules")
    return float(joules[counted].mean()) if counted.any() else None

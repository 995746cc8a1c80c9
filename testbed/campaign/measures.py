"""What a point is judged by: numbers of one run, straight from its records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from testbed.records.manifest import read_manifest
from testbed.records.tables import column, read_table
from testbed.report.summary import Summary, read_summary


@dataclass(frozen=True)
class Measure:
    """How a number is called, and in what it is shown: ``factor`` x SI in ``unit``."""

    title: str
    unit: str = ""
    factor: float = 1.0
    of_delays: bool = False  # too low where slow tasks are missing

    @property
    def axis(self) -> str:
        return f"{self.title} [{self.unit}]" if self.unit else self.title


#: By name, which is that in tables and campaign files.
MEASURES = {
    "mean_delay_seconds": Measure("mean E2E delay", "ms", 1e3, of_delays=True),
    "p50_delay_seconds": Measure("median E2E delay", "ms", 1e3, of_delays=True),
    "p95_delay_seconds": Measure("p95 of E2E delay", "ms", 1e3, of_delays=True),
    "p99_delay_seconds": Measure("p99 of E2E delay", "ms", 1e3, of_delays=True),
    "worst_ue_delay_seconds": Measure("mean E2E delay of the worst UE", "ms", 1e3, of_delays=True),
    "jain_index": Measure("Jain's index of UEs' delays"),
    "energy_joules_per_slot": Measure("energy per UE and slot", "J"),
    "worst_energy_ratio": Measure("energy / budget of the worst UE"),
    "missing_ratio": Measure("tasks that did not complete", "%", 100.0),
}


class Measured(msgspec.Struct, frozen=True):
    """The numbers of a run; None where there is nothing to measure."""

    values: dict[str, float | None]  # by name in MEASURES
    tasks: int  # completed
    censored: bool  # slow tasks are missing from the delays, which are too low
    unstable: bool  # a queue grew through the whole run


def measure(run_directory: Path) -> Measured:
    """Raises InputError for a directory without a finished run."""
    summary = read_summary(run_directory)
    by_ue = _mean_delays_by_ue(run_directory)
    delay = summary.e2e_delay_seconds
    values = {
        "mean_delay_seconds": delay.mean,
        "p50_delay_seconds": delay.p50,
        "p95_delay_seconds": delay.p95,
        "p99_delay_seconds": delay.p99,
        "worst_ue_delay_seconds": float(by_ue.max()) if by_ue.size else None,
        "jain_index": jain_index(by_ue),
        "energy_joules_per_slot": summary.energy_joules_per_slot,
        "worst_energy_ratio": _worst_energy_ratio(run_directory, summary),
        "missing_ratio": summary.missing_ratio,
    }
    return Measured(values, summary.tasks.completed, summary.censored, summary.unstable)


def jain_index(values: NDArray[np.float64]) -> float | None:
    """(sum x)^2 / (n sum x^2), 1 where all have alike, 1/n where one has all (Jain, Chiu and Hawe, DEC-TR-301, 1984).

    >>> jain_index(np.array([1.0, 1.0])), jain_index(np.array([1.0, 0.0]))
    (1.0, 0.5)
    """
    squares = float((values**2).sum())
    return float(values.sum()) ** 2 / (values.size * squares) if squares > 0 else None


def delays_of(run_directory: Path) -> NDArray[np.float64]:
    """E2E delays of the completed tasks, in seconds."""
    tasks = read_table(run_directory / "tasks.parquet", ["status", "e2e_delay_seconds"])
    found: NDArray[np.float64] = column(tasks, "e2e_delay_seconds")[column(tasks, "status") == "completed"]
    return found


def _mean_delays_by_ue(run_directory: Path) -> NDArray[np.float64]:
    """Of the completed tasks of each UE that has any, in seconds."""
    tasks = read_table(run_directory / "tasks.parquet", ["ue", "status", "e2e_delay_seconds"])
    done = column(tasks, "status") == "completed"
    names, delays = column(tasks, "ue")[done].astype(str), column(tasks, "e2e_delay_seconds")[done]
    return np.array([delays[names == name].mean() for name in np.unique(names)])


def _worst_energy_ratio(run_directory: Path, summary: Summary) -> float | None:
    """Largest mean energy over budget of a UE, over the slots in which tasks arrived; None: no budget."""
    manifest = read_manifest(run_directory)
    slots = read_table(run_directory / "slots.parquet", ["slot", "ue", "compute_joules", "transmit_joules"])
    end = summary.duration_seconds / manifest.slot_seconds - 0.5
    counted = (column(slots, "slot") >= 0) & (column(slots, "slot") < end)
    joules = (column(slots, "compute_joules") + column(slots, "transmit_joules"))[counted]
    ues = column(slots, "ue")[counted]
    ratios = [
        float(joules[ues == name].mean()) / facts.energy_budget_joules
        for name, facts in manifest.ues.items()
        if facts.energy_budget_joules and (ues == name).any()
    ]
    return max(ratios, default=None)

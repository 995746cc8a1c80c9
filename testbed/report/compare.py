"""Several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from testbed.errors import InputError
from testbed.records.manifest import SIMULATOR
from testbed.records.tables import column, read_table, read_tables
from testbed.report.fidelity.intervals import student_quantile
from testbed.report.figures import COLOURS, STAGE_LABELS, colour, styled
from testbed.report.gap import Gap, find_simulation, gap_of
from testbed.report.predicted import Predicted, predictions
from testbed.report.summary import Summary, read_summary

#: Delays of neighbouring tasks are alike (a queue joins them): the interval is taken over the means of so many batches.
BATCHES = 20


class ComparedRun(msgspec.Struct, frozen=True):
    run_dir: str
    run_id: str
    lab: str
    policy: str
    seed: int
    valid: bool
    tasks: int  # completed
    failed: int
    mean_seconds: float | None
    mean_ci95_seconds: float | None  # half width; None with fewer than two tasks per batch
    p95_seconds: float | None
    energy_joules_per_slot: float | None
    stages_seconds: dict[str, float | None]
    cuts: dict[str, float]
    runtime: str = ""
    #: to the simulation of the same policy, seed and UEs, if that is among the runs that are compared
    gap: Gap | None = None
    #: what the policy promised and what came, by UE; empty for one that promises nothing
    predicted: dict[str, Predicted] = {}
    missing_ratio: float = 0.0  # part of the arrived tasks that the delays are not of
    censored: bool = False  # it is above 1 %: the mean is too low
    unstable: bool = False  # the queue grew through the whole run: the mean is of its duration

    @property
    def marks(self) -> list[str]:
        """What a reader of the mean has to know, in words."""
        found = [] if self.valid else ["invalid"]
        if self.censored:
            found.append(f"censored: {self.missing_ratio:.1%} missing")
        return [*found, "unstable"] if self.unstable else found


def compare(run_directories: Sequence[Path]) -> list[ComparedRun]:
    """One row per run, in the order given. Raises InputError for a directory without a finished run."""
    rows = [_row(directory, read_summary(directory)) for directory in run_directories]
    simulations = [directory for directory, row in zip(run_directories, rows, strict=True) if row.runtime == SIMULATOR]
    return [_with_gap(row, simulations) for row in rows]


def _with_gap(row: ComparedRun, simulations: Sequence[Path]) -> ComparedRun:
    if row.runtime == SIMULATOR or not simulations:
        return row
    simulation = find_simulation(Path(row.run_dir), simulations)
    return row if simulation is None else msgspec.structs.replace(row, gap=gap_of(simulation, Path(row.run_dir)))


def _row(directory: Path, summary: Summary) -> ComparedRun:
    path = directory / "tasks.parquet"
    try:
        tasks = read_table(path, ["status", "e2e_delay_seconds"])
    except FileNotFoundError as error:
        raise InputError(
            "there is no tasks.parquet", where=str(directory), fix=f"Make it with `testbed report {directory}`."
        ) from error
    delays = column(tasks, "e2e_delay_seconds")[column(tasks, "status") == "completed"]
    return ComparedRun(
        run_dir=str(directory),
        run_id=summary.run_id,
        lab=summary.lab,
        policy=summary.policy,
        seed=summary.seed,
        valid=summary.valid,
        tasks=summary.tasks.completed,
        failed=summary.tasks.failed,
        mean_seconds=summary.e2e_delay_seconds.mean,
        mean_ci95_seconds=batch_means_half_width(delays),
        p95_seconds=summary.e2e_delay_seconds.p95,
        energy_joules_per_slot=summary.energy_joules_per_slot,
        stages_seconds=summary.stages_seconds,
        cuts=summary.cuts,
        runtime=summary.runtime,
        predicted=predictions(read_tables(directory)),
        missing_ratio=summary.missing_ratio,
        censored=summary.censored,
        unstable=summary.unstable,
    )


def batch_means_half_width(values: NDArray[np.float64]) -> float | None:
    """Half width of the 95 % confidence interval of the mean of a correlated series, by batch means.

    Batches of equal size in order, Student's t over their means (Law and Kelton, Simulation Modeling and Analysis).
    None with fewer than two values per batch.
    """
    size = len(values) // BATCHES
    if size < 2:
        return None
    means = values[len(values) - size * BATCHES :].reshape(BATCHES, size).mean(axis=1)
    return float(student_quantile(0.975, BATCHES - 1) * means.std(ddof=1) / np.sqrt(BATCHES))


def labels_of(runs: Sequence[ComparedRun]) -> list[str]:
    """The policy of each run, with what is needed to tell equal ones apart."""
    names = [f"{run.policy}, simulated" if run.runtime == SIMULATOR else run.policy for run in runs]
    if len({run.lab for run in runs}) > 1:
        names = [f"{run.lab}: {name}" for run, name in zip(runs, names, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{name}, seed {run.seed}" for run, name in zip(runs, names, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{name}, {run.run_id}" for run, name in zip(runs, names, strict=True)]
    return names


def draw(runs: Sequence[ComparedRun], path: Path) -> None:
    """Mean E2E delay by stage with its confidence interval, and energy, as an image (PNG, SVG or PDF by name)."""
    names = labels_of(runs)
    rows = np.arange(len(runs))
    with styled():
        figure = Figure(figsize=(10, max(2.6, 0.5 * len(runs) + 1.7)), dpi=140, layout="constrained")
        delay_axes, energy_axes = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
        left = np.zeros(len(runs))
        for index, (stage, label) in enumerate(STAGE_LABELS.items()):
            means = np.array([(run.stages_seconds.get(stage) or 0.0) * 1e3 for run in runs])
            delay_axes.barh(rows, means, left=left, height=0.6, color=colour(index), label=label)
            left += means
        half_widths = np.array([(run.mean_ci95_seconds or 0.0) * 1e3 for run in runs])
        delay_axes.errorbar(left, rows, xerr=half_widths, fmt="none", ecolor="#222222", capsize=3, linewidth=1.2)
        for row, run in enumerate(runs):
            note = ", ".join([f"  {left[row]:.0f} ms", *run.marks])
            edge = left[row] + half_widths[row]
            delay_axes.text(edge, row, note, va="center", fontsize=8, color=COLOURS[5] if run.marks else "#333333")
        energies = np.array([run.energy_joules_per_slot or 0.0 for run in runs])
        energy_axes.barh(rows, energies, height=0.6, color="#9aa5b1")
        delay_axes.set_yticks(rows, names)
        delay_axes.invert_yaxis()
        delay_axes.set(
            xlabel="mean E2E delay by stage, 95 % interval [ms]", xlim=(0, (left + half_widths).max() * 1.2 or 1.0)
        )
        energy_axes.set_xlabel("energy per UE and slot [J]")
        for axes in (delay_axes, energy_axes):
            axes.grid(visible=False, axis="y")
        figure.legend(*delay_axes.get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=8)
        figure.savefig(path)

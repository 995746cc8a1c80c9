"""One key of a lab through several values, simulated or run one after the other: a table and a figure."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from matplotlib.figure import Figure

from testbed.errors import InputError
from testbed.records.manifest import read_manifest
from testbed.records.tables import column, read_tables
from testbed.report.compare import compare
from testbed.report.figures import COLOURS, colour, styled


class Point(msgspec.Struct, frozen=True):
    """One value of the swept key and what came of it."""

    value: str
    run_dir: str
    valid: bool
    tasks: int  # completed
    failed: int
    mean_seconds: float | None
    mean_ci95_seconds: float | None
    p95_seconds: float | None
    energy_joules_per_slot: float | None
    worst_energy_ratio: float | None  # of the UE that is farthest over its budget; None: no budget


def split_values(text: str) -> list[str]:
    """``0.1,0.3`` and ``[1 /s, 2 /s],[2 /s, 4 /s]``: at commas that are in no bracket. Raises InputError if empty."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    values = [part.strip() for part in parts]
    if not all(values):
        raise InputError("a value is empty", where="--values", value=text, allowed="VALUE,VALUE,...")
    if len(set(values)) < len(values):
        raise InputError("a value is there twice", where="--values", value=text)
    return values


def sweep(values: Sequence[str], folder: Path, measure: Callable[[str, Path], None]) -> list[Point]:
    """``measure(value, run_directory)`` for each value, in order; the table grows on disk as the runs end.

    Writes ``sweep.csv`` in ``folder``. Raises InputError if a run directory or a table is there already.
    """
    directories = [folder / _safe(index, value) for index, value in enumerate(values)]
    for path in (*directories, folder / "sweep.csv"):
        if path.exists():
            raise InputError("there is a sweep already", where="--out", value=str(path), fix="Name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    points: list[Point] = []
    for value, directory in zip(values, directories, strict=True):
        measure(value, directory)
        points.append(_point(value, directory))
        write_points(points, folder / "sweep.csv")
    return points


def _safe(index: int, value: str) -> str:
    return f"{index}-{re.sub(r'[^A-Za-z0-9.+-]+', '_', value).strip('_')}"


def _point(value: str, directory: Path) -> Point:
    (row,) = compare([directory])
    return Point(
        value=value,
        run_dir=str(directory),
        valid=row.valid,
        tasks=row.tasks,
        failed=row.failed,
        mean_seconds=row.mean_seconds,
        mean_ci95_seconds=row.mean_ci95_seconds,
        p95_seconds=row.p95_seconds,
        energy_joules_per_slot=row.energy_joules_per_slot,
        worst_energy_ratio=_worst_energy_ratio(directory),
    )


def _worst_energy_ratio(directory: Path) -> float | None:
    """Largest mean energy over budget of a UE, over the slots in which tasks arrived."""
    manifest, slots = read_manifest(directory), read_tables(directory).slots
    end = np.inf if manifest.duration_seconds is None else manifest.duration_seconds / manifest.slot_seconds - 0.5
    counted = slots.filter((column(slots, "slot") >= 0) & (column(slots, "slot") < end))
    joules = column(counted, "compute_joules") + column(counted, "transmit_joules")
    ues = column(counted, "ue")
    ratios = [
        float(joules[ues == name].mean()) / facts.energy_budget_joules
        for name, facts in manifest.ues.items()
        if facts.energy_budget_joules and (ues == name).any()
    ]
    return max(ratios, default=None)


def write_points(points: Sequence[Point], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(Point.__struct_fields__))
        writer.writeheader()
        writer.writerows(msgspec.to_builtins(point) for point in points)


def draw_points(points: Sequence[Point], key: str, path: Path, title: str) -> None:
    """Mean E2E delay with its interval, and energy, over the values (a decade or more: on a logarithmic axis)."""
    numbers = _numbers(points)
    x = np.arange(len(points), dtype=np.float64) if numbers is None else np.array(numbers)
    with styled():
        figure = Figure(figsize=(7, 5), dpi=140, layout="constrained")
        delay_axes, energy_axes = figure.subplots(2, 1, sharex=True)
        mean = np.array([np.nan if point.mean_seconds is None else point.mean_seconds * 1e3 for point in points])
        half = np.array([(point.mean_ci95_seconds or 0.0) * 1e3 for point in points])
        delay_axes.errorbar(x, mean, yerr=half, color=colour(0), marker="o", capsize=3)
        for at, value, point in zip(x, mean, points, strict=True):
            if not point.valid and np.isfinite(value):
                delay_axes.annotate("invalid", (at, value), color=COLOURS[5], fontsize=8)
        delay_axes.set(ylabel="mean E2E delay [ms]", title=title)
        ratios = [point.worst_energy_ratio for point in points]
        if all(ratio is not None for ratio in ratios):
            energy_axes.plot(x, [float(ratio or 0.0) for ratio in ratios], color=colour(1), marker="o")
            energy_axes.axhline(1.0, color="#888888", linewidth=0.8)
            energy_axes.set_ylabel("energy / budget, worst UE")
        else:
            energies = [np.nan if p.energy_joules_per_slot is None else p.energy_joules_per_slot for p in points]
            energy_axes.plot(x, energies, color=colour(1), marker="o")
            energy_axes.set_ylabel("energy per UE and slot [J]")
        energy_axes.set_xlabel(key)
        if numbers is None:
            energy_axes.set_xticks(x, [point.value for point in points], rotation=20, ha="right")
        elif x.min() > 0 and x.max() / x.min() >= 10:
            energy_axes.set_xscale("log")
            energy_axes.set_xticks(x, [point.value for point in points])
            energy_axes.minorticks_off()
        figure.savefig(path)


def _numbers(points: Sequence[Point]) -> list[float] | None:
    """The values if all are plain numbers or numbers with the same unit; None: names."""
    found = [re.fullmatch(r"([-+0-9.eE]+)\s*(\S*)", point.value) for point in points]
    units = {match.group(2) for match in found if match is not None}
    if None in found or len(units) != 1:
        return None
    try:
        return [float(match.group(1)) for match in found if match is not None]
    except ValueError:
        return None

"""Plots of the benchmarks' figures, for the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

#: Errors below this are drawn at it: the axis is logarithmic.
FLOOR = 1e-7
LABELS = {"netns": "ours, netns", "docker": "ours, docker", "rootless": "ours, without root", "plain": "docker --cpus"}
MARKERS = {"netns": "o", "docker": "s", "rootless": "^", "plain": "x"}


def slowdown(data: dict[str, Any], path: Path) -> None:
    """Median error (filled up to the 90th percentile) of the heads, over the speed, one panel per model."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    parts = [part for part in LABELS if part in data]
    models = sorted({row["model"] for row in data[parts[0]]})
    axes = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for axis, model in zip(axes, models, strict=True):
        for number, part in enumerate(parts):
            rows = sorted(
                (row for row in data[part] if row["model"] == model and row["stage"] == "head"),
                key=lambda row: float(row["speed"]),
            )
            places = [index + 0.12 * (number - (len(parts) - 1) / 2) for index in range(len(rows))]
            low = [max(row["error_p50"], FLOOR) for row in rows]
            high = [max(row["error_p90"], FLOOR) for row in rows]
            (line,) = axis.plot(places, low, MARKERS[part], label=LABELS[part], markersize=5)
            axis.vlines(places, low, high, color=line.get_color())
            axis.set_xticks(range(len(rows)), [f"{row['speed']:g}" for row in rows])
        axis.set_yscale("log")
        axis.set_title(model, fontsize=10)
        axis.set_xlabel("speed, reference cores")
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("|stage / target - 1|, p50 to p90")
    axes[-1].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def capacity(data: dict[str, Any], path: Path) -> None:
    """Overruns and the 90th percentile of the stage error over the number of UEs, the best attempt of each."""
    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    ues = [row["ues"] for row in data["rows"]]
    for name, label in (("overrun_ratio", "overruns"), ("stage_time_error_p90", "stage error, p90")):
        axis.plot(ues, [row["attempts"][-1][name] * 100 for row in data["rows"]], "o-", label=label)
    axis.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axis.set_xlabel("UEs of the quickstart lab")
    axis.set_ylabel("%")
    axis.set_yscale("symlog", linthresh=0.1)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=110)

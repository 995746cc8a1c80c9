"""Plots of the figures of links, for the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

#: Errors below this are drawn at it: the axis is logarithmic.
FLOOR = 1e-5
#: Colour and marker of a way, by how its name begins; the first that fits.
LOOKS = {"HTB in place": "C0o", "HTB, segmentation": "C1x", "HTB deleted": "C3^", "TBF": "C2s"}


def alternatives(data: dict[str, Any], path: Path) -> None:
    """Error of each way to shape a link, in per cent: static rates, and ten changes a second."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    changing = [row for row in data["figures"] if "changes a second" in row["what"]]
    static = [row for row in data["figures"] if row not in changing]
    for axes, rows, title in zip(panels, (static, changing), ("static", "10 changes a second"), strict=True):
        ways = list(dict.fromkeys(way for row in rows for way in row["signed"]))
        for way in ways:
            look = next(look for begin, look in LOOKS.items() if way.startswith(begin))
            points = [(i, max(abs(row["signed"][way]), FLOOR)) for i, row in enumerate(rows) if way in row["signed"]]
            axes.plot([x for x, _ in points], [100 * y for _, y in points], look, label=way, fillstyle="none")
        labels = [row["what"].removeprefix("rate error at ").removeprefix("10 changes a second, ") for row in rows]
        axes.set_xticks(range(len(rows)), [label.replace(", segmentation", "\nsegmentation") for label in labels])
        axes.tick_params(axis="x", labelsize=6, rotation=30)
        axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
        axes.set_yscale("log")
        axes.set_title(title, fontsize=10)
        axes.grid(axis="y", alpha=0.3)
        axes.legend(fontsize=7, frameon=False)
    panels[0].set_ylabel("|rate error|, %")
    figure.savefig(path, dpi=110)


def mahimahi(data: dict[str, Any], path: Path) -> None:
    """Planned and achieved rate of the played trace, and the sum of their difference."""
    series = data["series"]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    rate, owed = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    times = series["start_seconds"]
    rate.step(times, [bits / 1e6 for bits in series["planned_bits_per_second"]], where="post", label="planned")
    rate.step(
        times,
        [bits / 1e6 for bits in series["achieved_bits_per_second"]],
        where="post",
        label="achieved",
        linewidth=0.9,
    )
    rate.set_ylabel("rate, Mbit/s")
    rate.legend(frameon=False)
    for name, label in (("excess_frames", "ours"), ("plain_excess_frames", "HTB told each step's rate")):
        owed.step(times, series[name], where="post", label=label)
    owed.set_ylabel("frames too many")
    owed.set_xlabel("time, s")
    owed.legend(frameon=False, fontsize=8)
    for axes in (rate, owed):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)

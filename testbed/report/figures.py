"""The figures of a run's report, as SVG. Colours are Okabe and Ito's, which colour-blind readers can tell apart."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from controller.contract import STAGES
from testbed.records.tables import STAGE_COLUMNS, RunTables, column
from testbed.report.fidelity.rates import applied_rates
from testbed.report.summary import origin_seconds

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D31", "#666666")
STAGE_LABELS = {
    "ue_queue": "UE queue",
    "head": "head",
    "tx_queue": "tx queue",
    "uplink": "uplink",
    "edge_queue": "edge queue",
    "tail": "tail",
    "downlink": "downlink",
}
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "svg.hashsalt": "testbed",  # the same run gives the same file
    "agg.path.chunksize": 10_000,
}
#: A curve of more points is an image in the page: those of an hour would be tens of megabytes as text.
DRAWN_POINTS = 4000
_DOTS_PER_INCH = 150


@contextmanager
def styled() -> Iterator[None]:
    with mpl.rc_context(_STYLE):
        yield


def to_svg(figure: Figure) -> str:
    engine = figure.get_layout_engine()
    if engine is not None:  # once: savefig would draw the whole figure beforehand to lay it out
        engine.execute(figure)
        figure.set_layout_engine("none")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, dpi=_DOTS_PER_INCH)
    figure.clear()
    gc.collect(1)  # artists refer to each other: their points would stay. All older objects would take half a second
    return buffer.getvalue()


def _is_long(points: Sized) -> bool:
    return len(points) > DRAWN_POINTS


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def e2e_distribution(tables: RunTables, ues: list[str]) -> str | None:
    """CDF of the E2E delay per UE; None without a completed task."""
    completed = tables.tasks.filter(column(tables.tasks, "status") == "completed")
    names, delays = column(completed, "ue"), column(completed, "e2e_delay_seconds") * 1e3
    if not len(delays):
        return None
    with styled():
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.subplots()
        for index, ue in enumerate(ues):
            mine = np.sort(delays[names == ue])
            if len(mine):
                ranks = np.arange(1, len(mine) + 1) / len(mine)
                shade = colour(index)
                axes.step(mine, ranks, where="post", color=shade, label=ue, linewidth=1.5, rasterized=_is_long(mine))
        if delays.max() > 20 * np.median(delays):
            axes.set_xscale("log")
        else:
            axes.set_xlim(left=0)
        axes.set(xlabel="E2E delay [ms]", ylabel="share of the tasks", ylim=(0, 1.01))
        axes.legend(loc="lower right")
        return to_svg(figure)


def stacked_stages(tables: RunTables, ues: list[str]) -> str | None:
    """Mean time per stage and UE, stacked: a bar's length is the mean E2E delay. None without a completed task."""
    completed = tables.tasks.filter(column(tables.tasks, "status") == "completed")
    names = column(completed, "ue")
    shown = [ue for ue in ues if (names == ue).any()]
    if not shown:
        return None
    with styled():
        figure = Figure(figsize=(5.2, max(2.4, 0.45 * len(shown) + 1.6)), layout="constrained")
        axes = figure.subplots()
        left = np.zeros(len(shown))
        for index, stage in enumerate(STAGES):
            values = column(completed, STAGE_COLUMNS[stage]) * 1e3
            means = np.array([values[names == ue].mean() for ue in shown])
            axes.barh(shown, means, left=left, height=0.6, color=colour(index), label=STAGE_LABELS[stage])
            left += means
        for row, total in enumerate(left):
            axes.text(total, row, f" {total:.0f} ms", va="center", fontsize=8, color="#333333")
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="mean time [ms]", xlim=(0, left.max() * 1.15))
        figure.legend(loc="outside lower center", ncols=4, fontsize=8)
        return to_svg(figure)


def over_time(tables: RunTables, ue: str) -> str:
    """Uplink rate, cut, E2E delay and queue lengths of one UE over the run."""
    origin = origin_seconds(tables)
    tasks = tables.tasks.filter(column(tables.tasks, "ue") == ue)
    slots = tables.slots.filter(column(tables.slots, "ue") == ue)
    with styled():
        figure = Figure(figsize=(10.5, 5.6), layout="constrained")
        rate_axes, cut_axes, delay_axes, queue_axes = figure.subplots(
            4, 1, sharex=True, height_ratios=(1.1, 1.0, 1.2, 1.0)
        )
        _draw_rate(rate_axes, tables, slots, ue, origin)
        _draw_cuts(cut_axes, tasks, origin)
        _draw_delays(delay_axes, tasks, origin)
        _draw_queues(queue_axes, slots, origin)
        last = max((values.max() for values in _times(tasks, slots, origin) if len(values)), default=1.0)
        queue_axes.set_xlim(0, last * 1.01)
        queue_axes.set_xlabel("time since the start of slot 0 [s]")
        figure.align_ylabels()
        return to_svg(figure)


def link_rates(tables: RunTables, ue: str) -> str | None:
    """Planned, applied and achieved rate of both directions of one UE's link; None without a record of it.

    Achieved: what the leaf sent between two readings of its counters, about a second; it can follow the applied rate
    only where there was something to send.
    """
    links = tables.links.filter(column(tables.links, "ue") == ue)
    if not len(links):
        return None
    origin = origin_seconds(tables)
    with styled():
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        both = figure.subplots(2, 1, sharex=True)
        for axes, direction in zip(both, ("up", "down"), strict=True):
            steps = links.filter(column(links, "direction") == direction)
            _draw_link(axes, steps, achieved_rates(tables, ue, direction), origin)
            axes.set_ylabel(f"{direction}link\n[Mbit/s]")
        both[0].legend(loc="lower right", bbox_to_anchor=(1.0, 0.97), ncols=3, fontsize=8, borderaxespad=0.0)
        both[1].set_xlabel("time since the start of slot 0 [s]")
        figure.align_ylabels()
        return to_svg(figure)


def achieved_rates(tables: RunTables, ue: str, direction: str) -> NDArray[np.float64]:
    """(windows, 3): begin and end in seconds, bit/s of layer 2 that left the wire's queue between them."""
    mine = (column(tables.drops, "ue") == ue) & (column(tables.drops, "direction") == direction)
    times = column(tables.drops, "monotonic_seconds")[mine].astype(np.float64)
    sent = column(tables.drops, "sent_bytes")[mine].astype(np.float64)
    order = np.argsort(times)
    times, sent = times[order], sent[order]
    return np.column_stack([times[:-1], times[1:], 8 * sent[1:] / np.diff(times)]) if len(times) else np.empty((0, 3))


def _draw_link(axes: Axes, steps: Any, achieved: NDArray[np.float64], origin: float) -> None:
    times = column(steps, "applied_seconds").astype(np.float64)
    order = np.argsort(times, kind="stable")
    since = times[order] - origin
    planned = column(steps, "planned_bits_per_second").astype(np.float64)[order] / 1e6
    applied = column(steps, "applied_bits_per_second").astype(np.float64)[order] / 1e6
    many = _is_long(since)
    axes.step(
        since, planned, where="post", color=COLOURS[1], linewidth=2.4, alpha=0.6, label="planned", rasterized=many
    )
    axes.step(since, applied, where="post", color=COLOURS[0], linewidth=0.9, label="applied", rasterized=many)
    begins, ends, rates = achieved.T
    axes.hlines(
        rates / 1e6, begins - origin, ends - origin, color=COLOURS[5], linewidth=1.6, label="achieved", rasterized=many
    )
    top = max(planned.max(initial=0.0), rates.max(initial=0.0) / 1e6)
    axes.set_ylim(0, 1.05 * top if top else 1.0)


def _times(tasks: Any, slots: Any, origin: float) -> Iterator[NDArray[np.float64]]:
    yield column(tasks, "arrival_seconds") - origin
    yield column(slots, "start_seconds") - origin


def _legend_above(axes: Axes) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.97), ncols=3, fontsize=8, borderaxespad=0.0)


def _draw_rate(axes: Axes, tables: RunTables, slots: Any, ue: str, origin: float) -> None:
    links = tables.links.filter(column(tables.links, "ue") == ue)
    if not len(links):  # a simulation has no wires: what its slots had
        starts, rates = column(slots, "start_seconds") - origin, column(slots, "rate_up_bits_per_second") / 1e6
        axes.step(starts, rates, where="post", color=COLOURS[0], linewidth=1.0, rasterized=_is_long(starts))
        axes.set_ylabel("uplink\n[Mbit/s]")
        axes.set_ylim(bottom=0)
        return
    for direction, shade in (("down", COLOURS[4]), ("up", COLOURS[0])):
        rate = applied_rates(links, direction).get(ue)
        if rate is not None:
            axes.step(
                rate.times - origin,
                rate.rates / 1e6,
                where="post",
                color=shade,
                linewidth=1.0,
                label=f"{direction}link",
                rasterized=_is_long(rate.times),
            )
            _legend_above(axes)
    axes.set_ylabel("rate\n[Mbit/s]")
    axes.set_ylim(bottom=0)


def _draw_cuts(axes: Axes, tasks: Any, origin: float) -> None:
    cuts, starts = column(tasks, "cut"), column(tasks, "head_start_seconds").astype(np.float64) - origin
    known = np.array([cut is not None for cut in cuts], dtype=bool) & np.isfinite(starts)
    # Top to bottom from "all on the edge" to "all on the device", between them in order of appearance.
    place = {"input": -1, "local": 1}
    labels = sorted(dict.fromkeys(cuts[known]), key=lambda label: place.get(label, 0))
    axes.set_ylabel("cut")
    if not labels:
        return
    rows = np.array([labels.index(cut) for cut in cuts[known]])
    for row in range(len(labels)):
        mine, shade = rows == row, colour(row)
        axes.scatter(
            starts[known][mine], rows[mine], s=9, color=shade, marker="|", linewidths=1.5, rasterized=_is_long(rows)
        )
    shown = [label if len(label) <= 20 else label[:19] + "…" for label in labels]
    axes.set_yticks(range(len(labels)), shown, fontsize=7)
    axes.set_ylim(len(labels) - 0.5, -0.5)


def _draw_delays(axes: Axes, tasks: Any, origin: float) -> None:
    status = column(tasks, "status")
    arrivals, delays = column(tasks, "arrival_seconds") - origin, column(tasks, "e2e_delay_seconds") * 1e3
    done, failed = status == "completed", status == "failed"
    axes.scatter(arrivals[done], delays[done], s=7, color=COLOURS[2], linewidths=0, rasterized=_is_long(arrivals))
    if done.any() and delays[done].max() > 20 * np.median(delays[done]):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    if failed.any():
        lost = arrivals[failed]
        rows = np.full(len(lost), 0.02)
        axes.plot(lost, rows, "x", color=COLOURS[5], transform=axes.get_xaxis_transform(), rasterized=_is_long(lost))
        axes.plot([], [], "x", color=COLOURS[5], label="failed")
        _legend_above(axes)
    axes.set_ylabel("E2E delay\n[ms]")


def _draw_queues(axes: Axes, slots: Any, origin: float) -> None:
    starts = column(slots, "start_seconds") - origin
    for index, (name, label) in enumerate(
        (("device_queue_tasks", "device"), ("tx_queue_tasks", "tx"), ("edge_queue_tasks", "edge"))
    ):
        axes.step(
            starts,
            column(slots, name),
            where="post",
            color=colour(index),
            linewidth=1.2,
            label=label,
            rasterized=_is_long(starts),
        )
    if len(starts):
        _legend_above(axes)
    axes.set_ylabel("queued\n[tasks]")
    axes.set_ylim(bottom=0)

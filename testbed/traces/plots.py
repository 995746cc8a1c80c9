"""Pictures of a trace: a PNG, and blocks of text for a terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from testbed.traces.trace import Floats, Trace

_BLOCKS = " ▁▂▃▄▅▆▇█"
#: bins of the terminal plot are means over this many samples, so that a short dip shows in its height
_SAMPLES_PER_BIN = 8


def _scaled(trace: Trace, values: Floats) -> tuple[Floats, str]:
    """What is drawn: gains in dB (a gain of 0 as the lowest other one), rates in Mbit/s, delays in ms, losses in %."""
    if trace.kind == "rate":
        return values / 1e6, "Mbit/s"
    if trace.kind == "delay":
        return values * 1e3, "ms"
    if trace.kind == "loss":
        return values * 100, "%"
    positive = values[values > 0]
    floor = float(positive.min()) if positive.size else 1e-30
    return 10 * np.log10(np.maximum(values, floor)), "dB"


def save_plot(trace: Trace, path: Path, title: str = "") -> None:
    """Both directions over time as a PNG (or whatever the suffix of ``path`` says)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    times = np.append(trace.times_seconds, trace.duration_seconds)
    unit = ""
    for label, values in (("up", trace.up), ("down", trace.down)):
        scaled, unit = _scaled(trace, values)
        axes.step(times, np.append(scaled, scaled[-1]), where="post", label=label, linewidth=1)
    axes.set_xlabel("time, s")
    axes.set_ylabel(f"{trace.kind}, {unit}")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def text_plot(trace: Trace, width: int = 72, height: int = 8) -> str:
    """Both directions as columns of blocks, ``width`` x ``height`` characters each, with their scales."""
    count = width * _SAMPLES_PER_BIN
    times = (np.arange(count) + 0.5) * trace.duration_seconds / count
    parts = []
    for label, values in zip(("up", "down"), trace.sampled(times), strict=True):
        scaled, unit = _scaled(trace, values)
        bins = scaled.reshape(width, _SAMPLES_PER_BIN).mean(axis=1)
        low, high = float(bins.min()), float(bins.max())
        if trace.kind != "gain":
            low = 0.0
        span = high - low if high > low else 1.0
        filled = np.rint((bins - low) / span * (height * 8 - 1)).astype(int) + 1  # in eighths of a line; never empty
        parts.append(f"{label}, {unit}")
        for line in range(height - 1, -1, -1):
            scale = f"{high:10.4g} " if line == height - 1 else f"{low:10.4g} " if line == 0 else " " * 11
            parts.append((scale + "".join(_BLOCKS[min(8, max(0, eighths - 8 * line))] for eighths in filled)).rstrip())
        end = f"{trace.duration_seconds:g} s"
        parts.append(" " * 11 + "0" + end.rjust(width - 1))
    return "\n".join(parts)

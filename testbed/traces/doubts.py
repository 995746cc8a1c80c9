"""Traces that can hardly be what they are taken for: a thousand times too slow, in ms, in dB."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from testbed.traces.trace import CLEAR_STATE, Floats, Trace
from testbed.units import BIT_RATE

#: What a link calls an outage, unless the lab says something else.
DEFAULT_FLOOR_BITS_PER_SECOND = 100e3
_LONG_STEP_SECONDS = 50.0
_LONG_DELAY_SECONDS = 2.0
_MOST_STEPS_PER_SECOND = 100.0
#: Steps below which nothing is said of their length: a few long ones are an experiment, many are another unit.
_SEVERAL = 10


def doubts(trace: Trace) -> list[str]:
    """What is odd about a trace by itself, with its mean and the unit that it may really have."""
    found = []
    mean, peak = max(trace.mean()), float(max(trace.up.max(), trace.down.max()))
    if trace.kind == "rate" and mean > CLEAR_STATE["rate"]:
        found.append(f"its mean is {BIT_RATE.format(mean)}: rates are in bit/s")
    if trace.kind == "delay" and mean >= _LONG_DELAY_SECONDS:
        found.append(
            f"its delay is {mean:g} s in the mean, {peak:g} s at most; if its values are in ms, divide them by 1000"
        )
    if trace.kind == "loss" and mean >= 0.5:
        found.append(f"it loses {mean:.0%} in the mean: losses are ratios; if these are percent, divide them by 100")
    widths = np.diff(trace.times_seconds, append=trace.duration_seconds)
    middle = float(np.median(widths))
    if len(trace) >= _SEVERAL and middle >= _LONG_STEP_SECONDS:
        found.append(f"its steps are {middle:g} s long; if its times are in ms, divide them by 1000")
    rate = len(trace) / trace.duration_seconds
    if len(trace) >= _SEVERAL and rate > _MOST_STEPS_PER_SECOND:
        found.append(
            f"it has {rate:.0f} steps a second: above {_MOST_STEPS_PER_SECOND:.0f} wires may be late; "
            f"`testbed trace import --bin '10 ms'` makes it coarser"
        )
    return found


def outage(trace: Trace, up: Floats, down: Floats, floor_bits_per_second: float, *, mahimahi: bool = False) -> str:
    """What a floor makes of a link whose rates are ``up`` and ``down`` in the trace's steps, bit/s, shape (steps,).

    Empty unless most of the time is an outage. ``mahimahi``: the trace's file holds times, not rates.
    """
    widths = np.diff(trace.times_seconds, append=trace.duration_seconds)

    def described(number: Callable[[Floats], float], text: Callable[[float], str]) -> str:
        return f"{text(number(up))} up and {text(number(down))} down"

    def under(values: Floats) -> float:
        return float(widths[values < floor_bits_per_second].sum() / trace.duration_seconds)

    def mean(values: Floats) -> float:
        return float(values @ widths / trace.duration_seconds)

    def peak(values: Floats) -> float:
        return float(values.max())

    if max(under(up), under(down)) <= 0.5:
        return ""
    text = (
        f"it is under the outage floor of {BIT_RATE.format(floor_bits_per_second)} for "
        f"{described(under, '{:.0%}'.format)} of its time; mean {described(mean, _rate)}, peak {described(peak, _rate)}"
    )
    if mahimahi:
        text += "; its lines are times in ms, one per 1504 bytes: divide times in us by 1000; a rate is none"
    elif trace.kind == "rate":
        low = min(mean(up), mean(down))
        for factor, unit in ((1e3, "kbit/s"), (1e6, "Mbit/s")):
            if low and low * factor >= floor_bits_per_second:
                text += f"; if its values are in {unit}, multiply them by {factor:.0f}"
                text += f" (`testbed trace import --unit {unit}`)"
                break
    elif trace.kind == "gain":
        text += "; its gains are linear: -120 dB are 1e-12"
    return text


def _rate(bits_per_second: float) -> str:
    return BIT_RATE.format(float(f"{bits_per_second:.3g}"))

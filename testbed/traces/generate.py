"""Traces from a channel law: the same seed gives the same trace, byte for byte."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from controller.model.channel import Channel, gain_series
from testbed.traces.trace import MAX_STEPS, Trace

DEFAULT_STEP_SECONDS = 0.1


def generate(
    channels: Sequence[Channel],
    duration_seconds: float,
    seed: int,
    *,
    step_seconds: float = DEFAULT_STEP_SECONDS,
    ue_indices: Sequence[int] | None = None,
) -> list[Trace]:
    """One gain trace per channel. A UE's trace depends on ``seed`` and its index only (default: its place).

    A static channel without shadowing is one step. Raises ValueError for a duration or step that is not positive, and
    for more than MAX_STEPS steps.
    """
    if not (0 < duration_seconds < math.inf and 0 < step_seconds < math.inf):
        raise ValueError("duration and step of a trace are above 0")
    if duration_seconds / step_seconds > MAX_STEPS:
        raise ValueError(
            f"{duration_seconds:g} s in steps of {step_seconds:g} s are more than the {MAX_STEPS} steps that a trace "
            f"may have: shorten the duration or take a longer step"
        )
    count = max(1, math.ceil(duration_seconds / step_seconds - 1e-9))
    times = np.arange(count, dtype=np.float64) * step_seconds
    # nothing amplifies: the law has no near field, and a few metres with shadowing can come out above 1
    up, down = (np.minimum(gains, 1.0) for gains in gain_series(channels, times, seed, ue_indices))
    traces = []
    for column, channel in enumerate(channels):
        steps = 1 if channel.fading == "static" and channel.shadowing is None else count
        traces.append(Trace(times[:steps], up[:steps, column], down[:steps, column], "gain", duration_seconds))
    return traces


def describe(channel: Channel) -> str:
    """One line for the header of a trace file."""
    parts: list[str] = [channel.fading]
    if channel.fading != "static":
        parts.append(f"Doppler {channel.doppler_hz:g} Hz")
    if channel.fading == "rician":
        parts.append(f"K {channel.k_factor:g}")
    parts.append(f"{channel.distance_meters:g} m")
    if channel.shadowing is not None:
        shadowing = channel.shadowing
        parts.append(f"shadowing {shadowing.sigma_db:g} dB, rho {shadowing.rho:g} per {shadowing.interval_seconds:g} s")
    return ", ".join(parts)

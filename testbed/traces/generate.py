"""Traces from a channel law: the same seed gives the same trace, byte for byte."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from controller.model.channel import Channel, gain_series
from testbed.traces.trace import Trace

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

    A static channel without shadowing is one step. Raises ValueError for a duration or step that is not positive.
    """
    if not (0 < duration_seconds < math.inf and 0 < step_seconds < math.inf):
        raise ValueError("duration and step of a trace are above 0")
    count = max(1, math.ceil(duration_seconds / step_seconds - 1e-9))
    times = np.arange(count, dtype=np.float64) * step_seconds
    gains = gain_series(channels, times, seed, ue_indices)
    traces = []
    for column, channel in enumerate(channels):
        steps = 1 if channel.fading == "static" and channel.shadowing is None else count
        traces.append(
            Trace(times[:steps], gains.up[:steps, column], gains.down[:steps, column], "gain", duration_seconds)
        )
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

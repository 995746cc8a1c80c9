"""The channel's linear power gain over time: path loss, shadowing, small-scale fading.

``gain(t) = path_gain(distance) * 10 ** (shadowing_db / 10) * |h(t)| ** 2`` with ``E |h|^2 = 1``.

Fading is a sum of sinusoids (Zheng and Xiao, "Simulation models with correct statistical properties for Rayleigh
fading channels", IEEE Trans. Commun. 51(6), 2003), not an AR(1) process with coefficient ``J0(2 pi f T)``: an AR(1)
has the right correlation only at a lag of one step and decays geometrically after it, and what it gives depends on the
step. The sum has the autocorrelation ``J0(2 pi f tau)`` at every lag and can be sampled at any step, so a trace with a
finer step is the same channel seen more often. The price: with ``SINUSOIDS`` terms the power is almost, not exactly,
exponential (``E |h|^4 = 2 - 1/SINUSOIDS`` instead of 2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controller.seeds import Purpose, generator

Fading = Literal["static", "rayleigh", "rician"]
Floats = NDArray[np.float64]

SINUSOIDS = 64
#: tells a UE's draw over subchannels from its fading over time
_OVER_FREQUENCY = 1
#: samples x sinusoids that are in memory at once
_BLOCK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Shadowing:
    """Log-normal shadowing that is constant for ``interval_seconds`` (a slot) and an AR(1) from one to the next.

    In dB ``s[k+1] = rho s[k] + sqrt(1 - rho^2) sigma e[k]``, stationary from the start; ``clip_db`` bounds |s|.
    """

    sigma_db: float
    rho: float
    interval_seconds: float
    clip_db: float = math.inf

    def __post_init__(self) -> None:
        if not self.sigma_db >= 0 or not 0 <= self.rho <= 1 or not self.interval_seconds > 0 or not self.clip_db >= 0:
            raise ValueError(f"shadowing needs sigma >= 0, 0 <= rho <= 1, interval > 0 and clip >= 0: {self}")


@dataclass(frozen=True)
class Channel:
    """One UE's channel law; the same in both directions."""

    distance_meters: float
    fading: Fading = "static"
    #: maximum Doppler shift; 0: one draw for the whole series; inf: independent from step to step
    doppler_hz: float = 0.0
    #: rician only: power of the line of sight over that of the scattered paths, linear
    k_factor: float = 0.0
    shadowing: Shadowing | None = None

    def __post_init__(self) -> None:
        if not self.distance_meters > 0 or not self.doppler_hz >= 0 or not self.k_factor >= 0:
            raise ValueError(f"a channel needs distance > 0, Doppler >= 0 and K >= 0: {self}")


class Gains(NamedTuple):
    """Linear power gains, shape (steps, UEs)."""

    up: Floats
    down: Floats


def path_loss_db(distance_meters: ArrayLike) -> Floats:
    """``128.1 + 37.6 log10(d / km)``: the macro cell of 3GPP TR 36.814 (2 GHz), as most papers of the field use it."""
    return np.asarray(128.1 + 37.6 * np.log10(np.asarray(distance_meters, dtype=np.float64) / 1000.0))


def path_gain(distance_meters: ArrayLike) -> Floats:
    """Linear power gain of :func:`path_loss_db`."""
    return np.asarray(10.0 ** (-path_loss_db(distance_meters) / 10.0))


def mean_gain(channel: Channel) -> float:
    """Long-term mean of the gain, in closed form: shadowing has its median, not its mean, at 1."""
    gain = float(path_gain(channel.distance_meters))
    if channel.shadowing is None:
        return gain
    return gain * mean_shadowing(channel.shadowing.sigma_db, channel.shadowing.clip_db)


def mean_shadowing(sigma_db: float, clip_db: float = math.inf) -> float:
    """``E[10^(s/10)]`` of shadowing ``s`` that is normal in dB and clipped at either sign."""
    if sigma_db == 0:
        return 1.0
    sigma, clip = (value * math.log(10.0) / 10.0 for value in (sigma_db, clip_db))  # of the natural logarithm
    if math.isinf(clip):
        return math.exp(sigma**2 / 2)
    inside = math.exp(sigma**2 / 2) * (_normal_cdf(clip / sigma - sigma) - _normal_cdf(-clip / sigma - sigma))
    return inside + (math.exp(clip) + math.exp(-clip)) * _normal_cdf(-clip / sigma)


def fading_power(
    times_seconds: Floats, doppler_hz: float, rng: np.random.Generator, *, k_factor: float = 0.0
) -> Floats:
    """``|h(t)|^2`` of mean 1, shape of ``times_seconds``: Rayleigh for ``k_factor`` 0, else Rician."""
    if math.isinf(doppler_hz):
        real, imaginary = rng.standard_normal((2, times_seconds.size)) * math.sqrt(0.5)
        sight = np.exp(1j * rng.uniform(-np.pi, np.pi, times_seconds.size))
    else:
        angles = (2 * np.pi * np.arange(SINUSOIDS) + rng.uniform(-np.pi, np.pi)) / SINUSOIDS
        phases = rng.uniform(-np.pi, np.pi, SINUSOIDS)
        speeds = 2 * np.pi * doppler_hz * np.cos(angles)
        real, imaginary = np.empty((2, times_seconds.size))
        rows = max(1, _BLOCK_ELEMENTS // SINUSOIDS)
        for start in range(0, times_seconds.size, rows):
            arguments = np.outer(times_seconds[start : start + rows], speeds) + phases
            real[start : start + rows] = np.cos(arguments).sum(axis=1)
            imaginary[start : start + rows] = np.sin(arguments).sum(axis=1)
        real, imaginary = real / math.sqrt(SINUSOIDS), imaginary / math.sqrt(SINUSOIDS)
        arrival, phase = rng.uniform(-np.pi, np.pi, 2)
        sight = np.exp(1j * (2 * np.pi * doppler_hz * math.cos(arrival) * times_seconds + phase))
    scattered_part, sight_part = math.sqrt(1 / (k_factor + 1)), math.sqrt(k_factor / (k_factor + 1))
    return np.asarray(
        (scattered_part * real + sight_part * sight.real) ** 2
        + (scattered_part * imaginary + sight_part * sight.imag) ** 2
    )


def shadowing_db(intervals: int, shadowing: Shadowing, rng: np.random.Generator) -> Floats:
    """The AR(1) of :class:`Shadowing`, one value in dB per interval. Clipping does not feed back."""
    innovations = rng.standard_normal(intervals) * shadowing.sigma_db
    values = np.empty(intervals)
    innovation_part = math.sqrt(1 - shadowing.rho**2)
    value = 0.0
    for k, innovation in enumerate(innovations.tolist()):
        value = innovation if k == 0 else shadowing.rho * value + innovation_part * innovation
        values[k] = value
    return np.clip(values, -shadowing.clip_db, shadowing.clip_db)


def gain_series(
    channels: Sequence[Channel], times_seconds: ArrayLike, seed: int, ue_indices: Sequence[int] | None = None
) -> Gains:
    """Gains of every UE at the given times, shapes (len(times), len(channels)).

    A UE's series depends on ``seed`` and its index only (default: its place in ``channels``), not on the other UEs.
    Fading is independent between uplink and downlink (two carriers); shadowing is common to both.
    """
    times = np.asarray(times_seconds, dtype=np.float64)
    indices = range(len(channels)) if ue_indices is None else ue_indices
    up, down = np.empty((2, times.size, len(channels)))
    for column, (channel, index) in enumerate(zip(channels, indices, strict=True)):
        large_scale = np.full(times.size, float(path_gain(channel.distance_meters)))
        if channel.shadowing is not None and times.size:
            # the small term keeps a time that is a multiple of the interval, but for rounding, in its own interval
            intervals = np.floor(times / channel.shadowing.interval_seconds + 1e-9).astype(np.int64)
            rng = generator(seed, Purpose.SHADOWING, index)
            large_scale *= 10.0 ** (shadowing_db(int(intervals.max()) + 1, channel.shadowing, rng)[intervals] / 10.0)
        for direction, purpose in ((up, Purpose.CHANNEL_UP), (down, Purpose.CHANNEL_DOWN)):
            if channel.fading == "static":
                direction[:, column] = large_scale
                continue
            k_factor = channel.k_factor if channel.fading == "rician" else 0.0
            rng = generator(seed, purpose, index)
            direction[:, column] = large_scale * fading_power(times, channel.doppler_hz, rng, k_factor=k_factor)
    return Gains(up, down)


def subchannel_ratios(subchannels: int, seed: int, ue_index: int) -> Gains:
    """A UE's gain on each subchannel over its channel state, shapes (subchannels,): exponential of mean 1.

    Rayleigh fading over frequency, independent from one subchannel to the next and drawn once per run; what the channel
    does over time is common to all of them [our choice].
    """
    up, down = (
        generator(seed, purpose, ue_index, _OVER_FREQUENCY).exponential(size=subchannels)
        for purpose in (Purpose.CHANNEL_UP, Purpose.CHANNEL_DOWN)
    )
    return Gains(up, down)


def _normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))

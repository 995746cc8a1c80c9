"""Sampled paths of a channel over the seconds that a task lasts: what a stop that ends with an upload is averaged over.

A rate that a UE sees is the start of a path, not a constant: while the upload lasts, fading goes on and shadowing may
change. The paths are those of :mod:`controller.model.channel` - the same steps, slots and laws - drawn from a fixed
seed, so that everybody who asks gets the same ones.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.contract import Scenario, UeScenario
from controller.model.channel import Shadowing, mean_shadowing

Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]

#: Paths per law. The mean of an upload under Rayleigh fading and 8 dB of shadowing is then known to 1-2 %.
PATHS = 8192
#: Elements of the matrix of a direction.
_MOST_ELEMENTS = 1 << 22
#: Of a Doppler period: between samples this near, the complex gain is a straight line to 0.2 %.
_SMOOTH_PERIODS = 0.02
#: Of the periodic series that windows are cut from: 2,600 or more Doppler periods.
_SERIES_SAMPLES = 1 << 18
_SEED = 2105_13618


@dataclass(frozen=True)
class ChannelPaths:
    """Channel states over the long-term mean, (steps, paths): step i holds for ``step_seconds``."""

    step_seconds: float
    up: Floats
    down: Floats
    starts_seconds: Floats  # (paths,): when the task begins, within the first step


def channel_paths(scenario: Scenario, ue_index: int, horizon_seconds: float) -> ChannelPaths:
    """Paths of a UE's channel that changes in time, for at least ``horizon_seconds`` if memory holds them.

    Raises ValueError for a channel whose law is not known before a run.
    """
    ue = scenario.ues[ue_index]
    if ue.fading not in ("static", "rayleigh", "rician"):
        raise ValueError(
            f"{ue.name}: the law of a channel of kind {ue.fading!r} is not known before a run; allowed: fading "
            f"static, rayleigh or rician, with or without shadowing. Use a policy that needs no law, such as "
            f"neurosurgeon"
        )
    shadowing = None
    if ue.shadowing is not None:
        law = ue.shadowing
        shadowing = Shadowing(law.sigma_db, law.rho, scenario.slot_seconds, law.clip_db)
    steps = 1 << max(4, math.ceil(math.log2(horizon_seconds / ue.channel_step_seconds + 2)))
    return _sampled(_Law.of(ue, shadowing), min(steps, _MOST_ELEMENTS // PATHS))


@dataclass(frozen=True)
class _Law:
    """What the paths of a UE depend on; UEs that are alike share them."""

    fading: str
    doppler_hz: float
    k_factor: float
    shadowing: Shadowing | None
    step_seconds: float

    @classmethod
    def of(cls, ue: UeScenario, shadowing: Shadowing | None) -> _Law:
        fades = ue.fading != "static"
        k_factor = ue.k_factor if ue.fading == "rician" else 0.0
        return cls(ue.fading, ue.doppler_hz if fades else 0.0, k_factor, shadowing, ue.channel_step_seconds)


@functools.lru_cache(maxsize=2)
def _sampled(law: _Law, steps: int) -> ChannelPaths:
    rng = np.random.default_rng(_SEED)
    if law.fading == "static" and law.shadowing is None:
        return ChannelPaths(law.step_seconds, np.ones((1, 1)), np.ones((1, 1)), np.zeros(1))
    starts = rng.uniform(0.0, law.step_seconds, PATHS)
    up, down = np.ones((2, steps, PATHS))
    if law.shadowing is not None:
        up *= _shadowing(law.shadowing, law.step_seconds, steps, rng)
        down *= up
    if law.fading != "static":
        for direction in (up, down):
            direction *= _fading(law, steps, rng)
    for direction in (up, down):
        direction.setflags(write=False)
    return ChannelPaths(law.step_seconds, up, down, starts)


def _shadowing(law: Shadowing, step_seconds: float, steps: int, rng: np.random.Generator) -> Floats:
    """``10^(s/10)`` over its mean, (steps, PATHS). The first value lies in the middle of each of as many quantiles."""
    from scipy.special import ndtri

    into_slot = rng.uniform(0.0, law.interval_seconds, PATHS)
    last = int((steps * step_seconds) / law.interval_seconds) + 2
    levels = np.empty((last, PATHS))
    levels[0] = rng.permutation(ndtri((np.arange(PATHS) + 0.5) / PATHS))
    for slot in range(1, last):
        innovation = rng.standard_normal(PATHS)
        levels[slot] = law.rho * levels[slot - 1] + math.sqrt(1.0 - law.rho**2) * innovation
    ratios = 10.0 ** (np.clip(law.sigma_db * levels, -law.clip_db, law.clip_db) / 10.0)
    ratios /= mean_shadowing(law.sigma_db, law.clip_db)
    times = np.arange(steps)[:, np.newaxis] * step_seconds + into_slot
    slots = (times / law.interval_seconds).astype(np.int64)
    return np.asarray(np.take_along_axis(ratios, slots, axis=0))


def _fading(law: _Law, steps: int, rng: np.random.Generator) -> Floats:
    """``|h|^2`` of mean 1, (steps, PATHS)."""
    scattered = _scattered(law.doppler_hz, law.step_seconds, steps, rng)
    if law.k_factor == 0.0:
        return np.asarray(scattered.real**2 + scattered.imag**2)
    times = np.arange(steps)[:, np.newaxis] * law.step_seconds
    phases = rng.uniform(-np.pi, np.pi, (steps if math.isinf(law.doppler_hz) else 1, PATHS))
    if not math.isinf(law.doppler_hz):
        arrivals = rng.uniform(-np.pi, np.pi, PATHS)
        phases = phases + 2 * np.pi * law.doppler_hz * np.cos(arrivals) * times
    whole = math.sqrt(1 / (law.k_factor + 1)) * scattered
    whole = whole + math.sqrt(law.k_factor / (law.k_factor + 1)) * np.exp(1j * phases)
    return np.asarray(whole.real**2 + whole.imag**2)


def _scattered(doppler_hz: float, step_seconds: float, steps: int, rng: np.random.Generator) -> Complexes:
    """Complex Gaussian gain of mean power 1 with autocorrelation ``J0(2 pi f tau)``: windows of one long series."""
    if doppler_hz == 0.0 or math.isinf(doppler_hz):
        return _complex_normal(rng, (steps if doppler_hz else 1, PATHS))
    grid = max(step_seconds, _SMOOTH_PERIODS / doppler_hz)
    series = jakes_series(_SERIES_SAMPLES, doppler_hz * grid, rng)
    offsets = rng.permutation(np.arange(PATHS) * (_SERIES_SAMPLES // PATHS))
    if grid == step_seconds:
        return np.asarray(series[(np.arange(steps)[:, np.newaxis] + offsets) % _SERIES_SAMPLES])
    at = np.arange(steps)[:, np.newaxis] * (step_seconds / grid) + offsets
    low = at.astype(np.int64)
    part = at - low
    return np.asarray((1 - part) * series[low % _SERIES_SAMPLES] + part * series[(low + 1) % _SERIES_SAMPLES])


def jakes_series(samples: int, doppler_periods: float, rng: np.random.Generator) -> Complexes:
    """A periodic complex Gaussian series of mean power 1 with the Doppler spectrum of Jakes, by its Fourier transform.

    ``doppler_periods`` is the maximum Doppler shift times the time between samples; above 1/2 the spectrum folds, as
    that of the sampled channel does.
    """
    last = math.ceil(doppler_periods * samples) + 1
    bins = np.arange(-last, last + 1)
    edges = np.clip((np.arange(-last, last + 2) - 0.5) / (doppler_periods * samples), -1.0, 1.0)
    power = np.bincount(bins % samples, np.diff(np.arcsin(edges)) / np.pi, minlength=samples)
    return np.asarray(np.fft.ifft(np.sqrt(power) * _complex_normal(rng, (samples,))) * samples)


def _complex_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Complexes:
    real, imaginary = rng.standard_normal((2, *shape)) * math.sqrt(0.5)
    return np.asarray(real + 1j * imaginary)

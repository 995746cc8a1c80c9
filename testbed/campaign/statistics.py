"""Repeated runs: means with intervals, paired differences, ratios, and how many seeds a claim would need.

Seeds are independent repetitions, so intervals are over their means: Student's t, and the bootstrap, which does not
take them for normal (Efron and Tibshirani, An Introduction to the Bootstrap, 1993: percentiles of resampled means; of
pairs, pairs are resampled). All intervals are of 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from testbed.report.fidelity.intervals import student_quantile

CONFIDENCE = 0.95
#: Of a claim: the chance that a difference as large as the one seen would be found.
POWER = 0.8
RESAMPLES = 5000
MAX_SEEDS = 100_000

Interval = tuple[float, float]


class Estimate(msgspec.Struct, frozen=True):
    """A mean over repetitions; intervals are None with fewer than two."""

    n: int
    mean: float
    t: Interval | None
    bootstrap: Interval | None


class Comparison(msgspec.Struct, frozen=True):
    """Of a policy with the baseline over repetitions that both have."""

    difference: Estimate  # policy minus baseline
    ratio: float | None  # of the means; None with a baseline of 0
    ratio_bootstrap: Interval | None
    seeds_needed: int | None  # None: more than MAX_SEEDS, or not to be told from fewer than two


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and its intervals. Raises ValueError without a value."""
    sample = np.asarray(values, dtype=np.float64)
    if not sample.size:
        raise ValueError("the mean of nothing")
    mean = float(sample.mean())
    if sample.size < 2:
        return Estimate(int(sample.size), mean, None, None)
    half = student_quantile((1 + CONFIDENCE) / 2, sample.size - 1) * float(sample.std(ddof=1)) / np.sqrt(sample.size)
    means = sample[_resampled(sample.size)].mean(axis=1)
    return Estimate(int(sample.size), mean, (mean - float(half), mean + float(half)), _middle(means))


def compare_pairs(values: Sequence[float], baseline: Sequence[float]) -> Comparison:
    """Element by element. Raises ValueError for sequences of unequal lengths, or empty ones."""
    ours, theirs = np.asarray(values, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"{ours.size} values cannot be paired with {theirs.size}")
    differences = ours - theirs
    reference = float(theirs.mean()) if theirs.size else 0.0
    interval = None
    if ours.size > 1 and (theirs > 0).all():
        draws = _resampled(ours.size)
        interval = _middle(ours[draws].mean(axis=1) / theirs[draws].mean(axis=1))
    return Comparison(
        difference=estimate(differences.tolist()),
        ratio=float(ours.mean()) / reference if reference else None,
        ratio_bootstrap=interval,
        seeds_needed=seeds_needed(differences),
    )


def seeds_needed(differences: NDArray[np.float64]) -> int | None:
    """The least number of pairs at which a difference like this, if it is real, is told from 0 with probability POWER.

    n with (t(0.975, n-1) + t(POWER, n-1)) s / sqrt(n) <= |mean|: the two-sided paired t-test's size, with Student's
    quantiles for the normal ones (Montgomery, Design and Analysis of Experiments). None for fewer than two pairs,
    for no difference at all, and beyond MAX_SEEDS.

    >>> seeds_needed(np.array([1.0, 1.2, 0.8, 1.1])), seeds_needed(np.array([0.1, -0.1]))
    (3, None)
    """
    mean = abs(float(differences.mean())) if differences.size else 0.0
    if differences.size < 2 or mean == 0:
        return None
    effect = float(differences.std(ddof=1)) / mean

    def enough(n: int) -> bool:
        both = student_quantile((1 + CONFIDENCE) / 2, n - 1) + student_quantile(POWER, n - 1)
        return both * effect <= math.sqrt(n)

    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if high > MAX_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _resampled(size: int) -> NDArray[np.int64]:
    """(RESAMPLES, size) indices, the same for every sample of a size: figures are repeated bit for bit."""
    return np.random.default_rng(size).integers(0, size, (RESAMPLES, size))


def _middle(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)

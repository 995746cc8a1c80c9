"""Quantiles and intervals of :mod:`scipy.stats`, of the special functions that they are made of.

Importing ``scipy.stats`` takes more than half a second, of every command that judges a run.
"""

from __future__ import annotations

import math

from scipy.special import bdtr, bdtrik, betaincinv, stdtrit


def binomial_quantile(probability: float, trials: int, success: float) -> int:
    """The least number of successes in ``trials`` that is not exceeded with ``probability``; ``success`` is above 0.

    >>> binomial_quantile(0.95, 50, 0.01)
    2
    """
    number = math.ceil(bdtrik(probability, trials, success))  # of a smooth function through the distribution
    fewer = max(number - 1, 0)
    return fewer if bdtr(fewer, trials, success) >= probability else number


def student_quantile(probability: float, degrees: int) -> float:
    """Of Student's distribution with so many degrees of freedom.

    >>> round(student_quantile(0.975, 9), 3)
    2.262
    """
    return float(stdtrit(degrees, probability))


def ratio_interval(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Bounds of a binomial proportion after Clopper and Pearson (Biometrika 26, 1934), as ``binomtest`` gives them.

    >>> low, high = ratio_interval(7, 50, 0.95)
    >>> round(low, 5), round(high, 5)
    (0.05819, 0.2674)
    """
    tail = (1 - confidence) / 2
    low = betaincinv(successes, trials - successes + 1, tail) if successes else 0.0
    high = betaincinv(successes + 1, trials - successes, 1 - tail) if successes < trials else 1.0
    return float(low), float(high)

"""What is computed of special functions is what :mod:`scipy.stats` says."""

from __future__ import annotations

import pytest
from scipy import stats

from testbed.report.fidelity.intervals import binomial_quantile, ratio_interval, student_quantile


@pytest.mark.parametrize("trials", [1, 2, 10, 50, 1000, 10**6])
@pytest.mark.parametrize("success", [1e-6, 0.01, 1 - 0.99, 0.1, 0.5, 0.99, 1.0])
def test_quantiles_of_the_binomial_distribution(trials: int, success: float) -> None:
    for probability in (0.5, 0.95, 0.999):
        assert binomial_quantile(probability, trials, success) == stats.binom.ppf(probability, trials, success)


@pytest.mark.parametrize("trials", [1, 7, 100, 10**5])
@pytest.mark.parametrize("confidence", [0.95, 0.99, 1 - 1e-6])
def test_intervals_of_a_ratio(trials: int, confidence: float) -> None:
    for successes in {0, 1, trials // 3, trials - 1, trials}:
        expected = stats.binomtest(successes, trials).proportion_ci(confidence)
        found = ratio_interval(successes, trials, confidence)
        assert found == pytest.approx((expected.low, expected.high), abs=1e-10)


def test_quantiles_of_student() -> None:
    for degrees in (1, 3, 9, 100):
        assert student_quantile(0.975, degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-12)

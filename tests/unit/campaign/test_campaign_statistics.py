"""Statistics of repeated runs against scipy's, and tables that LaTeX takes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from testbed.campaign.measures import jain_index
from testbed.campaign.statistics import POWER, compare_pairs, estimate, seeds_needed
from testbed.campaign.tables import Table

RNG = np.random.default_rng(4)
OURS, THEIRS = RNG.normal(1.0, 0.2, 12), RNG.normal(1.3, 0.2, 12)


def test_intervals_are_scipys() -> None:
    found = estimate(OURS.tolist())
    reference = scipy.stats.ttest_1samp(OURS, 0).confidence_interval(0.95)
    assert found.t == pytest.approx((reference.low, reference.high))
    bootstrap = scipy.stats.bootstrap((OURS,), np.mean, method="percentile", n_resamples=20_000).confidence_interval
    assert found.bootstrap == pytest.approx((bootstrap.low, bootstrap.high), abs=0.02)


def test_pairs_are_a_paired_test() -> None:
    found = compare_pairs(OURS.tolist(), THEIRS.tolist())
    reference = scipy.stats.ttest_rel(OURS, THEIRS).confidence_interval(0.95)
    assert found.difference.t == pytest.approx((reference.low, reference.high))
    assert found.ratio == pytest.approx(OURS.mean() / THEIRS.mean())
    assert found.ratio_bootstrap is not None
    assert found.ratio_bootstrap[0] < found.ratio < found.ratio_bootstrap[1]


def test_what_is_common_to_pairs_cancels() -> None:
    shift = RNG.normal(0, 100, 12)
    alone = compare_pairs(OURS.tolist(), THEIRS.tolist()).difference
    shifted = compare_pairs((OURS + shift).tolist(), (THEIRS + shift).tolist()).difference
    assert shifted.t == pytest.approx(alone.t)


def test_the_number_of_seeds_has_the_power_that_it_promises() -> None:
    """By the noncentral t distribution of a two-sided paired test, whose quantiles ours stand for."""
    differences = np.array([0.5, -0.4, 0.9, 0.3, 0.1, 0.6])
    n = seeds_needed(differences)
    assert n is not None
    effect = differences.mean() / differences.std(ddof=1)

    def power(size: int) -> float:
        limit = scipy.stats.t.ppf(0.975, size - 1)
        return float(scipy.stats.nct.sf(limit, size - 1, effect * np.sqrt(size)))

    assert power(n) >= POWER - 0.02
    assert power(n - 2) < POWER


def test_too_little_to_say_anything() -> None:
    assert estimate([2.0]).t is None
    assert seeds_needed(np.array([1.0])) is None
    assert seeds_needed(np.array([1.0, -1.0])) is None
    assert seeds_needed(np.array([1.0, 1.0])) == 2
    assert compare_pairs([1.0], [0.0]).ratio is None
    with pytest.raises(ValueError, match="paired"):
        compare_pairs([1.0], [1.0, 2.0])


def test_fairness() -> None:
    assert jain_index(np.array([3.0, 3.0, 3.0])) == pytest.approx(1.0)
    assert jain_index(np.array([1.0, 0.0, 0.0, 0.0])) == pytest.approx(0.25)
    assert jain_index(np.array([])) is None


def test_tables_in_words_that_latex_and_markdown_take() -> None:
    table = Table(("policy", "a_b [%]"), (("x|y", "1 ± 2"), ("{v}", "≥ 3")), 1)
    assert table.latex() == (
        "\\begin{tabular}{lr}\n\\toprule\npolicy & a\\_b [\\%] \\\\\n\\midrule\n"
        "x|y & 1 $\\pm$ 2 \\\\\n\\{v\\} & $\\geq$ 3 \\\\\n\\bottomrule\n\\end{tabular}\n"
    )
    assert table.markdown().splitlines() == [
        "| policy | a_b [%] |",
        "| --- | ---: |",
        "| x\\|y | 1 ± 2 |",
        "| {v} | ≥ 3 |",
    ]

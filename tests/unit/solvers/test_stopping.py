"""Optimal stopping against exhaustive search, and the numbers that our reconstruction is known to give."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from controller.model.cuts import merged_points
from controller.solvers.stopping.stopping import (
    PathCosts,
    StoppingCosts,
    StoppingRule,
    backward_induction,
    gates_cost,
    genie_cost,
    look_ahead,
    look_ahead_on_paths,
    path_induction,
    place,
    place_equal_layers,
    rule_cost,
)

UPLINK_HZ, DOWNLINK_RATE, UPLOAD_COST = 2e6, 20e6, 1.1  # 0.1 W, a second and a joule cost 1 each
PLACEMENT_COST = 1.1  # of a second of download: the receiver's 0.1 W
POWER = 0.05 + -np.log1p(-(np.arange(2000) + 0.5) / 2000)  # quantile mid-points of a floored exponential


def inverse_rates(snr_db: float) -> np.ndarray:
    return 1 / (UPLINK_HZ * np.log2(1 + 10 ** (snr_db / 10) * POWER))


def layered(cycles: np.ndarray, bits: np.ndarray, device_hz: float, edge_hz: float, kappa: float) -> StoppingCosts:
    """A chain of layers: ``cycles`` (L,), ``bits`` (L + 1,) with the input first."""
    edge = np.concatenate([np.cumsum((cycles / edge_hz)[::-1])[::-1], [0.0]])
    slope = UPLOAD_COST * bits
    slope[-1] = 0.0  # the last layer's answer is local
    return StoppingCosts(cycles / device_hz + kappa * cycles * device_hz**2, slope, edge)


def downloads(weight_bits: np.ndarray) -> np.ndarray:
    return PLACEMENT_COST * np.concatenate([[0.0], np.cumsum(weight_bits)]) / DOWNLINK_RATE


class Mlp:
    """20 equal layers at a mean SNR of 10 dB."""

    layers = 20
    rates = inverse_rates(10)
    costs = layered(np.full(20, 2e7), np.full(21, 2e5), 1e9, 20e9, 1e-27)
    downloads = downloads(np.full(20, 8e6))


class AlexNet:
    """The 11 layers of torchvision's AlexNet on a 224 x 224 image; 8 bit values on the wire, 32 bit weights."""

    macs = np.array(
        [
            64 * 55 * 55 * 363, 0, 192 * 27 * 27 * 1600, 0, 384 * 169 * 1728, 256 * 169 * 3456, 256 * 169 * 2304, 0,
            9216 * 4096, 4096 * 4096, 4096 * 1000,
        ],
        dtype=float,
    )  # fmt: skip
    values = np.array(
        [3 * 224 * 224, 64 * 55 * 55, 64 * 27 * 27, 192 * 27 * 27, 192 * 169, 384 * 169, 256 * 169, 256 * 169, 256 * 36,
         4096, 4096, 1000],
        dtype=float,
    )  # fmt: skip
    weights = np.array(
        [64 * 363 + 64, 0, 192 * 1600 + 192, 0, 384 * 1728 + 384, 256 * 3456 + 256, 256 * 2304 + 256, 0,
         9216 * 4096 + 4096, 4096 * 4096 + 4096, 4096 * 1000 + 1000],
        dtype=float,
    )  # fmt: skip
    costs = layered(2 * macs, 8 * values, 2e9, 50e9, 1e-28)
    downloads = downloads(32 * weights)

    @classmethod
    def merged(cls) -> tuple[StoppingCosts, np.ndarray]:
        points = merged_points(cls.values.tolist())
        cycles = np.array([2 * cls.macs[a:b].sum() for a, b in itertools.pairwise(points)])
        weights = np.array([32 * cls.weights[a:b].sum() for a, b in itertools.pairwise(points)])
        return layered(cycles, 8 * cls.values[list(points)], 2e9, 50e9, 1e-28), downloads(weights)


def rules(costs: StoppingCosts, rates: np.ndarray, solve: object = backward_induction) -> list[StoppingRule]:
    return [solve(costs, n, rates) for n in range(costs.stages + 1)]  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------- the known numbers


def test_equal_layers_stop_probability_and_gain() -> None:
    form = place_equal_layers(20, *mlp_numbers(), 100)
    assert form.stop_probability == pytest.approx(0.908, abs=5e-4)
    assert form.gain == pytest.approx(3.2036e-3, abs=5e-8)


def mlp_numbers() -> tuple[float, float, float, np.ndarray, float]:
    costs = Mlp.costs
    return float(costs.run[0]), 2e7 / 20e9, float(costs.slope[0]), Mlp.rates, float(Mlp.downloads[1])


@pytest.mark.parametrize(("inferences", "placed"), [(10, 0), (100, 0), (1000, 1), (10000, 2)])
def test_the_closed_form_is_what_both_searches_find(inferences: float, placed: int) -> None:
    form = place_equal_layers(20, *mlp_numbers(), inferences)
    by_look_ahead = place(rules(Mlp.costs, Mlp.rates, look_ahead), Mlp.downloads, inferences)
    by_induction = place(rules(Mlp.costs, Mlp.rates), Mlp.downloads, inferences)
    assert (form.placed, by_look_ahead.placed, by_induction.placed) == (placed, placed, placed)
    best = by_induction.total[placed]
    assert by_look_ahead.total[placed] <= best * (1 + 2.1e-4)  # 0.02 %
    recursion = [rule.cost for rule in rules(Mlp.costs, Mlp.rates, look_ahead)[:20]]
    np.testing.assert_allclose(form.expected, recursion, rtol=0, atol=2e-16)


@pytest.mark.parametrize(
    ("snr_db", "placed", "over_edge_only", "look_ahead_gap"),
    [
        (0, (4, 4, 8, 8), (2.9, 3.1), (0.56, 0.66)),
        (5, (2, 4, 4, 5), (1.9, 2.0), (0.29, 0.32)),
        (10, (2, 2, 2, 2), (1.4, 1.4), (0.16, 0.17)),
        (20, (2, 2, 2, 2), (1.01, 1.03), (0.01, 0.03)),
    ],
)
def test_alexnet_on_raw_layers(
    snr_db: float, placed: tuple[int, ...], over_edge_only: tuple[float, float], look_ahead_gap: tuple[float, float]
) -> None:
    rates = inverse_rates(snr_db)
    optimal, short = rules(AlexNet.costs, rates), rules(AlexNet.costs, rates, look_ahead)
    gains, gaps = [], []
    for inferences, expected in zip((20, 200, 2000, 20000), placed, strict=True):
        best = place(optimal, AlexNet.downloads, inferences)
        assert best.placed == expected
        least = best.total[best.placed]
        gains.append(best.total[0] / least)
        gaps.append(place(short, AlexNet.downloads, inferences).total.min() / least - 1)
    # as printed in the table that these come from: two digits of a gain, whole percents of a gap
    assert (round(min(gains), 2 if snr_db == 20 else 1), round(max(gains), 2 if snr_db == 20 else 1)) == over_edge_only
    assert (round(min(gaps), 2), round(max(gaps), 2)) == look_ahead_gap


def test_alexnet_placing_everything_costs_most_where_few_tasks_pay_for_it() -> None:
    optimal = rules(AlexNet.costs, inverse_rates(0))
    ratios = []
    for inferences in (20, 20000):
        best = place(optimal, AlexNet.downloads, inferences)
        ratios.append(best.total[-1] / best.total[best.placed])
    assert ratios == pytest.approx([11.7, 1.01], abs=0.05)


@pytest.mark.parametrize("snr_db", [0, 5, 10, 20])
def test_merged_points_make_look_ahead_good(snr_db: float) -> None:
    assert merged_points(AlexNet.values.tolist()) == (0, 2, 4, 8, 9, 11)  # input, pool1, pool2, pool5, fc6, fc8
    costs, paid = AlexNet.merged()
    rates = inverse_rates(snr_db)
    for inferences in (20, 200, 2000, 20000):
        best = place(rules(costs, rates), paid, inferences)
        gap = place(rules(costs, rates, look_ahead), paid, inferences).total.min() / best.total.min() - 1
        assert 0 <= gap <= 0.0135  # 1.3 %
    raw = place(rules(AlexNet.costs, rates), AlexNet.downloads, 2000).total.min()
    assert place(rules(costs, rates), paid, 2000).total.min() == pytest.approx(raw, rel=2e-2)


# ---------------------------------------------------------------------------------------------------------- oracles


def random_costs(rng: np.random.Generator, stages: int) -> StoppingCosts:
    slope = np.sort(rng.uniform(0.1, 2, stages + 1))[::-1]
    slope[-1] = 0.0
    return StoppingCosts(rng.uniform(0, 0.5, stages), slope, np.sort(rng.uniform(0, 1, stages + 1))[::-1])


def test_backward_induction_is_the_best_of_all_threshold_rules() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        costs, rates = random_costs(rng, 4), np.sort(rng.uniform(0.1, 2, 4))
        limits = np.concatenate([[0.0], rates])
        found = min(rule_cost(costs, choice, rates)[0] for choice in itertools.product(limits, repeat=3))
        rule = backward_induction(costs, 3, rates)
        assert rule.cost == pytest.approx(found)
        np.testing.assert_allclose(rule_cost(costs, rule.inverse_rate, rates), rule.expected)


def every_path(rng: np.random.Generator, states: int, stages: int) -> tuple[PathCosts, float]:
    """All paths of a Markov chain, with costs that fall in the state and a path's later states, and the least cost of
    any rule, by dynamic programming over the states.

    The chain's rows are mixtures of staying and of a fresh state in quarters, so that paths can be repeated.
    """
    stay = int(rng.integers(0, 4))  # quarters
    chain = np.full((states, states), (4 - stay) / 4 / states) + np.eye(states) * stay / 4
    counts = np.rint(chain * 4 * states).astype(int)
    paths: list[tuple[int, ...]] = [(state,) for state in range(states)]
    for _ in range(stages):
        paths = [(*path, after) for path in paths for after in range(states) for _ in range(counts[path[-1], after])]
    walked = np.array(paths).T  # (stages + 1, paths)
    run = rng.uniform(0, 0.4, stages)
    slope = np.sort(rng.uniform(0.1, 3, stages + 1))[::-1]
    after = np.sort(rng.uniform(0, 1, stages + 1))[::-1]
    upload = 1.0 / (1.0 + np.arange(states))
    # an upload half of which goes at the next stage's state: the state seen is only its start
    halves = [(upload[walked[stage]] + upload[walked[min(stage + 1, stages)]]) / 2 for stage in range(stages + 1)]
    stopping = slope[:, np.newaxis] * np.array(halves) + after[:, np.newaxis]
    mean = [(upload + chain @ upload) / 2] * stages + [upload]
    value = slope[stages] * mean[stages] + after[stages]
    for stage in range(stages - 1, -1, -1):
        value = np.minimum(slope[stage] * mean[stage] + after[stage], run[stage] + chain @ value)
    return PathCosts(run, stopping, walked[:stages].astype(float)), float(value.mean())


@pytest.mark.parametrize("seed", range(12))
def test_gates_on_all_paths_of_a_chain_cost_what_dynamic_programming_over_its_states_does(seed: int) -> None:
    costs, optimum = every_path(np.random.default_rng(seed), 3, 3)
    rule = path_induction(costs, 3)
    assert rule.cost == pytest.approx(optimum, rel=1e-12)
    assert gates_cost(costs, rule.gates) == pytest.approx(rule.cost, rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_gates_are_the_best_of_all_gates_where_the_state_seen_is_not_all_that_matters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hidden = rng.uniform(0.5, 2, 40)  # shadowing, say: it stays, and is seen only mixed with what changes
    seen = hidden * rng.exponential(size=(2, 40))
    stopping = np.array([3.0, 1.5, 0.4])[:, np.newaxis] / np.vstack([seen, hidden * rng.exponential(size=40)])
    costs = PathCosts(np.array([0.3, 0.3]), np.minimum(stopping, 20.0), seen)
    choices = [np.concatenate([[0.0, math.inf], np.sort(row)]) for row in seen]
    exhaustive = min(gates_cost(costs, gates) for gates in itertools.product(*choices))
    rule = path_induction(costs, 2)
    assert exhaustive * (1 - 1e-12) <= rule.cost <= exhaustive * 1.02
    fixed = [gates_cost(costs, [0.0, 0.0]), gates_cost(costs, [math.inf, 0.0]), gates_cost(costs, [math.inf] * 2)]
    assert rule.cost <= min(fixed)


def test_look_ahead_on_paths_is_that_of_fresh_channels_where_they_are_fresh() -> None:
    rng = np.random.default_rng(2)
    costs, rates = random_costs(rng, 3), rng.uniform(0.1, 2, 12)
    tuples = np.array(list(itertools.product(rates, repeat=4))).T
    stopping = np.array([costs.stopping(stage, tuples[stage]) for stage in range(4)])
    fresh = PathCosts(costs.run, stopping, 1 / tuples[:3])
    assert path_induction(fresh, 3).cost == pytest.approx(backward_induction(costs, 3, rates).cost)
    assert look_ahead_on_paths(fresh, 3).cost == pytest.approx(look_ahead(costs, 3, rates).cost)


def test_no_online_rule_beats_the_genie() -> None:
    rng = np.random.default_rng(4)
    costs = random_costs(rng, 4)
    rates = rng.uniform(0.1, 2, 200)
    drawn = rng.choice(rates, (20_000, 5))
    genie = genie_cost(costs, 4, drawn).mean()
    rule = backward_induction(costs, 4, rates)
    online = simulated(costs, rule, drawn)
    assert genie < online
    assert online == pytest.approx(rule.cost, rel=0.02)


def simulated(costs: StoppingCosts, rule: StoppingRule, drawn: np.ndarray) -> float:
    total = 0.0
    for row in drawn:
        stage = 0
        while stage < rule.placed and row[stage] > rule.inverse_rate[stage]:
            total += costs.run[stage]
            stage += 1
        total += float(costs.stopping(stage, row[stage]))
    return total / len(drawn)


def test_one_more_placed_layer_never_costs_a_task_more() -> None:
    per_task = [rule.cost for rule in rules(AlexNet.costs, inverse_rates(5))[:-1]]
    assert np.all(np.diff(per_task) <= 1e-15)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: backward_induction(Mlp.costs, 21, Mlp.rates), "21 stages cannot be placed"),
        (lambda: backward_induction(Mlp.costs, 2, [math.inf]), "gain floor"),
        (lambda: place([], [], 1.0), "no placement"),
        (lambda: place(rules(Mlp.costs, Mlp.rates), [0.0], 1.0), "placement costs"),
        (lambda: place(rules(Mlp.costs, Mlp.rates), Mlp.downloads, 0), "more than 0 inferences"),
        (lambda: StoppingCosts(np.ones(2), np.ones(2), np.ones(3)), "2 stages need 3 slopes"),
        (lambda: PathCosts(np.ones(2), np.ones((3, 5)), np.ones((3, 5))), "2 states per path"),
        (lambda: path_induction(PathCosts(np.ones(1), np.ones((2, 5)), np.ones((1, 5))), 2), "2 stages cannot be"),
        (lambda: genie_cost(Mlp.costs, 3, np.ones((2, 3))), "4 channels per task"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()  # type: ignore[operator]

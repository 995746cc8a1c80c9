"""Best responses against a grid, equilibria against every unilateral move, and what clearing is for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from markets import random_device, random_market

from controller.solvers.dag import game
from controller.solvers.dag.game import Device, Market, Settlement, Signal, best_response, potential, settle

COUNTS = (4, 10, 30)
SEEDS = range(10)
GRID = 4000


def asking(devices: list[Device]) -> Callable[[int, Signal], float]:
    return lambda index, signal: best_response(devices[index], signal).demand


def cost(device: Device, signal: Signal, demand: float) -> float:
    return device.value_per_second * device.latency(game.granted(signal, demand)) + game.bill(signal, demand)


def largest_gain(market: Market, devices: list[Device], found: Settlement) -> float:
    """What the luckiest device could still gain by any other demand on the grid."""
    gain = 0.0
    for index, device in enumerate(devices):
        others = found.total - found.demands[index]
        signal = Signal(found.base, market.slope, others, market.capacity, market.capacity, market.form)
        own = cost(device, signal, found.demands[index])
        moves = np.linspace(0.0, market.capacity, GRID)
        bills = np.array([game.bill(signal, move) for move in moves])
        speeds = np.array([game.granted(signal, move) for move in moves])
        latency = np.full(GRID, device.local_seconds)
        with np.errstate(divide="ignore"):
            for line in device.lines:
                latency = np.minimum(latency, line.constant_seconds + line.work_seconds / speeds)
        gain = max(gain, own - float((device.value_per_second * latency + bills).min()))
    return gain


@pytest.mark.parametrize("form", ["linear", "barrier", "proportional"])
def test_best_response_is_exact(form: game.PriceForm) -> None:
    rng = np.random.default_rng(1)
    offloads = 0
    for _ in range(60):
        device = random_device(rng, 2.0)
        signal = Signal(
            float(rng.uniform(0.1, 5)), float(rng.uniform(0, 5)), float(rng.uniform(0.1, 1.5)), 2.0, 2.0, form
        )
        found = best_response(device, signal)
        best = min(cost(device, signal, demand) for demand in np.linspace(0.0, 2.0, 2001))
        assert found.cost <= best + 1e-9
        assert found.cost == pytest.approx(cost(device, signal, found.demand), abs=1e-9)
        offloads += found.demand > 0
    assert offloads > 20


def test_best_response_keeps_to_its_limit() -> None:
    device = random_device(np.random.default_rng(2), 2.0)
    assert best_response(device, Signal(0.0, 0.0, 0.0, 2.0, 0.25)).demand == 0.25
    assert best_response(device, Signal(0.0, 0.0, 2.0, 2.0, 0.0)).demand == 0.0


@pytest.mark.parametrize("count", [*COUNTS[:2], pytest.param(COUNTS[2], marks=pytest.mark.thorough)])
@pytest.mark.parametrize("base", [2.0, 10.0, 0.2])
def test_nobody_gains_by_another_demand(base: float, count: int) -> None:
    for seed in SEEDS:
        market, devices = random_market(seed, count, base)
        found = settle(market, count, asking(devices))
        assert found.converged
        assert found.total <= market.capacity * (1 + 1e-12)
        assert largest_gain(market, devices, found) <= 1e-9


@pytest.mark.thorough
def test_settles_in_few_sweeps() -> None:
    sweeps: dict[tuple[float, int], list[int]] = {}
    loads: dict[float, list[float]] = {2.0: [], 10.0: [], 0.2: []}
    for base, load in loads.items():
        for count in COUNTS:
            for seed in SEEDS:
                market, devices = random_market(seed, count, base)
                found = settle(market, count, asking(devices))
                sweeps.setdefault((base, count), []).append(found.sweeps)
                load.append(found.total / market.capacity)
    assert max(max(one) for one in sweeps.values()) <= 9
    assert all(4.0 <= np.mean(one) <= 7.9 for one in sweeps.values())
    assert max(loads[10.0]) < 0.5 < np.median(loads[2.0]) < 1.0
    assert min(loads[0.2]) > 1 - 1e-4


def test_the_potential_is_exact() -> None:
    rng = np.random.default_rng(3)
    market, devices = random_market(3, 10, 2.0)
    for _ in range(50):
        demands = list(rng.uniform(0, 0.4, 10))
        index, move = int(rng.integers(10)), float(rng.uniform(0, 0.4))
        others = sum(demands) - demands[index]
        signal = Signal(market.base, market.slope, others, market.capacity, market.capacity)
        own = cost(devices[index], signal, move) - cost(devices[index], signal, demands[index])
        before = potential(devices, demands, market.base, market.slope)
        demands[index] = move
        assert potential(devices, demands, market.base, market.slope) - before == pytest.approx(own, abs=1e-9)


def test_every_response_lowers_the_potential() -> None:
    market, devices = random_market(4, 10, 2.0)
    demands = [0.0] * 10
    last = potential(devices, demands, market.base, market.slope)
    for turn in range(40):
        index = turn % 10
        others = sum(demands) - demands[index]
        signal = Signal(market.base, market.slope, others, market.capacity, market.capacity)
        demands[index] = best_response(devices[index], signal).demand
        now = potential(devices, demands, market.base, market.slope)
        assert now <= last + 1e-12
        last = now


@pytest.mark.parametrize("count", COUNTS)
def test_cleared_markets_do_not_ask_who_came_first(count: int) -> None:
    """Clipping does ask, and leaves the devices slower in the mean. (Spread: of any one demand, over the capacity.)"""
    spread_clipped, spread_cleared, latency = [], [], {"cleared": [], "clipped": [], "equal": []}
    for seed in SEEDS:
        market, devices = random_market(seed, count, 0.2)
        clipped = dataclasses.replace(market, clipped=True)
        rng = np.random.default_rng(seed)
        orders = [list(range(count)), list(range(count))[::-1], list(rng.permutation(count))]
        cleared_demands = np.array([settle(market, count, asking(devices), order).demands for order in orders])
        clipped_demands = np.array([settle(clipped, count, asking(devices), order).demands for order in orders])
        spread_cleared.append(np.ptp(cleared_demands, axis=0).max() / market.capacity)
        spread_clipped.append(np.ptp(clipped_demands, axis=0).max() / market.capacity)
        equal = market.capacity / count
        latency["equal"].append(np.mean([device.latency(equal) for device in devices]))
        for name, demands in (("cleared", cleared_demands[0]), ("clipped", clipped_demands[0])):
            latency[name].append(np.mean([d.latency(f) for d, f in zip(devices, demands, strict=True)]))
    assert max(spread_cleared) < 1e-6
    assert max(spread_clipped) > 0.01
    assert np.mean(latency["cleared"]) < np.mean(latency["clipped"])
    assert np.mean(latency["cleared"]) < np.mean(latency["equal"])


def telling(devices: list[Device]) -> tuple[Callable[[int, Signal], float], Callable[[int], float]]:
    """Devices that say with each answer what its latency costs them."""
    worth: dict[int, float] = {}

    def ask(index: int, signal: Signal) -> float:
        answer = best_response(devices[index], signal)
        worth[index] = answer.cost - game.bill(signal, answer.demand)
        return answer.demand

    return ask, worth.__getitem__


@pytest.mark.thorough
@pytest.mark.parametrize(("base", "several"), [(10.0, 5), (0.2, 1)])
def test_of_several_equilibria_the_one_with_the_least_potential(base: float, several: int) -> None:
    """Where prices are high or the edge binds, a few markets have several: the order decides, unless all are played."""
    differing = 0
    for seed in range(40):
        market, devices = random_market(seed, 4, base)
        ask, worth = telling(devices)
        rng = np.random.default_rng(seed)
        orders = [rng.permutation(4).tolist() for _ in range(5)]
        alone = [settle(market, 4, ask, order) for order in orders]
        best = settle(market, 4, ask, orders[0], more_orders=orders[1:], worth=worth)
        assert best.converged
        assert best.total <= market.capacity * (1 + 1e-12)
        assert largest_gain(market, devices, best) <= 1e-9
        if np.ptp([one.demands for one in alone], axis=0).max() < 1e-4 * market.capacity:
            assert best.demands == pytest.approx(alone[0].demands, abs=2e-5 * market.capacity)
            continue
        differing += 1
        if base == 10.0:  # nothing was cleared: all at one price, so that potentials compare
            heights = [potential(devices, one.demands, market.base, market.slope) for one in alone]
            assert potential(devices, best.demands, market.base, market.slope) == pytest.approx(min(heights))
            assert max(heights) > min(heights)
    assert differing >= several


def test_a_guess_of_the_price_saves_questions_and_changes_nothing() -> None:
    for seed in SEEDS:
        market, devices = random_market(seed, 10, 0.2)
        plain = settle(market, 10, asking(devices))
        guessed = settle(market, 10, asking(devices), guess=plain.base)
        assert guessed.demands == pytest.approx(plain.demands, abs=2e-5 * market.capacity)
        assert guessed.asked < plain.asked / 3
        low = settle(market, 10, asking(devices), guess=1e3 * plain.base)  # nothing is known: far too dear
        assert low.demands == pytest.approx(plain.demands, abs=2e-5 * market.capacity)


def test_a_start_saves_questions_and_clears_as_well() -> None:
    asked = {"afresh": 0, "warm": 0}
    for seed in SEEDS:
        market, devices = random_market(seed, 10, 0.2)
        plain = settle(market, 10, asking(devices))
        nearby = dataclasses.replace(market, capacity=0.9 * market.capacity, cleared=1e-3)
        afresh = settle(nearby, 10, asking(devices), guess=plain.base)
        warm = settle(nearby, 10, asking(devices), guess=plain.base, start=plain.demands)
        assert warm.converged
        assert nearby.capacity * (1 + 1e-12) >= warm.total >= afresh.total - 0.02 * nearby.capacity
        for index, device in enumerate(devices):
            others = warm.total - warm.demands[index]
            best = best_response(device, Signal(warm.base, nearby.slope, others, nearby.capacity, nearby.capacity))
            assert best.demand == pytest.approx(warm.demands[index], abs=1e-5 * nearby.capacity)
        asked["afresh"] += afresh.asked
        asked["warm"] += warm.asked
    assert asked["warm"] < 0.7 * asked["afresh"]


def test_the_barrier_price_never_fills_the_edge() -> None:
    for seed in SEEDS:
        linear, devices = random_market(seed, 10, 2.0)
        market = dataclasses.replace(linear, form="barrier")
        found = settle(market, 10, asking(devices))
        assert found.converged
        assert 0.2 < found.total / market.capacity < 1.0
        assert largest_gain(market, devices, found) <= 1e-8


def test_proportional_bids_settle() -> None:
    for seed in SEEDS:
        linear, devices = random_market(seed, 10, 2.0)
        market = dataclasses.replace(linear, form="proportional")
        found = settle(market, 10, asking(devices))
        assert found.converged
        assert largest_gain(market, devices, found) <= 1e-8
        shares = [
            game.granted(Signal(2.0, 0.0, found.total - bid, market.capacity, np.inf, "proportional"), bid)
            for bid in found.demands
        ]
        assert sum(shares) == pytest.approx(market.capacity)


def test_whoever_is_gone_takes_nothing() -> None:
    market, devices = random_market(5, 4, 0.2)

    def ask(index: int, signal: Signal) -> float | None:
        return None if index == 2 else best_response(devices[index], signal).demand

    found = settle(market, 4, ask)
    rest = [device for index, device in enumerate(devices) if index != 2]
    without = settle(market, 3, asking(rest))
    assert found.gone == {2}
    assert found.demands[2] == 0.0
    assert [f for i, f in enumerate(found.demands) if i != 2] == pytest.approx(without.demands, abs=1e-6)


def test_ends_when_told() -> None:
    market, devices = random_market(6, 10, 0.2)
    left = iter([True] * 25)
    found = settle(market, 10, asking(devices), may_go_on=lambda: next(left, False))
    assert not found.converged
    assert found.asked <= 25

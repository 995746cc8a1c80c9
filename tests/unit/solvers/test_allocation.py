"""The Newton solvers against CLARABEL, their optimality conditions, and what they do when nothing fits."""

from __future__ import annotations

import numpy as np
import pytest
from certificate import lower_bound
from hypothesis import given, settings
from hypothesis import strategies as st
from instances import random_instances

from controller.solvers.allocation.evaluation import evaluate
from controller.solvers.allocation.general import allocate_general
from controller.solvers.allocation.newton import SPECTRUM, begin_shares, smallest_shares, surely_fit
from controller.solvers.allocation.problem import Allocation, AllocationModel, Demands, Limits, UeConstants, link_rate
from controller.solvers.allocation.shares import allocate

TOLERANCE: dict[AllocationModel, float] = {"indep": 1e-8, "exact": 1e-6}


@pytest.mark.parametrize("model", ["indep", "exact"])
@pytest.mark.parametrize("ues", [1, 3, pytest.param(5, marks=pytest.mark.thorough)])
def test_cost_is_that_of_the_general_solver(model: AllocationModel, ues: int) -> None:
    demands, constants, limits = random_instances(35, ues, seed=ues)
    ours = allocate(demands, constants, limits, model)
    oracle = allocate_general(demands, constants, limits, model)
    assert ours.feasible.all()
    # above: not worse than the oracle; below: the oracle itself has converged
    assert np.max(ours.cost / oracle.cost - 1) <= TOLERANCE[model]
    assert np.min(ours.cost / oracle.cost - 1) >= -max(TOLERANCE[model], 1e-7)


@pytest.mark.parametrize("model", ["indep", "exact"])
@pytest.mark.parametrize("ues", [1, 6])
def test_cost_is_within_the_tolerance_of_a_lower_bound(model: AllocationModel, ues: int) -> None:
    demands, constants, limits = random_instances(40, ues, seed=50 + ues)
    ours = allocate(demands, constants, limits, model)
    bound = lower_bound(ours, demands, constants, limits, model)
    gap = (ours.cost - bound) / ours.cost
    assert np.max(gap) <= TOLERANCE[model]
    assert np.min(gap) >= -1e-12  # it is a bound
    worse = ours._replace(device_speed=0.9 * ours.device_speed, spectrum_hz=0.99 * ours.spectrum_hz)
    loose = evaluate(worse, demands, constants, limits, model).cost
    assert np.all(np.isinf(loose) | (loose > bound))


@pytest.mark.parametrize("price", [0.1, 3.0, 100.0])
def test_a_price_of_the_edges_energy_frees_what_is_not_worth_it(price: float) -> None:
    demands, constants, limits = random_instances(35, 4, seed=5)
    free = allocate(demands, constants, limits)
    limits = limits._replace(edge_square_price=price)
    ours = allocate(demands, constants, limits)
    oracle = allocate_general(demands, constants, limits)
    assert np.max(ours.cost / oracle.cost - 1) <= 1e-8
    assert np.min(ours.cost / oracle.cost - 1) >= -1e-7
    np.testing.assert_allclose(evaluate(ours, demands, constants, limits, "indep").cost, ours.cost, rtol=1e-9)
    assert np.all(ours.edge_share.sum(axis=1) <= limits.edge_cpus * (1 + 1e-9))
    unpriced = evaluate(ours, demands, constants, limits._replace(edge_square_price=0.0), "indep")
    assert np.all(unpriced.cost >= free.cost * (1 - 1e-9))
    if price == 100.0:
        assert np.any(ours.edge_share.sum(axis=1) < 0.9 * limits.edge_cpus)
    with pytest.raises(ValueError, match="edge's energy"):
        allocate(demands, constants, limits, "exact")


@pytest.mark.parametrize("model", ["indep", "exact"])
def test_reported_figures_follow_from_the_shares(model: AllocationModel) -> None:
    demands, constants, limits = random_instances(200, 6, seed=2)
    found = allocate(demands, constants, limits, model)
    again = evaluate(found, demands, constants, limits, model)
    np.testing.assert_allclose(found.delay_seconds, again.delay_seconds, rtol=1e-9)
    np.testing.assert_allclose(found.energy_joules, again.energy_joules, rtol=1e-12)
    np.testing.assert_allclose(found.cost, again.cost, rtol=1e-9)
    np.testing.assert_allclose(found.largest_load, again.largest_load, rtol=1e-9)
    assert found.largest_load.max() > 0.98  # the instances do come near saturation


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from(["indep", "exact"]))
def test_shares_add_up_and_nothing_leaves_its_range(seed: int, ues: int, model: AllocationModel) -> None:
    demands, constants, limits = random_instances(8, ues, seed)
    found = allocate(demands, constants, limits, model)
    assert found.feasible.all()
    for shares, work, total in (
        (found.spectrum_hz, demands.wire_bits, limits.spectrum_hz),
        (found.edge_share, demands.tail_seconds, limits.edge_cpus),
    ):
        np.testing.assert_allclose(shares.sum(axis=1), np.where((work > 0).any(axis=1), total, 0.0), rtol=1e-9)
    assert np.all(found.device_speed <= constants.max_speed * (1 + 1e-12))
    assert np.all(found.device_speed > 0)
    assert np.all(found.largest_load < 1)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(["indep", "exact"]))
def test_no_small_exchange_of_shares_helps(seed: int, model: AllocationModel) -> None:
    demands, constants, limits = random_instances(20, 4, seed)
    found = allocate(demands, constants, limits, model)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        moved = _exchange(found, demands, limits, rng)
        cost = evaluate(moved, demands, constants, limits, model).cost
        assert np.all(cost >= found.cost * (1 - 1e-7))


def _exchange(found: Allocation, demands: Demands, limits: Limits, rng: np.random.Generator) -> Allocation:
    """A random step of up to 1 % of each share, zero-sum among the UEs that have work."""

    def shift(shares: np.ndarray, work: np.ndarray) -> np.ndarray:
        step = np.where(work > 0, rng.uniform(-0.01, 0.01, shares.shape) * shares, 0.0)
        active = np.maximum((work > 0).sum(axis=1, keepdims=True), 1)
        step -= np.where(work > 0, step.sum(axis=1, keepdims=True) / active, 0.0)
        return np.where(np.any(shares + step <= 0, axis=1, keepdims=True), shares, shares + step)

    return found._replace(
        spectrum_hz=shift(found.spectrum_hz, demands.wire_bits),
        edge_share=shift(found.edge_share, demands.tail_seconds),
        device_speed=found.device_speed * (1 - rng.uniform(0, 0.01, found.device_speed.shape)),
    )


def test_idle_users_hold_nothing_and_the_others_everything() -> None:
    demands, constants, limits = random_instances(50, 5, seed=9)
    found = allocate(demands, constants, limits)
    for shares, work, total in (
        (found.spectrum_hz, demands.wire_bits, limits.spectrum_hz),
        (found.edge_share, demands.tail_seconds, limits.edge_cpus),
    ):
        assert np.any(work <= 0)
        assert np.all(shares[work <= 0] == 0)
        some = (work > 0).any(axis=1)
        np.testing.assert_allclose(shares[some].sum(axis=1), total, rtol=1e-9)


def test_users_that_all_compute_alone_hold_nothing() -> None:
    demands, constants, limits = random_instances(1, 4, seed=1)
    alone = demands._replace(wire_bits=np.zeros((1, 4)), tail_seconds=np.zeros((1, 4)))
    found = allocate(alone, constants, limits)
    assert not found.spectrum_hz.any()
    assert not found.edge_share.any()
    assert np.isfinite(found.delay_seconds).all()


@pytest.mark.parametrize("model", ["indep", "exact"])
@pytest.mark.parametrize("scale", [1.5, 100.0])
def test_overload_is_reported_and_finite(model: AllocationModel, scale: float) -> None:
    demands, constants, limits = random_instances(50, 4, seed=4)
    # every stage of every UE beyond what it can have
    heavy = demands._replace(
        head_seconds=np.full((50, 4), scale * constants.max_speed / demands.arrival_rate_per_second),
        wire_bits=np.full((50, 4), scale * 1e8),
        tail_seconds=np.full((50, 4), scale * limits.edge_cpus / demands.arrival_rate_per_second),
    )
    found = allocate(heavy, constants, limits, model)
    assert not found.feasible.any()
    assert np.all(np.isinf(found.cost))
    for shares in (found.device_speed, found.spectrum_hz, found.edge_share):
        assert np.all(np.isfinite(shares))
        assert np.all(shares > 0)
    np.testing.assert_allclose(found.spectrum_hz.sum(axis=1), limits.spectrum_hz)
    np.testing.assert_allclose(found.edge_share.sum(axis=1), limits.edge_cpus)
    assert not any(np.isnan(field).any() for field in found)


def test_a_dead_link_and_a_silent_user_are_no_nan() -> None:
    demands, constants, limits = random_instances(2, 3, seed=6)
    quality = demands.link_quality.copy()
    quality[0, 0] = 0.0
    bits = demands.wire_bits.copy()
    bits[0, 0] = 1e6
    rate = demands.arrival_rate_per_second.copy()
    rate[1, :] = 0.0
    found = allocate(
        demands._replace(link_quality=quality, wire_bits=bits, arrival_rate_per_second=rate), constants, limits
    )
    assert found.feasible.tolist() == [False, True]
    assert not any(np.isnan(field).any() for field in found)


def test_without_a_queue_the_device_runs_at_full_speed_and_slower_the_longer_it_is() -> None:
    demands, constants, limits = random_instances(1, 1, seed=8)
    one = demands._replace(
        head_seconds=np.array([[0.3 * constants.max_speed[0] / demands.arrival_rate_per_second[0, 0]]])
    )
    speeds = []
    for queue in (0.0, 0.1, 1.0, 10.0, 1e6):
        speeds.append(
            float(allocate(one._replace(queue_joules=np.array([[queue]])), constants, limits).device_speed[0, 0])
        )
    assert speeds[0] == constants.max_speed[0]
    assert speeds == sorted(speeds, reverse=True)
    assert one.arrival_rate_per_second[0, 0] * one.head_seconds[0, 0] / speeds[-1] < 1


def test_a_link_of_kind_rate_is_shared_by_its_efficiency() -> None:
    constants = UeConstants(
        *(np.array([x, x]) for x in (0.5, 10.0, 0.0, 1.0)),
        linear=np.array([True, True]),
        variability=np.ones(2),
        station=np.zeros(2, dtype=np.int64),
    )
    limits = Limits(2e6, 1.0, 2.0, 1.0)
    one = np.ones((1, 2))
    demands = Demands(one, one, 0 * one, 1e5 * one, 0.01 * one, np.array([[1.0, 4.0]]), 0 * one, 0 * one, 0 * one)
    found = allocate(demands, constants, limits)
    # nearly without waits the optimum is proportional to sqrt(d / efficiency)
    assert found.spectrum_hz[0, 0] / found.spectrum_hz[0, 1] == pytest.approx(2.0, rel=0.1)


def test_shares_to_begin_with_are_stable_and_there_are_some_where_the_smallest_fit() -> None:
    ues, agreed = 6, {True: 0, False: 0}
    demands, constants, limits = random_instances(200, ues, seed=9)
    step, least, share, edge = (np.empty(ues) for _ in range(4))
    price = np.ones(ues)
    for index in range(200):
        rate = demands.arrival_rate_per_second[index] * (1.0 + 0.25 * (index % 4))  # up to far beyond saturation
        bits, quality = demands.wire_bits[index], demands.link_quality[index]
        work = (rate, bits, np.zeros(ues), quality, constants.linear)
        needed, _ = smallest_shares(ues, constants.station, limits.spectrum_hz, *work, least, edge)
        fits = needed < limits.spectrum_hz
        begun = begin_shares(SPECTRUM, limits.spectrum_hz, ues, bits, quality, constants.linear, rate, price, 0 * price, least, share, step)  # fmt: skip  # noqa: E501
        assert begun == fits
        assert fits or not surely_fit(ues, constants.station, limits.spectrum_hz, limits.edge_cpus, *work)
        agreed[fits] += 1
        if begun and bits.any():
            rates = link_rate(constants, np.where(bits > 0, share, 1.0), quality)
            assert share.sum() == pytest.approx(limits.spectrum_hz)
            assert np.all(rate * bits / rates < 1.0)
    assert min(agreed.values()) > 20


def test_what_surely_fits_is_told_without_a_root() -> None:
    demands, constants, limits = random_instances(50, 6, seed=9)
    idle = 0.01 * demands.arrival_rate_per_second
    work = (demands.wire_bits, demands.tail_seconds, demands.link_quality)
    told = [
        surely_fit(
            6, constants.station, limits.spectrum_hz, limits.edge_cpus, rate, *(x[row] for x in work), constants.linear
        )
        for row, rate in enumerate(idle)
    ]
    assert all(told)

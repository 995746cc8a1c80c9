"""The tandem formulas against checked figures, against an event simulation, and against themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.contract import Arrivals
from controller.model.lyapunov import EnergyQueues
from controller.model.queueing import stage_waits_seconds, tandem_delay_seconds, variability, waiting_seconds

# s_u, s_t, s_e, mean sojourn of 2e6 simulated tasks, exact, indep; arrival rate 10/s
CHECKED = [
    (0.05, 0.02, 0.07, 0.22163, 0.22167, 0.24917),
    (0.08, 0.03, 0.01, 0.28127, 0.28000, 0.28698),
    (0.02, 0.04, 0.085, 0.38686, 0.38583, 0.40167),
    (0.06, 0.06, 0.06, 0.22499, 0.22500, 0.31500),
    (0.03, 0.09, 0.05, 0.57976, 0.57500, 0.60643),
]


def simulated_sojourns(rate: float, service: tuple[float, ...], tasks: int, seed: int) -> np.ndarray:
    """(tasks, stages + 1): completion times by stage, the arrival first. Lindley's recursion by stage."""
    rng = np.random.default_rng(seed)
    times = [np.cumsum(rng.exponential(1 / rate, tasks))]
    for seconds in service:
        # end_j = max(arrive_j, end_{j-1}) + s: with constant s, end_j - j s is a running maximum
        offset = seconds * np.arange(tasks)
        times.append(np.maximum.accumulate(times[-1] - offset) + offset + seconds)
    return np.stack(times, axis=1)


@pytest.mark.parametrize(("s_u", "s_t", "s_e", "simulated", "exact", "indep"), CHECKED)
def test_checked_figures(s_u: float, s_t: float, s_e: float, simulated: float, exact: float, indep: float) -> None:
    service = [s_u, s_t, s_e]
    assert float(tandem_delay_seconds(10.0, service, "exact")) == pytest.approx(simulated, rel=0.01)
    assert float(tandem_delay_seconds(10.0, service, "exact")) == pytest.approx(exact, abs=1e-5)
    assert float(tandem_delay_seconds(10.0, service, "indep")) == pytest.approx(indep, abs=1e-5)
    assert float(tandem_delay_seconds(10.0, service, "none")) == pytest.approx(sum(service))


def test_exact_agrees_with_an_event_simulation_on_random_stable_lines() -> None:
    rng = np.random.default_rng(3)
    for case in range(50):
        rate = float(rng.uniform(1, 20))
        service = tuple(rng.uniform(0.02, 0.85, 3) / rate)
        times = simulated_sojourns(rate, service, 400_000, case)
        measured = float((times[:, -1] - times[:, 0]).mean())
        assert float(tandem_delay_seconds(rate, service)) == pytest.approx(measured, rel=0.02)


def test_waits_of_each_stage_agree_with_the_event_simulation() -> None:
    service = (0.03, 0.02, 0.07)
    times = simulated_sojourns(10.0, service, 400_000, 1)
    waits = np.diff(times, axis=1).mean(axis=0) - service
    np.testing.assert_allclose(stage_waits_seconds(10.0, service), waits, rtol=0.03, atol=1e-9)


@given(st.floats(0.1, 50), st.permutations([0.2, 0.5, 0.7]), st.floats(0.1, 1.3))
def test_the_order_of_the_stages_does_not_matter(rate: float, loads: list[float], scale: float) -> None:
    service = np.array(loads) * scale / rate
    waits = stage_waits_seconds(rate, service)
    assert np.all(waits >= -1e-15)
    np.testing.assert_allclose(waits.sum(), waiting_seconds(rate, service.max()), rtol=1e-9)
    assert tandem_delay_seconds(rate, service, "indep") >= tandem_delay_seconds(rate, service, "exact") - 1e-12


def test_an_unstable_stage_waits_for_ever_and_nothing_is_nan() -> None:
    assert np.isinf(waiting_seconds(10.0, 0.1))
    waits = stage_waits_seconds(10.0, [0.05, 0.2, 0.3])
    assert np.isinf(waits[1])
    assert np.isinf(tandem_delay_seconds(10.0, [0.05, 0.2, 0.3]))
    assert not np.any(np.isnan(waits))


def test_batches_broadcast() -> None:
    service = np.random.default_rng(0).uniform(0, 0.05, (4, 5, 3))
    rate = np.full((4, 5), 8.0)
    delay = tandem_delay_seconds(rate, service)
    assert delay.shape == (4, 5)
    assert delay[2, 3] == pytest.approx(float(tandem_delay_seconds(8.0, service[2, 3])))


def test_energy_queues_follow_the_recursion_and_bound_the_excess() -> None:
    rng = np.random.default_rng(1)
    budget = np.array([0.1, 0.2, np.inf])
    queues = EnergyQueues.start(budget, 1.5)
    np.testing.assert_allclose(queues.queue_joules, [0.15, 0.3, 0.0])
    start = queues.queue_joules
    energy = rng.exponential(0.15, (300, 3))
    for spent in energy:
        expected = np.maximum(queues.queue_joules + spent - budget, 0.0)
        queues.update(spent)
        np.testing.assert_array_equal(queues.queue_joules, expected)
    excess = (energy - budget).sum(axis=0)
    assert np.all(excess[:2] <= (queues.queue_joules - start)[:2] + 1e-12)
    assert queues.queue_joules[2] == 0.0


def test_drift_plus_penalty_leaves_out_users_without_a_budget() -> None:
    queues = EnergyQueues(np.array([0.1, np.inf]), np.array([2.0, 0.0]))
    assert queues.drift_plus_penalty(0.5, [0.2, 0.4], [0.3, 9.0]) == pytest.approx(0.5 * 0.6 + 2.0 * 0.2)


@pytest.mark.parametrize("service", [(0.30, 0.32, 0.1), (0.1, 0.2, 0.3), (0.0, 0.32, 0.31)])
def test_a_periodic_stream_waits_nowhere_below_a_load_of_one(service: tuple[float, float, float]) -> None:
    """The claim behind the variability of periodic arrivals, by a walk over every task: loads up to 0.96."""
    period = 1 / 3
    free = [0.0, 0.0, 0.0]
    for task in range(500):
        now = task * period
        for stage, seconds in enumerate(service):
            start = max(now, free[stage])
            assert start == pytest.approx(now, abs=1e-9)
            now = free[stage] = start + seconds
    q = variability(Arrivals("periodic", (3.0,)))
    assert 0 < q <= 0.01
    nearly = float(tandem_delay_seconds(3.0, [0.2, 0.1, 0.05], "exact", q))
    assert nearly == pytest.approx(0.35, rel=0.01)
    assert np.isinf(tandem_delay_seconds(3.0, [0.2, 0.34, 0.05], "exact", q))


def test_variability_scales_the_wait_and_nothing_else() -> None:
    rate, service = np.array([3.0, 3.0]), np.array([[0.1, 0.25, 0.2], [0.1, 0.25, 0.2]])
    for model in ("exact", "indep"):
        waits = stage_waits_seconds(rate, service, model, [1.0, 0.25])  # type: ignore[arg-type]
        np.testing.assert_allclose(waits[1], 0.25 * waits[0])
    for process in ("poisson", "switching", "file"):
        assert variability(Arrivals(process, (1.0, 2.0))) == 1.0  # type: ignore[arg-type]

"""Single improvements: a promise is a bound, where none is left nothing joint is better, their number is bounded."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from test_cut_search import lab, random_state, row

from controller.solvers.allocation.chain import ChainTables, CutArray, SlotState
from controller.solvers.allocation.cuts import coordinate_descent, exhaustive, project
from controller.solvers.allocation.improvement import improve
from controller.solvers.allocation.problem import AllocationModel, Limits
from controller.solvers.allocation.shares import allocate


def local_start(ues: int, seed: int, slots: int) -> tuple[ChainTables, Limits, SlotState, CutArray]:
    """A lab, its slots, and joint cuts (slots, ues) as near to all-local as can be kept stable."""
    scenario = lab(ues)
    tables = ChainTables.of(scenario)
    state = random_state(scenario, seed, slots)
    start = project(tables, np.broadcast_to(tables.local, (slots, ues)), state)
    return tables, tables.limits(0.3), state, start


def test_a_promise_is_never_less_than_what_the_change_brings() -> None:
    scenario = lab(3)
    tables = ChainTables.of(scenario)
    limits = tables.limits(0.3)
    state = random_state(scenario, 2, 8)
    rng = np.random.default_rng(3)
    start = project(tables, rng.integers(0, tables.counts[0], (8, 3)), state)
    settled = improve(tables, start, state, limits, 500).cuts
    found = improve(tables, settled, state, limits, 1, thorough=True)  # at the prices of these cuts
    bound = 0
    for index in np.flatnonzero((found.moves == 0) & np.isfinite(found.cost)):
        for ue, cut in itertools.product(range(3), range(int(tables.counts[0]))):
            changed = found.cuts[index : index + 1].copy()
            changed[0, ue] = cut
            cost = allocate(tables.demands(changed, row(state, index)), tables.ues, limits).cost[0]
            promise = found.promise[index, ue, cut]
            if np.isfinite(promise):
                assert cost - found.cost[index] >= promise - 1e-3 * found.cost[index]
                bound += 1
    assert bound > 20


def test_improvements_end_where_coordinate_descent_does_or_better() -> None:
    tables, limits, state, start = local_start(ues=6, seed=1, slots=30)
    found = improve(tables, start, state, limits, 500)
    _, descent = coordinate_descent(tables, start, state, limits)
    fits = np.isfinite(found.cost)
    assert fits.sum() > 20
    assert found.cost[fits].sum() <= descent[fits].sum() * 1.005


@pytest.mark.parametrize("model", ["indep", "exact"])
def test_the_allocation_is_that_of_the_cuts_that_were_found(model: AllocationModel) -> None:
    tables, limits, state, start = local_start(ues=6, seed=1, slots=30)
    found = improve(tables, start, state, limits, 12, model)
    assert found.moves.max() > 3
    again = allocate(tables.demands(found.cuts, state), tables.ues, limits, model)
    for name, field in again._asdict().items():
        np.testing.assert_allclose(getattr(found.allocation, name), field, rtol=1e-9, err_msg=name)


def test_where_every_cut_is_the_cheapest_at_the_prices_the_joint_choice_is_optimal() -> None:
    tables, limits, state, start = local_start(ues=3, seed=4, slots=20)
    found = improve(tables, start, state, limits, 500)
    certain = 0
    for index in range(20):
        if np.all(found.promise[index] >= -1e-6 * found.cost[index]) and np.all(np.isfinite(found.promise[index])):
            best = exhaustive(tables, row(state, index), limits)[1]
            assert found.cost[index] == pytest.approx(best, rel=1e-4)
            certain += 1
    assert certain >= 3


def test_trials_are_bounded_and_none_makes_it_worse() -> None:
    tables, limits, state, start = local_start(ues=6, seed=1, slots=30)
    costs = []
    for most in (0, 1, 3, 9):
        found = improve(tables, start, state, limits, most)
        assert found.moves.max() <= most
        assert np.all(np.sum(found.cuts != start, axis=1) <= found.moves)
        costs.append(found.cost)
    assert all(np.all(after <= before) for before, after in itertools.pairwise(costs))
    assert costs[0][np.isfinite(costs[0])].sum() > 1.1 * costs[-1][np.isfinite(costs[0])].sum()

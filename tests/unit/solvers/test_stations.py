"""Several access points: each has all of the spectrum for its own UEs, and the edge is everybody's."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest

from controller.contract import Scenario, SlotOutcome
from controller.model.decision import bootstrap_decision, enforce
from controller.model.radio import rates
from controller.policies import registry
from controller.policies.check import check_policy
from controller.policies.drift import DriftPlusPenalty
from controller.policies.examples import example_observation, example_scenario, with_access_points
from controller.policies.li_gd import LiGd
from controller.policies.static import EdgeOnly
from controller.simulator.simulate import simulate
from controller.solvers.allocation.chain import ChainTables, SlotState
from controller.solvers.allocation.cuts import coordinate_descent, project
from controller.solvers.allocation.evaluation import equal_shares, evaluate
from controller.solvers.allocation.improvement import improve
from controller.solvers.allocation.problem import Demands, Limits, UeConstants
from controller.solvers.allocation.shares import allocate
from tests.unit.solvers.instances import random_instances

STATIONS = np.array([0, 1, 0, 1, 1, 0])


class Listening(EdgeOnly):
    """Notes what the links had."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def feedback(self, outcome: SlotOutcome) -> None:
        self.rates.append([ue.mean_rate_up_bits_per_second for ue in outcome.ues])


def lab(ues: int = 6) -> Scenario:
    return with_access_points(example_scenario(ues), 2)


def some(seed: int) -> tuple[Demands, UeConstants, Limits]:
    demands, constants, limits = random_instances(20, 6, seed)
    return demands, constants._replace(station=STATIONS), limits


@pytest.mark.parametrize("seed", range(3))
def test_without_the_edge_it_is_each_access_point_alone(seed: int) -> None:
    demands, constants, limits = some(seed)
    demands = demands._replace(tail_seconds=np.zeros_like(demands.tail_seconds))
    found = allocate(demands, constants, limits)
    for station in (0, 1):
        mine = station == STATIONS
        own = Demands(*(field[:, mine] for field in demands))
        alone = allocate(own, UeConstants(*(field[mine] for field in constants))._replace(
            station=np.zeros(int(mine.sum()), dtype=np.int64)), limits)  # fmt: skip
        fits = found.feasible
        assert np.all(alone.feasible[fits])
        np.testing.assert_allclose(found.spectrum_hz[np.ix_(fits, mine)], alone.spectrum_hz[fits], rtol=1e-6)
        np.testing.assert_allclose(found.delay_seconds[np.ix_(fits, mine)], alone.delay_seconds[fits], rtol=1e-6)


def test_shares_fill_each_access_point_and_cost_what_the_formulas_say() -> None:
    for seed in range(3):
        demands, constants, limits = some(seed)
        found = allocate(demands, constants, limits)
        assert found.feasible.any()
        for station in (0, 1):
            mine = station == STATIONS
            sends = (demands.wire_bits[:, mine] > 0).any(axis=1)
            sums = found.spectrum_hz[:, mine].sum(axis=1)
            np.testing.assert_allclose(sums, np.where(sends, limits.spectrum_hz, 0.0), rtol=1e-9)
            equal = equal_shares(demands, constants, limits)[0][:, mine].sum(axis=1)
            np.testing.assert_allclose(equal, np.where(sends, limits.spectrum_hz, 0.0), rtol=1e-9)
        fits = found.feasible
        checked = evaluate(found, demands, constants, limits, "indep")
        np.testing.assert_allclose(checked.cost[fits], found.cost[fits], rtol=1e-9)


def test_cuts_are_searched_with_the_spectrum_of_each_access_point() -> None:
    """Against all joint cuts: coordinate descent and improvements end no higher than a single change can tell."""
    scenario = lab(4)
    tables = ChainTables.of(scenario)
    limits = tables.limits(0.3)
    rng = np.random.default_rng(1)
    for _ in range(5):
        gains = np.array([ue.mean_gain for ue in scenario.ues]) * rng.exponential(size=4)
        state = SlotState(
            np.full(4, 2.0), tables.link_quality(gains), tables.downlink_rate(gains), rng.exponential(0.1, 4)
        )
        every = np.array(list(itertools.product(*(range(count) for count in tables.counts))), dtype=np.int64)
        costs = allocate(tables.demands(every, state), tables.ues, limits).cost
        start = project(tables, tables.local[np.newaxis], state)
        cuts, cost = coordinate_descent(tables, start, state, limits)
        better = improve(tables, start, state, limits, 100)
        for found, value in ((cuts[0], cost[0]), (better.cuts[0], better.cost[0])):
            at = int(np.flatnonzero((every == found).all(axis=1))[0])
            assert costs[at] == pytest.approx(value, rel=1e-9)
            assert value <= 1.05 * costs.min()


def test_two_access_points_that_do_not_hear_each_other_are_two_labs() -> None:
    scenario = lab(6)
    deaf = msgspec.structs.replace(scenario, radio=msgspec.structs.replace(scenario.radio, leakage_ratio=0.0))
    tables = ChainTables.of(deaf)
    gains = np.array([ue.mean_gain for ue in deaf.ues])
    one = ChainTables.of(example_scenario(6))
    np.testing.assert_allclose(tables.link_quality(gains), one.link_quality(gains), rtol=1e-12)
    assert np.all(ChainTables.of(scenario).link_quality(gains) < one.link_quality(gains))
    assert np.all(ChainTables.of(scenario).downlink_rate(gains) < one.downlink_rate(gains))


def test_what_divides_one_spectrum_is_refused() -> None:
    for options in ({"delay_model": "exact"}, {"solver": "cvxpy"}):
        with pytest.raises(ValueError, match="several access points \\(2\\) need delay_model 'indep'"):
            DriftPlusPenalty(**options).reset(lab(), 1)  # type: ignore[arg-type]
    demands, constants, limits = some(0)
    with pytest.raises(ValueError, match="one access point only"):
        allocate(demands, constants, limits, "exact")


@pytest.mark.parametrize("name", ["lymdo-cd", "lymdo-equal", "dds", "dds-optimum", "iao", "dads", "li-gd-ofdma"])
def test_policies_divide_the_spectrum_of_each_access_point(name: str) -> None:
    """Together they ask for more than one spectrum, and for no more than each access point's."""
    scenario = lab(5)
    policy = registry.create(name, {})
    check_policy(policy, scenario, slots=4)
    policy.reset(scenario, 1)
    observation = example_observation(scenario)
    decision = enforce(scenario, None, policy.decide(observation), observation)
    asked = np.array([ue.spectrum_up_hz for ue in decision.ues]) / scenario.radio.uplink_hz
    assert asked.sum() > 1.2
    assert asked[0::2].sum() == pytest.approx(1.0)


def test_li_gd_predicts_the_rates_of_bands_that_hear_each_other() -> None:
    scenario = lab(5)
    policy = registry.create("li-gd-ofdma", {})
    assert isinstance(policy, LiGd)
    policy.reset(scenario, 1)
    for slot in range(3):
        observation = example_observation(scenario, slot, 3)
        decision = enforce(scenario, None, policy.decide(observation), observation)
        assert policy._plan is not None
        found = rates(scenario, {str(ue.name): (ue.gain_up, ue.gain_down) for ue in observation.ues}, decision)
        predicted = policy._plan.rates_bits_per_second.T
        sends = [index for index, ue in enumerate(decision.ues) if ue.spectrum_up_hz > 0]
        assert len(sends) > 2
        for index in sends:
            assert found[decision.ues[index].name] == pytest.approx(tuple(predicted[index]), rel=1e-9)


def test_the_simulator_serves_what_the_cells_leave_each_other() -> None:
    scenario = lab(4)
    near = msgspec.structs.replace(scenario, radio=msgspec.structs.replace(scenario.radio, leakage_ratio=0.3))
    delays = []
    for one in (scenario, near):
        policy = Listening()
        result = simulate(one, policy, 20, 1)
        up = rates(
            one, {str(ue.name): ((ue.mean_gain,), (ue.mean_gain,)) for ue in one.ues}, bootstrap_decision(one, 0)
        )
        served = [up[str(ue.name)].up_bits_per_second for ue in one.ues]
        assert policy.rates[-1] == pytest.approx(served, rel=1e-9)
        delays.append(result.mean_delay_seconds())
    assert delays[0] < delays[1]

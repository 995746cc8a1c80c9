"""The search over cuts: against brute force, and what happens where nothing fits."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest

from controller.contract import Scenario
from controller.policies.examples import example_scenario
from controller.solvers.allocation.chain import ChainTables, SlotState, useful_cuts
from controller.solvers.allocation.cuts import coordinate_descent, exhaustive, feasible_alone, project
from controller.solvers.allocation.shares import allocate


def lab(ues: int) -> Scenario:
    """Devices that can carry the whole model at 3.5 tasks a second."""
    scenario = example_scenario(ues, slot_seconds=2.0)
    return msgspec.structs.replace(
        scenario, ues=tuple(msgspec.structs.replace(ue, max_speed=0.25) for ue in scenario.ues)
    )


def random_state(scenario: Scenario, seed: int, environments: int) -> SlotState:
    rng = np.random.default_rng(seed)
    tables = ChainTables.of(scenario)
    shape = (environments, len(scenario.ues))
    gains = np.array([ue.mean_gain for ue in scenario.ues]) * 10 ** rng.uniform(-1.5, 1.5, shape)
    return SlotState(
        arrival_rate=rng.uniform(0.5, 3.5, shape),
        link_quality=tables.link_quality(gains),
        downlink_rate=tables.downlink_rate(gains),
        queue_joules=rng.exponential(0.3, shape),
    )


def row(state: SlotState, index: int) -> SlotState:
    return SlotState(*(getattr(state, name)[index] for name in state.__dataclass_fields__))


def test_exhaustive_is_the_minimum_over_all_joint_cuts_and_descent_is_close() -> None:
    scenario = lab(3)
    tables = ChainTables.of(scenario)
    limits = tables.limits(0.3)
    state = random_state(scenario, 1, 12)
    start = np.broadcast_to(tables.local, (12, 3))
    cuts, cost = coordinate_descent(tables, start, state, limits)
    ratios = []
    for index in range(12):
        one = row(state, index)
        best_cuts, best = exhaustive(tables, one, limits)
        by_hand = min(
            float(allocate(tables.demands(np.array([joint]), one), tables.ues, limits).cost[0])
            for joint in itertools.product(range(int(tables.counts[0])), repeat=3)
        )
        assert best == pytest.approx(by_hand, rel=1e-12)
        again = allocate(tables.demands(best_cuts[np.newaxis], one), tables.ues, limits).cost[0]
        assert again == pytest.approx(best, rel=1e-12)
        ratios.append(cost[index] / best)
        reported = allocate(tables.demands(cuts[index : index + 1], one), tables.ues, limits).cost[0]
        assert cost[index] == pytest.approx(reported, rel=1e-12)
    assert min(ratios) >= 1 - 1e-12
    assert np.mean(ratios) < 1.03


def test_no_single_change_improves_what_descent_returns() -> None:
    scenario = lab(5)
    tables = ChainTables.of(scenario)
    limits = tables.limits(0.3)
    state = random_state(scenario, 2, 6)
    cuts, cost = coordinate_descent(tables, np.broadcast_to(tables.local, (6, 5)), state, limits, "exact")
    for index, ue in itertools.product(range(6), range(5)):
        trial = np.repeat(cuts[index : index + 1], int(tables.counts[ue]), axis=0)
        trial[:, ue] = np.arange(tables.counts[ue])
        found = allocate(tables.demands(trial, row(state, index)), tables.ues, limits, "exact").cost
        assert found.min() >= cost[index] * (1 - 1e-7)


def test_projection_makes_every_joint_cut_feasible_and_leaves_feasible_ones_alone() -> None:
    scenario = lab(6)
    tables = ChainTables.of(scenario)
    limits = tables.limits(0.3)
    state = random_state(scenario, 3, 300)
    rng = np.random.default_rng(0)
    asked = rng.integers(0, tables.counts[0], (300, 6))
    before = allocate(tables.demands(asked, state), tables.ues, limits).feasible
    assert 0.05 < before.mean() < 0.95
    projected = project(tables, asked, state)
    np.testing.assert_array_equal(projected[before], asked[before])
    assert allocate(tables.demands(projected, state), tables.ues, limits).feasible.all()
    assert np.any(projected[~before] != asked[~before], axis=1).all()


def test_a_head_that_the_device_cannot_carry_gives_way_to_an_earlier_cut() -> None:
    scenario = lab(1)
    tables = ChainTables.of(scenario)
    whole = tables.head_seconds[0, tables.local[0]]
    rate = np.array([1.01 * tables.ues.max_speed[0] / whole])
    state = SlotState(rate, tables.link_quality(np.array([1e-9])), np.array([1e7]), np.zeros(1))
    mask = feasible_alone(tables, state, 1)[0, 0]
    assert not mask[tables.local[0]]
    assert mask[0]
    assert project(tables, tables.local[np.newaxis], state)[0, 0] < tables.local[0]


def test_exhaustive_refuses_what_it_cannot_finish() -> None:
    scenario = lab(9)
    tables = ChainTables.of(scenario)
    with pytest.raises(ValueError, match="joint cuts"):
        exhaustive(tables, row(random_state(scenario, 1, 1), 0), tables.limits(0.3))


def test_useful_cuts_keep_both_ends_and_send_ever_less() -> None:
    scenario = lab(1)
    profile = scenario.ues[0].profile
    bits = ChainTables.of(scenario, every_cut=True).wire_bits[0]
    kept = useful_cuts(profile, bits)
    assert kept[0] == 0
    assert kept[-1] == len(profile.chain_cuts) - 1
    assert np.all(np.diff(bits[list(kept)]) < 0)
    # the stem's maps are larger than the raw image: never worth a cut
    assert profile.chain_cuts.index(("stem",)) not in kept


def test_descent_misses_no_slot_that_can_be_served_near_saturation() -> None:
    """Slots that devices cannot carry alone, from starts at random: 4 of 486 were missed while idle UEs held shares."""
    scenario = lab(3)
    scenario = msgspec.structs.replace(
        scenario,
        edge=msgspec.structs.replace(scenario.edge, cpus=0.3),
        radio=msgspec.structs.replace(scenario.radio, uplink_hz=3e6),
        ues=tuple(msgspec.structs.replace(ue, max_speed=0.15) for ue in scenario.ues),
    )
    tables, limits, rng = ChainTables.of(scenario), ChainTables.of(scenario).limits(0.3), np.random.default_rng(2)
    gains = np.array([ue.mean_gain for ue in scenario.ues]) * 10 ** rng.uniform(-1.0, 1.5, (150, 3))
    state = SlotState(
        arrival_rate=rng.uniform(1.5, 6.0, (150, 3)),
        link_quality=tables.link_quality(gains),
        downlink_rate=tables.downlink_rate(gains),
        queue_joules=rng.exponential(0.3, (150, 3)),
    )
    start = np.stack([rng.integers(0, count, 150) for count in tables.counts], axis=1)
    _, cost = coordinate_descent(tables, start, state, limits)
    best = np.array([exhaustive(tables, row(state, index), limits)[1] for index in range(150)])
    assert 20 < np.isfinite(best).sum() < 150
    np.testing.assert_array_equal(np.isfinite(cost), np.isfinite(best))

"""Li-GD: its rates are the radio model's, warm starts lose nothing, seats, and the policies on it."""

from __future__ import annotations

import dataclasses
from typing import Literal

import msgspec
import numpy as np
import pytest
import torch

from benchmarks.noma import cell as benchmark_cell
from benchmarks.noma import comparison, joint_optimum
from controller.contract import ALL_ON_DEVICE, Scenario
from controller.model.channel import subchannel_ratios
from controller.model.decision import enforce
from controller.model.radio import rates
from controller.model.sic import interference_weights
from controller.policies import registry
from controller.policies.check import check_policy
from controller.policies.examples import example_observation, example_scenario
from controller.policies.li_gd import LiGd, LiGdOfdma, alone_costs, local_costs
from controller.solvers.noma.descent import PER_SLOT, THOROUGH, Options, descend
from controller.solvers.noma.li_gd import chain, evaluate_seats, solve
from controller.solvers.noma.relaxation import DOWN, TABLES, UP, Relaxation, SplitProblem

replace = msgspec.structs.replace


def cell(seed: int, ues: int = 4, subchannels: int = 2, access: Literal["noma", "ofdma"] = "noma") -> SplitProblem:
    """Six splits; the sizes shrink from 5 Mbit to nothing, devices are 10 to 40 times slower than the edge."""
    rng = np.random.default_rng(seed)
    bits = np.array([4.8e6, 1.5e6, 1.0e6, 3e5, 1.3e5, 0.0])
    head = np.array([0.0, 0.2, 0.6, 1.0, 1.3, 1.43])  # GFLOP
    speed = rng.uniform(1.0, 4.0, ues)
    loss = 10 ** (-(30.6 + 36.7 * np.log10(rng.uniform(20.0, 200.0, ues))) / 10)
    rows = np.ones((ues, 1))
    return SplitProblem(
        device_seconds=head / speed[:, np.newaxis],
        device_joules=0.1 * speed[:, np.newaxis] ** 2 * head,
        up_bits=rows * bits,
        down_bits=rows * np.where(bits > 0, 32e3, 0.0),
        edge_work=rows * np.where(bits > 0, 1.43 - head, 0.0),
        constant_seconds=np.zeros((ues, 6)),
        gains=loss[np.newaxis, :, np.newaxis] * rng.exponential(size=(2, ues, subchannels)),
        max_watts=np.stack([np.full(ues, 0.2), np.full(ues, 1.0)]),
        subchannel_hz=(10e6 / subchannels, 10e6 / subchannels),
        noise_watts_per_hz=4e-21,
        edge_capacity=60.0,
        edge_joules_per_work=1e-3,
        access=access,
    )


@pytest.mark.parametrize(("points", "residual"), [(1, 0.0), (1, 0.05), (2, 0.05), (3, 0.0)])
def test_interference_is_the_one_of_the_radio_model(points: int, residual: float) -> None:
    member = np.arange(7) % points
    problem = dataclasses.replace(
        cell(1, 7, 3), sic_residual_ratio=residual, access_points=member, leakage_ratio=0.1 if points > 1 else 0.0
    )
    relaxed = Relaxation([problem, problem])
    signal = torch.as_tensor(np.random.default_rng(2).exponential(size=(2, 2, 7, 3)))
    heard = relaxed._heard(signal).numpy()
    for way in (UP, DOWN):
        weights = interference_weights(
            problem.gains[way],
            downlink=way == DOWN,
            residual_ratio=residual,
            access_points=member,
            leakage_ratio=problem.leakage_ratio,
        )
        expected = np.einsum("mij,bjm->bim", weights, signal[:, way].numpy())
        np.testing.assert_allclose(heard[:, way], expected, rtol=1e-12)


def test_each_access_point_has_its_own_power() -> None:
    problem = dataclasses.replace(
        cell(1, 4, 2), access_points=np.array([0, 1, 0, 1]), leakage_ratio=0.01, downlink_total_watts=1.5
    )
    relaxed = Relaxation([problem])
    z = relaxed.start(1.0, 5)
    for splits, expected in (([1, 1, 1, 1], [1.5, 1.5]), ([1, 1, 5, 5], [1.5, 1.5])):
        chosen = relaxed.at_split(torch.tensor([splits]))
        watts = (relaxed.evaluate(z, chosen).watts[0, DOWN] * chosen.remote[0]).numpy()
        assert [watts[0::2].sum(), watts[1::2].sum()] == pytest.approx(expected)


@pytest.mark.thorough
def test_warm_starts_find_what_cold_ones_find_in_fewer_iterations() -> None:
    cells = [cell(seed) for seed in range(3)]
    warm, cold = solve(cells), solve(cells, warm=False)
    for ours, theirs in zip(warm, cold, strict=True):
        assert ours.common_split == theirs.common_split
        assert ours.common_cost <= 1.001 * theirs.common_cost
        assert ours.iterations < theirs.iterations / 2
        assert ours.relaxed_cost <= ours.common_cost


@pytest.mark.thorough
def test_on_the_cells_of_the_benchmark() -> None:
    """Six of its 18: AlexNet's eleven blocks, 4 UEs."""
    (row,) = comparison(6, [(4, 2)])
    assert row["same_split"] == row["runs"] == 6
    assert row["worst_cost_ratio"] <= 1.001  # type: ignore[operator]
    assert all(4 <= ratio <= 6 for ratio in row["iteration_ratios"])  # type: ignore[attr-defined]
    assert 0 <= np.mean(row["rounding_losses"]) <= 0.025  # type: ignore[arg-type]
    assert row["per_user_cost"] <= row["li_gd_cost"] < row["device_only"]  # type: ignore[operator]


def spread(relaxed: Relaxation, z: torch.Tensor, split: torch.Tensor) -> float:
    """How much of the sending UEs is not on their best subchannel, in the mean."""
    chosen = relaxed.at_split(split)
    best = relaxed.evaluate(z, chosen).on.amax(dim=3)
    sending = chosen.remote[:, None].expand_as(best) > 0
    return float(1 - best[sending].mean())


@pytest.mark.thorough
def test_the_entropy_penalty_gathers_ues_on_one_subchannel() -> None:
    relaxed = Relaxation([cell(seed) for seed in range(4)])
    common = chain(relaxed, relaxed.start(THOROUGH.start_scale, 0), THOROUGH)
    split = common.split[:, None].expand(-1, relaxed.ues)
    before, z = spread(relaxed, common.z, split), common.z
    for weight in THOROUGH.entropy_weights:
        z = descend(relaxed.cost(split, entropy_weight=weight), z, THOROUGH).z
        after = spread(relaxed, z, split)
        assert after < before
        before = after
    assert before < 0.02


@pytest.mark.thorough
def test_seats_from_a_penalised_descent_cost_no_more() -> None:
    cells = [benchmark_cell(4, 2, seed) for seed in range(3)]
    plain = solve(cells, dataclasses.replace(THOROUGH, entropy_weights=()))
    both = solve(cells)
    assert all(ours.cost <= theirs.cost for ours, theirs in zip(both, plain, strict=True))
    assert sum(ours.cost < 0.98 * theirs.cost for ours, theirs in zip(both, plain, strict=True)) >= 1
    assert all(ours.later_iterations > theirs.later_iterations for ours, theirs in zip(both, plain, strict=True))
    assert all(ours.relaxed_cost == theirs.relaxed_cost for ours, theirs in zip(both, plain, strict=True))


@pytest.mark.thorough
def test_a_batch_is_its_problems_one_by_one() -> None:
    cells = [cell(4), cell(5)]
    start = torch.zeros((2, Relaxation(cells).variables), dtype=torch.float64)
    together = solve(cells, start=start)
    for row, plan in enumerate(together):
        (alone,) = solve([cells[row]], start=start[:1])
        assert alone.cost == pytest.approx(plan.cost, rel=1e-6)
        np.testing.assert_array_equal(alone.split, plan.split)


@pytest.mark.thorough
@pytest.mark.parametrize("access", ["noma", "ofdma"])
def test_seats_are_as_good_as_the_best_of_all(access: Literal["noma", "ofdma"]) -> None:
    problem = cell(7, ues=3, access=access)
    (plan,) = solve([problem])
    one_way = np.array([s for s in np.ndindex(2, 2, 2) if max(np.bincount(s)) <= 2])
    both = np.array([[up, down] for up in one_way for down in one_way])
    best = evaluate_seats(problem, both)
    assert plan.cost <= 1.005 * best.cost
    for way in (UP, DOWN):
        assert max(np.bincount(plan.subchannel[way][plan.subchannel[way] >= 0], minlength=1)) <= 2


@pytest.mark.thorough
@pytest.mark.parametrize("options", [THOROUGH, PER_SLOT])
def test_two_ues_are_as_good_as_the_best_of_all_splits_and_seats(options: Options) -> None:
    problem = cell(7, ues=2)  # at the best split for each UE's present rates, 5 % above it
    (plan,) = solve([problem], options, seed=1)
    assert plan.cost <= 1.006 * joint_optimum(problem, PER_SLOT)
    assert len(set(plan.split.tolist())) == 2


def test_changes_of_one_split_cost_no_more() -> None:
    problems = [cell(seed, ues=2) for seed in (1, 7, 8)]
    before = solve(problems, dataclasses.replace(PER_SLOT, split_rounds=0), seed=1)
    after = solve(problems, PER_SLOT, seed=1)
    gains = [1 - new.cost / old.cost for new, old in zip(after, before, strict=True)]
    assert min(gains) >= 0
    assert sum(gain > 0.02 for gain in gains) >= 2
    for plan in after:
        for way in (UP, DOWN):
            assert max(np.bincount(plan.subchannel[way][plan.subchannel[way] >= 0], minlength=1)) <= 2


def test_nobody_is_worse_off_than_on_the_device() -> None:
    problem = cell(3)
    far = problem.gains.copy()
    far[:, 0] *= 1e-9
    problem = dataclasses.replace(problem, gains=far)
    (plan,) = solve([problem])
    own = problem.time_weight * plan.seconds + problem.energy_weight * plan.joules
    assert np.all(own <= local_costs(problem) * (1 + 1e-9))
    assert plan.split[0] == 5
    assert plan.subchannel[UP, 0] == -1
    assert alone_costs(problem)[0].min() > local_costs(problem)[0]


def without(problem: SplitProblem, ue: int) -> SplitProblem:
    tables = {key: np.delete(getattr(problem, key), ue, axis=0) for key in TABLES}
    gains, watts = np.delete(problem.gains, ue, axis=1), np.delete(problem.max_watts, ue, axis=1)
    return dataclasses.replace(problem, **tables, gains=gains, max_watts=watts)


@pytest.mark.parametrize("access", ["noma", "ofdma"])
def test_a_dead_ue_leaves_the_others_as_they_are_without_it(access: Literal["noma", "ofdma"]) -> None:
    problem = cell(1, access=access)
    gains = problem.gains.copy()
    gains[:, 0] *= 1e-12
    dead = LiGd().narrowed(dataclasses.replace(problem, gains=gains))
    plan, alone = solve([dead], PER_SLOT)[0], solve([without(problem, 0)], PER_SLOT)[0]
    assert (dead.up_bits[0] == 0).all()
    np.testing.assert_array_equal(plan.split[1:], alone.split)
    assert np.any(alone.split < 5)
    assert plan.cost - local_costs(problem)[0] == pytest.approx(alone.cost, rel=0.01)


def test_more_users_than_seats_stay_local_and_the_others_do_not() -> None:
    problem = dataclasses.replace(cell(2, ues=5), users_per_subchannel=1)
    (plan,) = solve([problem], PER_SLOT)
    assert 1 <= np.sum(plan.split < 5) <= 2
    assert plan.cost < 0.95 * local_costs(problem).sum()


@pytest.mark.parametrize("access", ["noma", "ofdma"])
@pytest.mark.parametrize("splits", [[5, 1, 0, 5], [0, 5, 5, 5], [5, 5, 5, 5], [1, 2, 3, 4]])
def test_values_and_gradients_are_finite_whoever_computes_alone(
    access: Literal["noma", "ofdma"], splits: list[int]
) -> None:
    relaxed = Relaxation([cell(3, access=access)])
    split = torch.tensor([splits])
    cost = relaxed.cost(split, entropy_weight=0.05)
    z = relaxed.start(0.5, 4).requires_grad_()
    assert torch.isfinite(cost(z)).all()
    assert torch.isfinite(relaxed.own_costs(z.detach(), split)[relaxed.remote_splits == 0]).all()
    assert not torch.isnan(relaxed.own_costs(z.detach(), split)).any()
    (gradient,) = torch.autograd.grad(cost(z).sum(), z)
    step = 1e-6 * torch.eye(relaxed.variables, dtype=torch.float64)
    many = relaxed.repeated(0, relaxed.variables).cost(split.expand(relaxed.variables, -1), entropy_weight=0.05)
    differences = (many(z.detach() + step) - many(z.detach() - step)) / 2e-6
    np.testing.assert_allclose(gradient[0].numpy(), differences.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.thorough
def test_a_delay_that_users_expect_is_met_where_it_can_be() -> None:
    problem = cell(4)
    (plain,) = solve([problem])
    goal = np.full(4, 0.97 * plain.seconds.max())  # the slowest just misses it
    (kept,) = solve([dataclasses.replace(problem, qoe_weight=1.0, qoe_seconds=goal)])
    assert np.all(kept.seconds <= goal)
    assert kept.cost < plain.cost  # its users are worth something


def lab(ues: int = 4, subchannels: int = 2) -> Scenario:
    scenario = example_scenario(ues)
    drawn = [subchannel_ratios(subchannels, 5, index) for index in range(ues)]
    return replace(
        scenario,
        radio=replace(scenario.radio, access="noma", subchannels=subchannels, users_per_subchannel=2),
        edge=replace(scenario.edge, cpus=2.0, compute_watts=5.0),
        ues=tuple(
            replace(ue, subchannel_ratios_up=tuple(one.up.tolist()), subchannel_ratios_down=tuple(one.down.tolist()))
            for ue, one in zip(scenario.ues, drawn, strict=True)
        ),
    )


@pytest.mark.parametrize("policy", [LiGd(), LiGd(entropy_weight=0.05), LiGdOfdma()])
def test_a_decision_brings_the_rates_that_were_planned(policy: LiGd) -> None:
    scenario = lab()
    policy.reset(scenario, 1)
    seen = example_observation(scenario, 3)
    decision = enforce(scenario, None, policy.decide(seen))
    found = rates(scenario, {ue.name: (ue.gain_up, ue.gain_down) for ue in seen.ues}, decision)
    plan = policy._plan
    assert plan is not None
    remote = [index for index, ue in enumerate(decision.ues) if ue.cut != ALL_ON_DEVICE]
    assert remote
    for index in remote:
        planned = plan.rates_bits_per_second[:, index]
        assert found[scenario.ues[index].name] == pytest.approx(tuple(planned), rel=1e-9)
    shares = sum(ue.edge_share for ue in decision.ues)
    assert shares <= scenario.edge.cpus * (1 + 1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "li-gd",
        "li-gd-ofdma",
        "li-gd-edge-only",
        "li-gd-random",
        *(pytest.param(name, marks=pytest.mark.thorough) for name in ("li-gd-exhaustive", "li-gd-cold")),
    ],
)
def test_policies_keep_the_contract(name: str) -> None:
    scenario = lab(3)
    check_policy(registry.create(name), scenario, slots=9)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="time_weight"):
        LiGd(time_weight=0.0)
    with pytest.raises(ValueError, match="entropy_weight"):
        LiGd(entropy_weight=-0.1)
    scenario = lab()
    traced = replace(scenario.ues[1], channel_kind="rate")
    with pytest.raises(ValueError, match="works on gains"):
        LiGd().reset(replace(scenario, ues=(scenario.ues[0], traced)), 0)
    with pytest.raises(ValueError, match="too many"):
        registry.create("li-gd-exhaustive").reset(lab(12), 0)

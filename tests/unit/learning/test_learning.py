"""Learners learn, repeat with their seed, and hand over checkpoints that only fitting labs accept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from controller.contract import Scenario, SlotOutcome, UeOutcome
from controller.learning.actor import Actor, Trained, evaluate, training_batches
from controller.learning.checkpoint import CheckpointMismatchError, load_checkpoint, save_checkpoint
from controller.learning.everything import EverythingConfig, EverythingGame, train_everything
from controller.learning.levels import LEVELS, SPEED_RATIOS, decided
from controller.learning.network import FEATURES, actor_logits, shapes
from controller.learning.ppo import PpoConfig, train_ppo
from controller.policies.everything import PpoEverything
from controller.policies.examples import example_observation, example_scenario
from controller.policies.lymdo import Lymdo, LymdoEqualShares
from controller.policies.registry import create
from controller.simulator.channels import ChannelStates
from controller.simulator.simulate import simulate

QUICK = PpoConfig(updates=12, environments=64, rollout_slots=16, evaluate_every=6, final_slots=20)


def lab(ues: int = 3) -> tuple[Scenario, ChannelStates]:
    scenario = example_scenario(ues, slot_seconds=2.0, energy_budget_joules=0.25)
    rng = np.random.default_rng(1)
    means = np.array([ue.mean_gain for ue in scenario.ues])
    gains = means * 10 ** (0.8 * rng.standard_normal((2000, ues)))
    scenario = msgspec.structs.replace(
        scenario, ues=tuple(msgspec.structs.replace(ue, max_speed=0.25) for ue in scenario.ues)
    )
    return scenario, ChannelStates(2.0, gains, gains)


@pytest.fixture(scope="module")
def trained() -> Trained:
    scenario, channel = lab()
    return train_ppo(scenario, channel, 0.3, 5, QUICK)


@pytest.fixture
def checkpoint(trained: Trained, tmp_path: Path) -> Path:
    trained.save(tmp_path / "actor.npz")
    return tmp_path / "actor.npz"


@pytest.mark.thorough
def test_ppo_closes_most_of_the_gap_to_coordinate_descent(trained: Trained) -> None:
    scenario, channel = lab()
    torch.manual_seed(1)
    _, test = training_batches(scenario, channel, 8, 0.3, 5, 1.0)
    untrained = evaluate(Actor(test.tables.head_seconds.shape[1]), test, 10, 1, 1)
    assert trained.curve.likely_gap[-1] < 0.35 * untrained.likely_gap
    assert trained.curve.best_gap[-1] <= trained.curve.likely_gap[-1]
    assert trained.steps == 12 * 64 * 16


@pytest.mark.thorough
def test_the_same_seed_trains_the_same_actor_and_another_does_not(trained: Trained) -> None:
    scenario, channel = lab()
    short = replace(QUICK, updates=3, evaluate_every=3)
    weights = [train_ppo(scenario, channel, 0.3, seed, short).actor.state_dict() for seed in (5, 5, 6)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


@pytest.mark.thorough
def test_training_resumes_where_it_stopped(tmp_path: Path) -> None:
    scenario, channel = lab()
    state = tmp_path / "state.pt"
    train_ppo(scenario, channel, 0.3, 5, replace(QUICK, updates=3, evaluate_every=3), training_state=state)
    seen: list[int] = []
    longer = replace(QUICK, updates=6, evaluate_every=3)
    train_ppo(scenario, channel, 0.3, 5, longer, resume=state, progress=lambda update, _: seen.append(update))
    assert seen == [6]
    with pytest.raises(ValueError, match="training was under"):
        train_ppo(scenario, channel, 0.3, 5, replace(QUICK, batch_size=64), resume=state)


def test_numpy_and_torch_compute_the_same_logits(trained: Trained, checkpoint: Path) -> None:
    inputs = np.random.default_rng(2).standard_normal((7, 3, FEATURES))
    loaded = load_checkpoint(checkpoint)
    mask = torch.ones((7, 3, len(loaded.header.cuts)), dtype=torch.bool)
    with torch.no_grad():
        expected = trained.actor(torch.from_numpy(inputs.astype(np.float32)), mask).numpy()
    np.testing.assert_allclose(actor_logits(loaded.weights, inputs), expected, atol=1e-5)


def test_a_checkpoint_is_small_says_what_it_is_and_drives_the_policy(trained: Trained, checkpoint: Path) -> None:
    assert checkpoint.stat().st_size < 1_000_000
    scenario, channel = lab()
    policy = create("lymdo", {"V": 0.3, "checkpoint": str(checkpoint)})
    result = simulate(scenario, policy, 60, 3, channel=channel)
    assert len(result.cut_shares()) >= 2
    info = policy.checkpoint_info()
    assert info["learner"] == "ppo"
    assert info["ues"] == 3
    assert info["v"] == 0.3
    assert len(info["sha256"]) == 64
    # virtual queues start where training ended
    budget = np.array([ue.energy_budget_joules for ue in scenario.ues])
    policy.reset(scenario, 1)
    start = np.array([policy.state()[f"virtual_queue_joules.{ue.name}"] for ue in scenario.ues])
    np.testing.assert_allclose(start, trained.final.queue_over_budget * budget, rtol=1e-6)
    policy = Lymdo(V=0.3, checkpoint=str(checkpoint), initial_queue=0.0)
    policy.reset(scenario, 1)
    assert all(value == 0 for key, value in policy.state().items() if key.startswith("virtual"))


def test_more_candidates_are_not_worse_and_equal_shares_are(checkpoint: Path) -> None:
    scenario, _ = lab()
    costs = []
    policies = [
        Lymdo(checkpoint=str(checkpoint), candidates=16, improvements=0),
        Lymdo(checkpoint=str(checkpoint), candidates=1, improvements=0),
        LymdoEqualShares(checkpoint=str(checkpoint), candidates=1, improvements=0),
    ]
    for policy in policies:
        policy.reset(scenario, 1)
        total = 0.0
        for slot in range(40):
            policy.decide(example_observation(scenario, slot))
            total += policy.state()["drift_plus_penalty"]
        costs.append(total)
    assert costs[0] <= costs[1] <= costs[2]


def test_a_lab_with_other_cuts_ues_or_v_is_refused_with_what_was_found_and_what_to_do(checkpoint: Path) -> None:
    scenario, _ = lab()
    more, _ = lab(4)
    with pytest.raises(CheckpointMismatchError, match=r"number of UEs 3, the lab has 4.*testbed train"):
        Lymdo(checkpoint=str(checkpoint)).reset(more, 1)
    with pytest.raises(CheckpointMismatchError, match=r"V 0\.3, the lab has 0\.5"):
        Lymdo(V=0.5, checkpoint=str(checkpoint)).reset(scenario, 1)
    profile = msgspec.structs.replace(scenario.ues[0].profile, model="other")
    other = msgspec.structs.replace(
        scenario, ues=tuple(msgspec.structs.replace(ue, profile=profile) for ue in scenario.ues)
    )
    with pytest.raises(CheckpointMismatchError, match="model"):
        Lymdo(checkpoint=str(checkpoint)).reset(other, 1)


def test_what_else_differs_from_the_training_lab_is_said(checkpoint: Path) -> None:
    scenario, _ = lab()
    policy = Lymdo(checkpoint=str(checkpoint))
    policy.reset(scenario, 1)
    assert policy.checkpoint_info()["outside"] == []
    edge = msgspec.structs.replace(scenario.edge, cpus=scenario.edge.cpus * 0.3)
    policy.reset(msgspec.structs.replace(scenario, edge=edge), 1)
    (said,) = policy.checkpoint_info()["outside"]
    assert said.startswith("edge per UE, cpus")
    assert "trained on" in said


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path, trained: Trained, checkpoint: Path) -> None:
    with pytest.raises(CheckpointMismatchError, match="readable"):
        load_checkpoint(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(CheckpointMismatchError, match="readable"):
        load_checkpoint(tmp_path / "text.npz")
    # an object array would need pickle: never loaded
    np.savez(tmp_path / "object.npz", header=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CheckpointMismatchError, match="readable"):
        load_checkpoint(tmp_path / "object.npz")
    header = load_checkpoint(checkpoint).header
    arrays = {name: np.zeros(shape) for name, shape in shapes(len(header.cuts)).items()}
    for other in (1, 99):
        save_checkpoint(tmp_path / "other.npz", msgspec.structs.replace(header, format=other), arrays)
        with pytest.raises(CheckpointMismatchError, match=rf"format {other}; this version reads 2.*testbed train"):
            load_checkpoint(tmp_path / "other.npz")
    arrays["head.2.bias"] = np.zeros(3)
    save_checkpoint(tmp_path / "shape.npz", header, arrays)
    with pytest.raises(CheckpointMismatchError, match=r"head\.2\.bias"):
        load_checkpoint(tmp_path / "shape.npz")


def test_options_are_checked_and_queues_take_measured_energy() -> None:
    for options in (
        {"V": 0.0},
        {"delay_model": "fast"},
        {"initial_queue": -1.0},
        {"solver": "scs"},
        {"candidates": 0, "improvements": 0},
        {"improvements": -1},
    ):
        with pytest.raises(ValueError, match=f"option {next(iter(options))}"):
            Lymdo(**options)  # type: ignore[arg-type]
    scenario, _ = lab()
    policy = Lymdo()
    policy.reset(scenario, 1)
    decision = policy.decide(example_observation(scenario, 0))
    spent = 0.4
    outcome = SlotOutcome(
        slot=0,
        decision=decision,
        ues=tuple(UeOutcome(ue.name, 1, 1, 0, 0.1, {}, spent, 0.1, 1e6, 0) for ue in reversed(scenario.ues)),
    )
    policy.feedback(outcome)
    for ue in scenario.ues:
        assert policy.state()[f"virtual_queue_joules.{ue.name}"] == pytest.approx(0.5 - ue.energy_budget_joules)


def test_both_solvers_decide_alike() -> None:
    scenario, _ = lab()
    decisions = []
    for solver in ("newton", "cvxpy"):
        policy = Lymdo(solver=solver, initial_queue=2.0)
        policy.reset(scenario, 1)
        decisions.append(policy.decide(example_observation(scenario, 0)))
    for ours, oracle in zip(decisions[0].ues, decisions[1].ues, strict=True):
        assert ours.cut == oracle.cut
        assert ours.device_speed == pytest.approx(oracle.device_speed, rel=1e-3)
        assert ours.spectrum_up_hz == pytest.approx(oracle.spectrum_up_hz, rel=1e-3, abs=1.0)
        assert ours.edge_share == pytest.approx(oracle.edge_share, rel=1e-3, abs=1e-6)


@pytest.mark.thorough
def test_an_actor_for_everything_learns_speeds_and_shares_and_drives_its_policy(tmp_path: Path) -> None:
    scenario, channel = lab()
    config = EverythingConfig(
        updates=20, environments=64, rollout_slots=16, evaluate_every=20, batch_size=256, final_slots=20
    )
    found = train_everything(scenario, channel, 0.3, 5, config)
    torch.manual_seed(1)
    game = EverythingGame(*training_batches(scenario, channel, 8, 0.3, 5, 1.0))
    untrained = game.evaluate(Actor(sum(game.heads)), 10, 1)
    assert found.curve.likely_gap[-1] < 0.35 * untrained.likely_gap
    path = tmp_path / "all.npz"
    header = found.save(path)
    assert header.outputs == len(header.cuts) + 3 * LEVELS
    policy = PpoEverything(checkpoint=str(path))
    result = simulate(scenario, policy, 60, 3, channel=channel)
    assert len(np.unique(result.speed.round(9))) >= 3
    assert len(np.unique((result.edge_share / scenario.edge.cpus).round(6))) >= 3
    assert set((result.speed / 0.25).round(9).ravel()) <= set(SPEED_RATIOS.round(9))
    assert policy.checkpoint_info()["learner"] == "ppo-all"
    # an actor of the one kind is none of the other
    with pytest.raises(CheckpointMismatchError, match=r"cut, speed and shares.*wants one that chooses cuts only"):
        Lymdo(checkpoint=str(path)).reset(scenario, 1)


def test_a_policy_for_everything_refuses_an_actor_for_cuts_and_none(checkpoint: Path) -> None:
    scenario, _ = lab()
    with pytest.raises(CheckpointMismatchError, match="cuts only"):
        PpoEverything(checkpoint=str(checkpoint)).reset(scenario, 1)
    with pytest.raises(CheckpointMismatchError, match="testbed train ppo-all"):
        PpoEverything().reset(scenario, 1)


def test_levels_are_shares_that_add_up_and_overload_is_said() -> None:
    scenario, channel = lab()
    batch = training_batches(scenario, channel, 32, 0.3, 1, 1.0)[0]
    rng = np.random.default_rng(3)
    cuts = rng.integers(0, batch.tables.counts.min(), (32, 3))
    levels = rng.integers(0, LEVELS, (32, 3, 3))
    found = decided(batch.tables, batch.limits, cuts, levels, batch.state())
    np.testing.assert_allclose(found.spectrum_hz.sum(axis=1), batch.limits.spectrum_hz)
    np.testing.assert_allclose(found.edge_share.sum(axis=1), batch.limits.edge_cpus)
    np.testing.assert_array_equal(found.feasible, found.largest_load < 1)
    assert 0 < found.feasible.sum() < 32
    assert np.all(np.isfinite(found.energy_joules))
    # never better than the convex step for the same cuts
    best = batch.score(cuts).allocation
    both = found.feasible & best.feasible
    assert np.all(found.cost[both] >= best.cost[both] * (1 - 1e-9))

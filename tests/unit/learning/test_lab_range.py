"""An actor for a range of labs: it learns, serves every lab of its model and says which it has not seen; a decision is
never worse than the last one or all-local, and says whose it is."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from controller.contract import Scenario
from controller.learning.actor import Trained
from controller.learning.checkpoint import CheckpointMismatchError, load_checkpoint
from controller.learning.cut_network import FEATURES, cut_features, cut_scores
from controller.learning.imitation import CutActor, Exam, ImitationConfig, imitate
from controller.learning.lab_range import LAB_RANGE, draw_lab, outside, ranges_of
from controller.policies.examples import example_observation, example_scenario
from controller.policies.lymdo import SOURCES, Lymdo, LymdoEqualShares
from controller.simulator.simulate import simulate
from controller.solvers.allocation.chain import ChainTables, SlotState
from controller.solvers.allocation.cuts import project
from controller.solvers.allocation.shares import allocate

QUICK = ImitationConfig(labs=60, slots=12, evaluate_every=60, test_labs=12, test_slots=4)


def lab(ues: int = 4, **changes: float) -> Scenario:
    scenario = example_scenario(ues, slot_seconds=2.0, energy_budget_joules=0.25)
    return msgspec.structs.replace(
        scenario, ues=tuple(msgspec.structs.replace(ue, **{"max_speed": 0.25, **changes}) for ue in scenario.ues)
    )


@pytest.fixture(scope="module")
def trained() -> Trained:
    return imitate(lab(2), 5, QUICK)


@pytest.fixture
def checkpoint(trained: Trained, tmp_path: Path) -> str:
    trained.save(tmp_path / "actor.npz")
    return str(tmp_path / "actor.npz")


@pytest.mark.thorough
def test_imitation_closes_most_of_the_gap_to_coordinate_descent(trained: Trained) -> None:
    torch.manual_seed(1)
    exam = Exam.of(ChainTables.of(lab(2)), QUICK, 8)
    generator = torch.Generator().manual_seed(1)
    untrained = exam.gaps(CutActor(), 8, generator)
    assert isinstance(trained.actor, CutActor)
    found = exam.gaps(trained.actor, 8, generator)
    assert found.likely_gap < 0.5 * untrained.likely_gap
    assert found.best_gap < 0.7 * found.likely_gap


@pytest.mark.thorough
def test_the_same_seed_trains_the_same_actor_and_another_does_not() -> None:
    short = ImitationConfig(labs=4, slots=8, evaluate_every=4, test_labs=2, test_slots=2)
    weights = [imitate(lab(2), seed, short).actor.state_dict() for seed in (5, 5, 6)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_numpy_and_torch_compute_the_same_scores(trained: Trained, checkpoint: str) -> None:
    rng = np.random.default_rng(2)
    inputs = rng.standard_normal((7, 5, 6, FEATURES))
    usable = rng.random((7, 5, 6)) < 0.7
    usable[..., -1] = True
    with torch.no_grad():
        expected = trained.actor(torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(usable)).numpy()
    found = cut_scores(load_checkpoint(Path(checkpoint)).weights, inputs, usable)
    np.testing.assert_allclose(found[usable], expected[usable], atol=1e-5)
    assert np.all(found[~usable] < -1e8)


def test_drawn_labs_lie_in_the_range_and_what_the_actor_sees_is_finite() -> None:
    base = ChainTables.of(lab(2))
    rng = np.random.default_rng(1)
    counts = set()
    for _ in range(40):
        drawn = draw_lab(base, rng, 6)
        count = drawn.tables.local.size
        counts.add(count)
        scenario = drawn.tables.scenario
        assert LAB_RANGE["uplink spectrum per UE, MHz"][0] <= scenario.radio.uplink_hz / count / 1e6 <= 4.0
        assert np.all((drawn.tables.ues.max_speed >= 0.15 - 1e-9) & (drawn.tables.ues.max_speed <= 1.5 + 1e-9))
        seen = cut_features(drawn.tables, drawn.state, drawn.limits)
        assert seen.shape == (6, count, base.head_seconds.shape[1], FEATURES)
        assert np.all(np.isfinite(seen))
        assert seen.std() > 0.1
    assert min(counts) <= 3
    assert max(counts) >= 20


def test_v_and_queues_reach_the_actor_as_their_ratio_only() -> None:
    drawn = draw_lab(ChainTables.of(lab(2)), np.random.default_rng(3), 6)
    state = drawn.state
    ten = SlotState(state.arrival_rate, state.link_quality, state.downlink_rate, state.queue_joules * 10)
    seen = cut_features(drawn.tables, state, drawn.limits)
    np.testing.assert_allclose(cut_features(drawn.tables, ten, drawn.limits._replace(v=10.0)), seen, atol=1e-6)
    assert np.abs(cut_features(drawn.tables, ten, drawn.limits) - seen).max() > 0.01


def test_one_checkpoint_serves_labs_of_any_size_and_v_but_no_other_model(checkpoint: str) -> None:
    for ues, v in ((3, 0.3), (7, 2.0), (40, 0.05)):
        scenario = lab(ues)
        policy = Lymdo(V=v, checkpoint=checkpoint)
        policy.reset(scenario, 1)
        for slot in range(3):
            assert len(policy.decide(example_observation(scenario, slot)).ues) == ues
        said = policy.checkpoint_info()["outside"]
        assert [line for line in said if line.startswith("number")] == (
            ["number of UEs 40 (trained on 2 to 30)"] if ues == 40 else []
        )
    profile = msgspec.structs.replace(lab().ues[0].profile, model="other")
    other = msgspec.structs.replace(lab(), ues=tuple(msgspec.structs.replace(ue, profile=profile) for ue in lab().ues))
    with pytest.raises(CheckpointMismatchError, match="model"):
        Lymdo(checkpoint=checkpoint).reset(other, 1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_speed": 0.1}, "speed, cores 0.1 (trained on 0.15 to 1.5)"),
        ({"compute_watts": 20.0}, "compute power, W 20 (trained on 0.3 to 6)"),
        ({"transmit_watts": 3.0}, "transmit power, W 3 (trained on 0.05 to 1)"),
        ({"mean_gain": 1e-18}, "signal to noise"),
        ({}, ""),
    ],
)
def test_what_lies_outside_of_the_range_is_said(changes: dict[str, float], says: str) -> None:
    found = [line for line in outside(LAB_RANGE, lab(**changes)) if line not in outside(LAB_RANGE, lab())]
    assert len(found) == (1 if says else 0)
    assert all(line.startswith(says) for line in found)
    # a range that is one lab has this lab inside
    assert outside(ranges_of(lab(**changes)), lab(**changes)) == []


def test_a_decision_is_never_worse_than_the_last_one_or_all_local(checkpoint: str) -> None:
    scenario = lab(5)
    policy = Lymdo(checkpoint=checkpoint, candidates=1, initial_queue=3.0)
    policy.reset(scenario, 1)
    last = policy.tables.local
    for slot in range(30):
        observation = example_observation(scenario, slot)
        state = SlotState.observed(policy.tables, observation, policy.queues.queue_joules)
        others = project(policy.tables, np.stack([last, policy.tables.local]), state)
        cost = allocate(policy.tables.demands(others, state), policy.tables.ues, policy.limits).cost
        decision = policy.decide(observation)
        last = np.array([policy.tables.index_of(i, ue.cut) for i, ue in enumerate(decision.ues)])
        taken = allocate(policy.tables.demands(last[np.newaxis], state), policy.tables.ues, policy.limits).cost[0]
        assert taken <= cost.min() * (1 + 1e-9)


def test_state_says_whose_candidate_won(checkpoint: str) -> None:
    scenario = lab(5)
    for options, possible in (
        ({}, set(range(4))),
        ({"improvements": 0}, {0, 1}),
        ({"candidates": 0}, {2, 3}),
        ({"candidates": 1, "improvements": 0}, {0}),
    ):
        policy = Lymdo(checkpoint=checkpoint, **options)
        policy.reset(scenario, 1)
        assert policy.state()["winner"] == -1
        winners, changed = [], 0
        for slot in range(20):
            policy.decide(example_observation(scenario, slot))
            state = policy.state()
            winners.append(int(state["winner"]))
            changed += state["winner_changes"] > 0
        assert set(winners) <= possible
        assert [state[f"won.{name}"] for name in SOURCES] == [winners.count(i) for i in range(4)]
        assert state["won.improved"] == changed
        assert changed == 0 or options.get("improvements") != 0


def test_equal_shares_differ_from_lymdo_in_nothing_else(checkpoint: str) -> None:
    scenario = lab(5)
    ours, equal = (kind(checkpoint=checkpoint, initial_queue=2.0) for kind in (Lymdo, LymdoEqualShares))
    for policy in (ours, equal):
        policy.reset(scenario, 1)
    differed = 0
    for slot in range(10):
        observation = example_observation(scenario, slot)
        optimal, even = ours.decide(observation).ues, equal.decide(observation).ues
        assert [(ue.cut, ue.device_speed) for ue in optimal] == [(ue.cut, ue.device_speed) for ue in even]
        assert len({round(ue.spectrum_up_hz) for ue in even if ue.cut}) <= 1
        if len({round(ue.spectrum_up_hz) for ue in optimal if ue.cut}) > 1:
            assert equal.state()["drift_plus_penalty"] > ours.state()["drift_plus_penalty"]
            differed += 1
    assert differed > 0


def test_queues_start_where_they_settle(checkpoint: str) -> None:
    scenario = lab(4)
    policy = Lymdo(checkpoint=checkpoint)
    policy.reset(scenario, 1)
    budget = policy.tables.budget_joules
    start = policy.queues.queue_joules / budget
    run = simulate(scenario, Lymdo(checkpoint=checkpoint), 400, 3).policy_state[200:]
    end = np.mean([[state[f"virtual_queue_joules.{ue.name}"] for ue in scenario.ues] for state in run], axis=0) / budget
    assert np.all(start > 0.3 * end - 0.1)
    assert np.all(start < 3.0 * end + 0.1)

"""Stop rules in the simulator: what a task sees is what decides and what it is sent with."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from controller.contract import Decision, Observation, Policy, Scenario, ShadowingLaw, UeDecision, Uploading, cut_label
from controller.model.channel import Channel, Shadowing, mean_shadowing
from controller.model.delay import chain_work
from controller.model.stage_fading import power_states, stage_gains
from controller.policies.examples import example_scenario
from controller.policies.placement import GreedySplit, ModelPlacement, StaticSplit
from controller.policies.static import Fixed
from controller.simulator.channels import ChannelStates
from controller.simulator.simulate import simulate
from controller.solvers.stopping.stopping import genie_cost

SLOTS = 20


def lab(refresh: str = "per_task_stage", rate: float = 0.2, **changes: object) -> Scenario:
    """Two devices half as fast as their edge, whose best cut depends on the channel."""
    scenario = example_scenario(2, slot_seconds=60.0)  # few decisions, many tasks
    arrivals = msgspec.structs.replace(scenario.ues[0].arrivals, rates_per_second=(rate,))
    fields = {
        "channel_refresh": refresh, "gain_floor_ratio": 0.05, "doppler_hz": 1.0, "arrivals": arrivals,
        "max_speed": 0.1, "mean_gain": 3e-12, **changes,
    }  # fmt: skip
    ues = tuple(msgspec.structs.replace(ue, **fields) for ue in scenario.ues)  # type: ignore[arg-type]
    return msgspec.structs.replace(scenario, ues=ues)


class Ruled(ModelPlacement):
    """Its decision with one UE's rule replaced."""

    def __init__(self, **changes: object) -> None:
        super().__init__()
        self.changes = changes

    def decide(self, observation: Observation) -> Decision:
        decision = super().decide(observation)
        first: UeDecision = msgspec.structs.replace(decision.ues[0], **self.changes)
        return msgspec.structs.replace(decision, ues=(first, *decision.ues[1:]))


@pytest.mark.thorough
def test_online_splitting_costs_what_the_solver_expects_and_less_than_every_fixed_cut() -> None:
    scenario = lab(rate=0.05)  # next to no queues: the solver knows of none
    policy = ModelPlacement()
    online = simulate(scenario, policy, 50 * SLOTS, 1)
    expected = policy.plans[0].task_cost
    assert online.mean_delay_seconds() == pytest.approx(expected, rel=0.05)
    assert sum(share > 0.02 for share in online.cut_shares().values()) >= 2
    fixed = [
        simulate(scenario, Fixed("+".join(cut) or "local"), 50 * SLOTS, 1).mean_delay_seconds()
        for cut in policy.problems[0].cuts
    ]
    assert online.mean_delay_seconds() < 0.97 * min(fixed)


def test_a_task_stops_at_the_first_point_whose_gate_it_passes_and_is_sent_at_that_gain() -> None:
    scenario = lab()
    policy = ModelPlacement()
    result = simulate(scenario, policy, SLOTS, 4)
    assert result.tasks is not None
    problem, plan = policy.problems[0], policy.plans[0]
    cut, rule = plan.cut, plan.stop_rule
    chain = scenario.ues[0].profile.chain_cuts
    work = chain_work(scenario, 0)
    mine = np.flatnonzero(result.tasks.ue == 0)
    checked = 0
    for number, row in enumerate(mine):
        gains = stage_gains(scenario.ues[0], 4, 0, number)
        labels = ["+".join(one) or "local" for one in chain]
        stops = [labels.index(label) for label, gate in rule if gains[labels.index(label)] >= gate]
        column = stops[0] if stops else chain.index(cut)
        assert result.cut_labels[result.tasks.cut[row]] == labels[column]
        stamps = result.tasks.stamps[row]
        if np.isnan(stamps).any() or column == len(chain) - 1:
            continue
        seconds = float(problem.inverse_rates(gains[[column]])[0]) * work.up_bits[column]
        assert stamps[4] - stamps[3] == pytest.approx(seconds, rel=1e-9)
        checked += 1
    assert checked > 50


def test_the_genie_is_not_beaten() -> None:
    scenario = lab()
    policy = ModelPlacement()
    result = simulate(scenario, policy, SLOTS, 4)
    assert result.tasks is not None
    problem = policy.problems[0]
    mine = result.tasks.delay_seconds[result.tasks.ue == 0]
    gains = np.array([stage_gains(scenario.ues[0], 4, 0, number) for number in range(len(mine))])
    rates = problem.inverse_rates(gains[:, problem.columns])
    ended = np.isfinite(mine)
    assert np.all(mine[ended] >= genie_cost(problem.costs, problem.stages, rates)[ended] - 1e-9)


@pytest.mark.thorough
def test_a_channel_that_fades_in_time_is_seen_when_the_stage_ends() -> None:
    scenario = lab("time", rate=0.5)
    work = chain_work(scenario, 0)
    profile = scenario.ues[0].profile
    label = "block3"
    seconds = profile.head_seconds[profile.chain_cuts.index((label,))] / 0.1
    step = 0.01
    bad, good = 1e-14, 1e-10
    up = np.full((20_000, 2), bad)
    up[5000:] = good
    channel = ChannelStates(step, up, np.full_like(up, good))
    policy = Ruled(cut=(), stop_rule=((label, 1e-11),))
    result = simulate(scenario, policy, 3, 2, channel=channel)
    assert result.tasks is not None
    rows = (result.tasks.ue == 0) & np.isfinite(result.tasks.stamps[:, 2])
    looks = result.tasks.stamps[rows, 1] + seconds
    stopped = np.array([result.cut_labels[cut] == label for cut in result.tasks.cut[rows]])
    np.testing.assert_array_equal(stopped, looks >= 50.0)
    assert 0 < stopped.sum() < len(stopped)
    assert work.up_bits[profile.chain_cuts.index((label,))] > 0


def test_every_policy_of_a_seed_meets_the_same_gains_and_they_obey_their_law() -> None:
    ue = lab().ues[0]
    assert np.array_equal(stage_gains(ue, 9, 1, 5), stage_gains(ue, 9, 1, 5))
    assert not np.array_equal(stage_gains(ue, 9, 1, 5), stage_gains(ue, 9, 1, 6))
    drawn = np.concatenate([stage_gains(ue, 9, 0, task) for task in range(2000)]) / ue.mean_gain
    law = power_states(ue, 2000)
    assert drawn.min() >= 0.05
    assert drawn.mean() == pytest.approx(law.mean(), rel=0.03)
    assert np.quantile(drawn, 0.5) == pytest.approx(np.quantile(law, 0.5), rel=0.05)


CHANNELS = {
    "shadowed": {"fading": "static", "shadowing": ShadowingLaw(5.0, 0.3), "mean_gain": 3e-12},
    "fading while it uploads": {
        "fading": "rayleigh",
        "doppler_hz": 1.0,
        "channel_step_seconds": 0.1,
        "mean_gain": 1e-13,
    },
    "both": {"fading": "rician", "k_factor": 4.0, "doppler_hz": 0.5, "shadowing": ShadowingLaw(4.0, 0.5, 8.0)},
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", list(CHANNELS))
def test_what_is_promised_on_a_channel_that_changes_while_it_uploads_is_what_comes(name: str) -> None:
    scenario = msgspec.structs.replace(lab("time", rate=0.1, **CHANNELS[name]), slot_seconds=10.0)
    policy = ModelPlacement()
    policy.reset(scenario, 0)
    seconds, ue = 8000.0, scenario.ues[0]
    base = ue.mean_gain
    if ue.shadowing is not None:
        base /= mean_shadowing(ue.shadowing.sigma_db, ue.shadowing.clip_db)
    law = (
        None if ue.shadowing is None else Shadowing(ue.shadowing.sigma_db, ue.shadowing.rho, 10.0, ue.shadowing.clip_db)
    )
    distance = 1e3 * 10 ** ((-10 * math.log10(base) - 128.1) / 37.6)
    one = Channel(distance, ue.fading, ue.doppler_hz if ue.fading != "static" else 0.0, ue.k_factor, law)  # type: ignore[arg-type]
    channel = ChannelStates.from_law([one, one], seconds, 0.1, seed=3)

    def without_queues(tried: Policy) -> float:
        stages = simulate(scenario, tried, int(seconds / 10), 1, channel=channel).mean_stage_seconds()
        return sum(value for stage, value in stages.items() if "queue" not in stage)

    online = without_queues(policy)
    assert policy.state()["expected_cost.ue0"] == pytest.approx(online, rel=0.06)
    static = StaticSplit()
    static.reset(scenario, 0)
    cuts = {static.plans[0].cut, *policy.problems[0].cuts[::2]}
    fixed = {cut: without_queues(Fixed(cut_label(cut))) for cut in cuts}
    assert online <= min(fixed.values()) * 1.01
    assert static.state()["expected_cost.ue0"] == pytest.approx(fixed[static.plans[0].cut], rel=0.06)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"cut": (), "stop_rule": (("nonesuch", 1.0),)},
            "single-tensor cuts in chain order before cut 'local'",
        ),
        ({"cut": ("stem",), "stop_rule": (("block3", 1.0),)}, "in chain order before cut 'stem'"),
        ({"cut": (), "stop_rule": (("stem", 1.0), ("input", 1.0))}, "in chain order"),
        ({"cut": (), "stop_rule": (("stem", -1.0),)}, "threshold at stem must be 0 or more"),
        ({"cut": (), "stop_rule": (("stem", 1.0),), "edge_share": 0.0}, "needs edge_share above 0"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(changes: dict[str, object], text: str) -> None:
    result = simulate(lab(), Ruled(**changes), 5, 1)
    assert len(result.notices) == 5
    assert text in result.notices[0][1].text


def test_slot_mode_and_unknown_laws_are_refused() -> None:
    with pytest.raises(ValueError, match="followed task by task"):
        simulate(lab(), ModelPlacement(placed="all"), 5, 1, "slot")
    with pytest.raises(ValueError, match="is not known before a run; allowed: fading static, rayleigh or rician"):
        simulate(lab("time", fading="trace"), ModelPlacement(), 5, 1)
    noma = lab("time")
    noma = msgspec.structs.replace(noma, radio=msgspec.structs.replace(noma.radio, access="noma"))
    for policy in (ModelPlacement(), StaticSplit()):
        with pytest.raises(ValueError, match="allowed: access ofdma with one subchannel"):
            policy.reset(noma, 0)
    empty = msgspec.structs.replace(lab("time"), uploading=Uploading("keep", 10**9))
    with pytest.raises(ValueError, match="allowed: no 'uploading'"):
        ModelPlacement().reset(empty, 0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rule": "best"}, "rule must be one of optimal"),
        ({"time_weight": 0.0}, "above 0"),
        ({"energy_weight": -1.0}, "0 or more"),
        ({"memory_bytes": -1.0}, "memory_bytes"),
    ],
)
def test_options(options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ModelPlacement(**options)  # type: ignore[arg-type]


def test_memory_and_the_number_of_inferences_limit_what_is_placed() -> None:
    few = lab(inferences_per_version=1.0, mean_gain=1e-13)
    many = lab(inferences_per_version=1e6, mean_gain=1e-13)

    def bytes_of(scenario: Scenario, policy: ModelPlacement) -> float:
        policy.reset(scenario, 0)
        return policy.state()["placed_bytes.ue0"]

    assert bytes_of(few, ModelPlacement()) < bytes_of(many, ModelPlacement())
    assert bytes_of(many, ModelPlacement(memory_bytes=8e5)) <= 8e5
    with pytest.raises(ValueError, match="do not fit into memory_bytes"):
        bytes_of(many, ModelPlacement(placed="all", memory_bytes=10.0))
    with pytest.raises(ValueError, match="no split point"):
        bytes_of(many, ModelPlacement(placed="block2"))


def test_baselines_are_dearer() -> None:
    scenario = lab(rate=0.05)
    means = [
        simulate(scenario, policy, 20 * SLOTS, 3).mean_delay_seconds()
        for policy in (ModelPlacement(), ModelPlacement(rule="look-ahead"), StaticSplit(), GreedySplit())
    ]
    assert means[0] <= min(means[1:]) * 1.001

"""The simulator with policies: same seeds the same tasks, slot mode, environments, fixed runs."""

from __future__ import annotations

import re
import warnings

import msgspec
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from controller.contract import ALL_ON_EDGE, Arrivals, Cut, Decision, Knowledge, Observation, Scenario, SlotOutcome
from controller.learning.batch import SlotBatch, run_fixed_cuts
from controller.learning.environment import SplitInferenceEnv
from controller.model.channel import Channel, Shadowing, mean_gain
from controller.model.delay import chain_work
from controller.policies.base import BasicPolicy
from controller.policies.convex import DeviceOnlyConvex, EdgeOnlyConvex, FixedConvex, NeurosurgeonConvex, RandomConvex
from controller.policies.examples import example_scenario
from controller.policies.lymdo import DelayOnly, Exhaustive, LymdoCoordinateDescent, Myopic
from controller.policies.static import DeviceOnly, EdgeOnly
from controller.simulator.channels import ChannelStates
from controller.simulator.simulate import Mode, simulate
from controller.solvers.allocation.chain import ChainTables
from testbed.node.times import StageTimes

SLOTS = 300


@pytest.fixture(scope="module")
def lab() -> tuple[Scenario, ChannelStates]:
    """Three UEs under slow shadowing with a budget that binds."""
    scenario = example_scenario(3, slot_seconds=2.0, energy_budget_joules=0.25)
    laws = [Channel(distance, "static", shadowing=Shadowing(8.0, 0.9, 2.0, 20.0)) for distance in (200.0, 300.0, 400.0)]
    arrivals = Arrivals(process="switching", rates_per_second=(1.0, 2.0), switch_probability=0.1)
    ues = tuple(
        msgspec.structs.replace(ue, arrivals=arrivals, mean_gain=mean_gain(law), max_speed=0.25)
        for ue, law in zip(scenario.ues, laws, strict=True)
    )
    radio = msgspec.structs.replace(scenario.radio, noise_watts_per_hz=10**-19.0, uplink_hz=4e6, downlink_hz=4e6)
    known = Knowledge(arrival_rate="state")
    scenario = msgspec.structs.replace(scenario, ues=ues, radio=radio, knowledge=known)
    return scenario, ChannelStates.from_law(laws, 2.0 * SLOTS, 2.0, 3)


def test_the_same_seed_gives_the_same_run_and_policies_share_arrivals(lab: tuple[Scenario, ChannelStates]) -> None:
    scenario, channel = lab
    first = simulate(scenario, LymdoCoordinateDescent(), 60, 4, channel=channel)
    again = simulate(scenario, LymdoCoordinateDescent(), 60, 4, channel=channel)
    other = simulate(scenario, DeviceOnly(), 60, 4, channel=channel)
    seed = simulate(scenario, DeviceOnly(), 60, 5, channel=channel)
    assert first.tasks is not None
    assert again.tasks is not None
    assert other.tasks is not None
    assert seed.tasks is not None
    np.testing.assert_array_equal(first.tasks.stamps, again.tasks.stamps)
    np.testing.assert_array_equal(first.tasks.stamps[:, 0], other.tasks.stamps[:, 0])
    assert first.tasks.ue.size != seed.tasks.ue.size


def test_virtual_queues_hold_the_budget_and_energy_blind_policies_do_not(lab: tuple[Scenario, ChannelStates]) -> None:
    scenario, channel = lab
    lymdo = simulate(scenario, LymdoCoordinateDescent(), SLOTS, 1, channel=channel)
    blind = simulate(scenario, DelayOnly(), SLOTS, 1, channel=channel)
    device = simulate(scenario, DeviceOnlyConvex(), SLOTS, 1, channel=channel)
    budget = np.array([ue.energy_budget_joules for ue in scenario.ues])
    last = np.array([lymdo.policy_state[-1][f"virtual_queue_joules.{ue.name}"] for ue in scenario.ues])
    # what the recursion guarantees, from measured energy (the state precedes the last slot's charge)
    excess = lymdo.mean_energy_joules() - budget
    assert np.all(excess <= (last + lymdo.energy_joules[-1]) / SLOTS + 1e-9)
    assert lymdo.energy_ratio().max() < 1.06
    assert blind.energy_ratio().max() > 1.3
    assert blind.mean_delay_seconds() < lymdo.mean_delay_seconds() < device.mean_delay_seconds()
    assert len(lymdo.cut_shares()) >= 2


@pytest.mark.parametrize("policy", [EdgeOnlyConvex, RandomConvex, NeurosurgeonConvex, FixedConvex, Exhaustive, Myopic])
def test_every_baseline_decides_what_the_simulator_accepts(policy: type, lab: tuple[Scenario, ChannelStates]) -> None:
    scenario, channel = lab
    for mode in ("event", "slot"):
        result = simulate(scenario, policy(), 20, 2, mode, channel)  # type: ignore[arg-type]
        assert np.isfinite(result.mean_delay_seconds())
        assert np.all(np.isfinite(result.energy_joules))
        for state in result.policy_state:
            assert all(np.isfinite(value) for value in state.values())


def test_myopic_meets_the_budget_in_every_slot_by_the_formula(lab: tuple[Scenario, ChannelStates]) -> None:
    scenario, channel = lab
    result = simulate(scenario, Myopic(), 60, 2, "slot", channel)
    budget = np.array([ue.energy_budget_joules for ue in scenario.ues])
    assert np.all(result.energy_joules <= budget * 1.01)


def test_slot_mode_reports_the_delay_that_the_policy_predicted(lab: tuple[Scenario, ChannelStates]) -> None:
    scenario, channel = lab
    result = simulate(scenario, LymdoCoordinateDescent(delay_model="exact"), 30, 2, "slot", channel)
    for slot in range(30):
        predicted = [result.policy_state[slot][f"predicted_seconds.{ue.name}"] for ue in scenario.ues]
        np.testing.assert_allclose(result.delay_seconds[slot], predicted, rtol=1e-9)
        joules = [result.policy_state[slot][f"predicted_joules.{ue.name}"] for ue in scenario.ues]
        np.testing.assert_allclose(result.energy_joules[slot], joules, rtol=1e-9)


def test_delay_falls_and_queues_grow_with_v(lab: tuple[Scenario, ChannelStates]) -> None:
    scenario, channel = lab
    delays, queues = [], []
    for v in (0.03, 0.3, 3.0):
        result = simulate(scenario, LymdoCoordinateDescent(V=v), SLOTS, 1, "slot", channel)
        delays.append(result.mean_delay_seconds())
        queues.append(np.mean([state["virtual_queue_joules.ue2"] for state in result.policy_state]))
    assert delays == sorted(delays, reverse=True)
    assert queues == sorted(queues)


def test_summary_has_the_keys_of_a_run(lab: tuple[Scenario, ChannelStates]) -> None:
    scenario, channel = lab
    summary = simulate(scenario, EdgeOnly(), 20, 2, channel=channel, policy_name="edge-only").summary()
    assert summary["policy"] == "edge-only"
    assert summary["runtime"] == "simulator-event"
    assert set(summary["stages_seconds"]) == {
        "ue_queue", "head", "tx_queue", "uplink", "edge_queue", "tail", "downlink",
    }  # fmt: skip
    assert summary["tasks"]["arrived"] == summary["tasks"]["completed"] + summary["tasks"]["in_flight"]
    assert summary["e2e_delay_seconds"]["p50"] <= summary["e2e_delay_seconds"]["p99"]


class _Falters(EdgeOnly):
    """Raises in every fifth slot from the third on, and once in its feedback."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.asked: list[int] = []

    def decide(self, observation: Observation) -> Decision:
        self.asked.append(observation.slot)
        if observation.slot % 5 == 2:
            raise KeyError("no such UE")
        if observation.slot % 5 == 4:
            raise SystemExit(3)
        return super().decide(observation)

    def feedback(self, outcome: SlotOutcome) -> None:
        self.told.append(outcome.slot)
        if outcome.slot == 5:
            raise ZeroDivisionError("no tasks")


@pytest.mark.parametrize("mode", ["event", "slot"])
def test_a_policy_that_raises_keeps_its_last_decision_as_in_a_lab(
    lab: tuple[Scenario, ChannelStates], mode: Mode
) -> None:
    scenario, channel = lab
    policy = _Falters()
    result = simulate(scenario, policy, 10, 1, mode, channel)
    assert [(slot, notice.kind) for slot, notice in result.notices] == [
        (slot, "policy-error") for slot in (2, 4, 6, 7, 9)
    ]
    texts = [notice.text for _, notice in result.notices]
    assert texts[0] == "slot 2: KeyError: 'no such UE'; the last decision stays"
    assert texts[1] == "slot 4: SystemExit: 3; the last decision stays"
    assert texts[2] == "slot 6: ZeroDivisionError: no tasks; the last decision stays"
    assert policy.asked == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert policy.told == list(range(10))
    assert result.cut_labels == ("input",)
    assert result.policy_state[2] == {}


def test_bad_calls_and_bad_decisions_are_refused(lab: tuple[Scenario, ChannelStates]) -> None:
    scenario, channel = lab

    class Greedy(EdgeOnly):
        def decide(self, observation: Observation) -> Decision:
            decision = super().decide(observation)
            ues = tuple(msgspec.structs.replace(ue, edge_share=9.0) for ue in decision.ues)
            return msgspec.structs.replace(decision, ues=ues)

    result = simulate(scenario, Greedy(), 3, 1, channel=channel)
    assert [slot for slot, _ in result.notices] == [0, 1, 2]
    assert result.notices[2][1].kind == "decision-invalid"
    assert re.search("slot 2: the sum of edge_share is .*; the last decision stays", result.notices[2][1].text)
    assert result.cut_shares() == {"local": 1.0}  # until a policy has decided, everything is on the device
    with pytest.raises(ValueError, match="slots"):
        simulate(scenario, EdgeOnly(), 0, 1)
    with pytest.raises(ValueError, match="links"):
        simulate(scenario, EdgeOnly(), 3, 1, channel=ChannelStates(1.0, np.ones((4, 2)), np.ones((4, 2))))
    with pytest.raises(ValueError, match="mode"):
        simulate(scenario, EdgeOnly(), 3, 1, mode="exact")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="finite"):
        ChannelStates(1.0, np.array([[np.nan]]), np.ones((1, 1)))


def test_the_environment_passes_gymnasium_s_checker_and_is_reproducible(lab: tuple[Scenario, ChannelStates]) -> None:
    scenario, channel = lab
    environment = SplitInferenceEnv(scenario, channel, episode_slots=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(environment, skip_render_check=True)
    rewards = []
    for _ in range(2):
        seen, info = environment.reset(seed=3)
        assert environment.observation_space.contains(seen)
        assert info["mask"].any(axis=1).all()
        total, ended = [], False
        while not ended:
            _, reward, _, ended, info = environment.step(np.zeros(3, dtype=np.int64))
            total.append(reward)
        rewards.append(total)
    assert rewards[0] == rewards[1]
    assert len(rewards[0]) == 5


def test_the_environment_s_bounds_hold_for_slow_devices_that_arrivals_overload() -> None:
    """A whole model of 30 s, at rates that switch: loads of hundreds."""
    scenario = example_scenario(2, slot_seconds=0.5)
    ues = []
    for ue in scenario.ues:
        times = 3.0 / ue.profile.head_seconds[-1] * np.array(ue.profile.head_seconds)
        ues.append(
            msgspec.structs.replace(
                ue,
                profile=msgspec.structs.replace(ue.profile, head_seconds=tuple(times)),
                max_speed=0.1,
                arrivals=Arrivals("switching", (1.0, 9.0), switch_probability=0.2),
            )
        )
    environment = SplitInferenceEnv(msgspec.structs.replace(scenario, ues=tuple(ues)), episode_slots=40)
    seen, _ = environment.reset(seed=1)
    loads = []
    ended = False
    while not ended:
        assert environment.observation_space.contains(seen)
        loads.append(seen[:, 4].max())
        seen, _, _, ended, _ = environment.step(np.zeros(2, dtype=np.int64))
    assert max(loads) == pytest.approx(2 * 9.0 * 3.0 / 0.1)


@pytest.mark.thorough
def test_fixed_runs_agree_with_the_policy_of_the_same_cuts(lab: tuple[Scenario, ChannelStates]) -> None:
    scenario, channel = lab
    tables = ChainTables.of(scenario)
    rates = np.ones((SLOTS, 3))
    constant = Arrivals(process="periodic", rates_per_second=(1.0,))
    steady = msgspec.structs.replace(
        scenario, ues=tuple(msgspec.structs.replace(ue, arrivals=constant) for ue in scenario.ues)
    )
    result = simulate(steady, FixedConvex("block3", V=0.3), SLOTS, 7, "slot", channel)
    index = tables.index_of(0, ("block3",))
    found = run_fixed_cuts(steady, channel, rates, np.full((1, 3), index), 0.3)
    np.testing.assert_allclose(found.energy_joules[0], result.mean_energy_joules(), rtol=1e-9)
    np.testing.assert_allclose(found.delay_seconds[0], result.mean_delay_seconds(), rtol=1e-9)


def test_a_batch_charges_its_queues_and_repeats_with_its_seed(lab: tuple[Scenario, ChannelStates]) -> None:
    scenario, channel = lab
    batches = [SlotBatch(scenario, channel, 16, 0.3, 5, queue_scale=2.0) for _ in range(2)]
    cuts = np.random.default_rng(0).integers(0, batches[0].tables.counts[0], (16, 3))
    for _ in range(5):
        before = batches[0].queue_joules
        steps = [batch.step(cuts) for batch in batches]
        np.testing.assert_array_equal(steps[0].reward, steps[1].reward)
        charged = np.maximum(before + steps[0].allocation.energy_joules - batches[0].tables.budget_joules, 0.0)
        np.testing.assert_allclose(batches[0].queue_joules, charged)
        np.testing.assert_allclose(steps[0].reward, -steps[0].allocation.cost / (3 * 0.3))


class _Recorder(BasicPolicy):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.outcomes: list[SlotOutcome] = []

    def cuts(self, observation: Observation) -> list[Cut]:
        return [ALL_ON_EDGE for _ in self.scenario.ues]

    def feedback(self, outcome: SlotOutcome) -> None:
        self.outcomes.append(outcome)


@pytest.mark.parametrize("mode", ["event", "slot"])
def test_an_outcome_holds_the_mean_delay_and_the_sums_of_its_stages(mode: Mode) -> None:
    policy = _Recorder()
    result = simulate(example_scenario(2, slot_seconds=4.0), policy, 30, 1, mode)
    several = 0
    for slot, outcome in enumerate(policy.outcomes):
        for index, ue in enumerate(outcome.ues):
            if ue.completions:
                assert ue.mean_delay_seconds == pytest.approx(result.delay_seconds[slot, index])
                assert sum(ue.stage_seconds.values()) == pytest.approx(ue.mean_delay_seconds * ue.completions)
            else:
                assert np.isnan(ue.mean_delay_seconds)
                assert sum(ue.stage_seconds.values()) == 0
            several += ue.completions > 1
    assert several > 10


def test_the_raw_input_costs_the_device_nothing_in_the_model_as_in_the_agents() -> None:
    scenario = example_scenario(1)
    ue = scenario.ues[0]
    uint8 = ue.profile.codecs["uint8"]
    measured = msgspec.structs.replace(uint8, encode_seconds=(1e-3, *uint8.encode_seconds[1:]))
    profile = msgspec.structs.replace(ue.profile, codecs={**ue.profile.codecs, "uint8": measured})
    scenario = msgspec.structs.replace(scenario, ues=(msgspec.structs.replace(ue, profile=profile),))
    result = simulate(scenario, EdgeOnly(), 40, 1)
    assert result.mean_stage_seconds()["head"] == 0
    assert result.compute_joules.sum() == 0
    times = StageTimes(profile)
    work = chain_work(scenario, 0)
    for index, cut in enumerate(profile.chain_cuts):
        assert work.head_seconds[index] == times.head_seconds(cut, "uint8")
        assert work.tail_seconds[index] == times.tail_seconds(cut, "uint8")


def test_a_budget_for_the_edges_energy_is_kept_in_the_long_run_and_costs_delay(
    lab: tuple[Scenario, ChannelStates],
) -> None:
    scenario, channel = lab
    edge = msgspec.structs.replace(scenario.edge, compute_watts=20.0)
    ues = tuple(msgspec.structs.replace(ue, energy_budget_joules=float("inf")) for ue in scenario.ues)
    scenario = msgspec.structs.replace(scenario, edge=edge, ues=ues)
    kappa = edge.compute_watts / edge.cpus**3

    def spent(policy: LymdoCoordinateDescent) -> tuple[float, float]:
        """(mean energy of the edge per slot by the tasks themselves, mean delay)"""
        result = simulate(scenario, policy, SLOTS, 1, channel=channel)
        assert result.tasks is not None
        tails = np.nan_to_num(result.tasks.stamps[:, 6] - result.tasks.stamps[:, 5])
        return float(
            np.sum(kappa * np.nan_to_num(result.tasks.share) ** 3 * tails)
        ) / SLOTS, result.mean_delay_seconds()

    free, quick = spent(LymdoCoordinateDescent(V=0.3))
    budget = 0.5 * free
    policy = LymdoCoordinateDescent(V=0.3, edge_budget=budget)
    kept, slower = spent(policy)
    assert budget * 0.7 < kept < budget * 1.03
    assert slower > quick
    state = policy.state()
    assert state["edge_virtual_queue_joules"] >= 0
    assert state["edge_joules"] >= 0
    with pytest.raises(ValueError, match="edge's power"):
        LymdoCoordinateDescent(edge_budget=1.0).reset(lab[0], 1)
    for options in ({"edge_budget": 0.0}, {"edge_budget": 1.0, "delay_model": "exact"}):
        with pytest.raises(ValueError, match="edge_budget"):
            LymdoCoordinateDescent(**options)  # type: ignore[arg-type]

"""DDS and what it is compared with, as policies: the contract, the market's promises, and who beats whom."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.dds import LINKS, varied
from benchmarks.dds import setting as suite_setting
from controller.contract import Decision, Edge, Observation, Scenario, UeDecision, UeName
from controller.model.cuts import check_cut
from controller.model.decision import enforce
from controller.model.delay import stage_work, wire_bits
from controller.model.radio import LinkRates, rates
from controller.policies import registry
from controller.policies.check import check_policy
from controller.policies.dag import DagUe
from controller.policies.dds import Dds, in_steps
from controller.policies.dds_baselines import Dads, NeurosurgeonDag, Optimum
from controller.policies.examples import example_observation, example_scenario
from controller.simulator.channels import ChannelStates
from controller.simulator.simulate import simulate
from controller.solvers.dag import game
from controller.solvers.dag.game import Signal
from testbed.inference.profiles import read_profile

PROFILES = Path(__file__).parents[3] / "topologies" / "profiles"
NAMES = ("dds", "dds-first-come", "dds-optimum", "dads", "iao", "neurosurgeon-dag")


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_contract(name: str) -> None:
    policy = registry.create(name, {"starts": 5} if name == "dds-optimum" else {})
    check_policy(policy, example_scenario(1), slots=10)
    check_policy(policy, example_scenario(4), slots=10)


@pytest.mark.parametrize(
    "options", [{"form": "barrier"}, {"form": "proportional"}, {"order": "random"}, {"order": "best"}, {"steps": 64}]
)
def test_every_form_keeps_the_contract(options: dict[str, str]) -> None:
    check_policy(registry.create("dds", options), example_scenario(3), slots=8)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"form": "dutch"}, "form must be"),
        ({"order": "last"}, "order must be"),
        ({"order": "best", "form": "barrier"}, "which only form: linear has"),
        ({"steps": -1}, "steps must be"),
        ({"base": 0}, "base and value"),
    ],
)
def test_options_that_are_not(options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        registry.create("dds", options)


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    """Four UEs with two models, links by rate, and an edge that is too small for all they would like."""
    models = [read_profile(PROFILES / f"{name}.json") for name in ("resnet18", "mobilenet_v2")]
    base = example_scenario(4, slot_seconds=2.0)
    rates = (1.1e6, 5.85e6, 18.88e6, 5.85e6)
    ues = tuple(
        msgspec.structs.replace(
            ue,
            profile=models[index % 2],
            max_speed=0.07,
            channel_kind="rate",
            mean_gain=4 * rates[index],  # of the whole spectrum, of which each gets a quarter
            uplink_delay_seconds=0.005,
            downlink_delay_seconds=0.005,
        )
        for index, ue in enumerate(base.ues)
    )
    return msgspec.structs.replace(base, ues=ues, edge=Edge(cpus=1.2))


def at_mean(scenario: Scenario) -> Observation:
    observation = example_observation(scenario)
    replace = msgspec.structs.replace
    ues = (
        replace(seen, gain_up=(ue.mean_gain,), gain_down=(ue.mean_gain,))
        for ue, seen in zip(scenario.ues, observation.ues, strict=True)
    )
    return replace(observation, ues=tuple(ues))


def latencies(scenario: Scenario, decision: Decision, rates: tuple[float, ...]) -> list[float]:
    """Spelled out, from the functions that agents and simulator use."""
    found = []
    for ue, choice, rate in zip(scenario.ues, decision.ues, rates, strict=True):
        codec = ue.input_codec if choice.cut == ("input",) else ue.boundary_codec
        head, tail = stage_work(ue.profile, choice.cut, codec)
        seconds = head / choice.device_speed
        if choice.cut:
            seconds += tail / choice.edge_share + ue.uplink_delay_seconds + ue.downlink_delay_seconds
            seconds += float(wire_bits(scenario, ue.profile.boundary_bytes(choice.cut, codec))) / rate
            seconds += float(wire_bits(scenario, ue.profile.result_bytes)) / rate
        found.append(seconds)
    return found


def decide(name: str, scenario: Scenario, **options: object) -> tuple[float, Decision]:
    policy = registry.create(name, options)
    policy.reset(scenario, 1)
    decision = policy.decide(at_mean(scenario))
    rates = tuple(ue.mean_gain / len(scenario.ues) for ue in scenario.ues)
    return float(np.mean(latencies(scenario, decision, rates))), decision


def test_the_market_beats_equal_shares_and_no_one_beats_the_optimum(scenario: Scenario) -> None:
    seconds = {name: decide(name, scenario)[0] for name in (*NAMES, "neurosurgeon", "edge-only", "device-only")}
    assert min(seconds.values()) == pytest.approx(seconds["dds-optimum"], rel=1e-6)
    assert seconds["dds"] < min(seconds["dads"], seconds["neurosurgeon"], seconds["neurosurgeon-dag"])
    assert seconds["dds"] < 1.02 * seconds["dds-optimum"]
    assert seconds["dds-optimum"] <= seconds["iao"] <= seconds["dads"]
    light = decide("dads", scenario, mode="light")[0]
    assert seconds["dds"] < light <= seconds["neurosurgeon-dag"] + 1e-9 <= seconds["neurosurgeon"] + 2e-9


def test_nobody_gains_alone(scenario: Scenario) -> None:
    policy = Dds(base=0.002)
    policy.reset(scenario, 1)
    decision = policy.decide(at_mean(scenario))
    state = policy.state()
    shares = [ue.edge_share for ue in decision.ues]
    assert sum(shares) == pytest.approx(scenario.edge.cpus, rel=2e-3)
    assert sum(shares) <= scenario.edge.cpus * (1 + 1e-12)
    assert state["demand_ratio"] == pytest.approx(1.0, rel=2e-3)
    assert state["base_price"] > 0.002
    slope = 10 * 0.002 / scenario.edge.cpus
    for index, ue in enumerate(scenario.ues):
        lone = DagUe(scenario, index)
        link = policy_rate(scenario, index)
        device = lone.device(link, scenario.edge.cpus, 1.0)
        signal = Signal(state["base_price"], slope, sum(shares) - shares[index], scenario.edge.cpus, scenario.edge.cpus)
        own = device.latency(shares[index]) + game.bill(signal, shares[index])
        moves = np.linspace(0, scenario.edge.cpus, 4000)
        assert own - min(device.latency(move) + game.bill(signal, move) for move in moves) <= 1e-9, ue.name


@pytest.mark.parametrize("count", [4, 10, 30])
def test_what_is_in_force_is_what_was_bought_and_an_equilibrium(count: int) -> None:
    """Many UEs compute alone here; they hold nothing of what the others pay for."""
    profiles = [read_profile(PROFILES / f"{name}.json") for name in ("resnet18", "mobilenet_v2")]
    scenario = suite_setting(profiles, count, 0.05, LINKS["mixed"], seed=1)
    policy = Dds()
    policy.reset(scenario, 1)
    observation = at_mean(scenario)
    decision = enforce(scenario, None, policy.decide(observation), observation)
    state = policy.state()
    shares = [ue.edge_share for ue in decision.ues]
    assert shares == pytest.approx([state[f"demand.{ue.name}"] for ue in scenario.ues])
    if count > 4:
        assert sum(share == 0 for share in shares) > 0
    capacity = scenario.edge.cpus
    for index, ue in enumerate(scenario.ues):
        device = DagUe(scenario, index).device(policy_rate(scenario, index), capacity, 1.0)
        signal = Signal(state["base_price"], 10 * 0.002 / capacity, sum(shares) - shares[index], capacity, capacity)
        own = device.latency(shares[index]) + game.bill(signal, shares[index])
        assert own - game.best_response(device, signal).cost <= 1e-6, ue.name


def test_markets_that_begin_at_the_last_one_are_equilibria_and_ask_less() -> None:
    profiles = [read_profile(PROFILES / f"{name}.json") for name in ("resnet18", "mobilenet_v2")]
    scenario = suite_setting(profiles, 30, 0.1, LINKS["mixed"], seed=1)
    warm, cold = Dds(), Dds()
    warm.reset(scenario, 1)
    asked: dict[Dds, float] = {warm: 0.0, cold: 0.0}
    capacity = scenario.edge.cpus
    for slot in range(4):
        observation = varied(scenario, slot)
        cold.reset(scenario, 1)
        decisions = {policy: policy.decide(observation) for policy in (warm, cold)}
        for policy, decision in decisions.items():
            state, shares = policy.state(), [ue.edge_share for ue in decision.ues]
            assert state["settled"] == 1.0
            asked[policy] += state["messages"] * (slot > 0)
            assert sum(shares) <= capacity * (1 + 1e-12)
            links = observed_rates(scenario, observation)
            for index, ue in enumerate(scenario.ues):
                device = DagUe(scenario, index).device(links[index], capacity, 1.0)
                signal = Signal(state["base_price"], 10 * 0.002 / capacity, sum(shares) - shares[index], capacity, capacity)  # fmt: skip  # noqa: E501
                own = device.latency(shares[index]) + game.bill(signal, shares[index])
                assert own - game.best_response(device, signal).cost <= 1e-6, ue.name
        totals = [sum(ue.edge_share for ue in decision.ues) for decision in decisions.values()]
        assert totals[0] == pytest.approx(totals[1], abs=0.01 * capacity)
    assert asked[warm] < 0.8 * asked[cold]


def observed_rates(scenario: Scenario, observation: Observation) -> list[LinkRates]:
    """What each UE's equal part of the spectrum carries."""
    part = scenario.radio.uplink_hz / len(scenario.ues), scenario.radio.downlink_hz / len(scenario.ues)
    gains = {str(ue.name): (ue.gain_up, ue.gain_down) for ue in observation.ues}
    decision = Decision(0, 0, 0.0, tuple(UeDecision(ue.name, (), 1.0, *part, 0.0) for ue in scenario.ues))
    found = rates(scenario, gains, decision)
    return [found[ue.name] for ue in scenario.ues]


def test_shares_of_whole_containers(scenario: Scenario) -> None:
    _, free = decide("dds", scenario)
    part = scenario.edge.cpus / 64
    _, decision = decide("dds", scenario, steps=64)
    parts = [ue.edge_share / part for ue in decision.ues]
    assert parts == pytest.approx(np.round(parts), abs=1e-9)
    assert sum(ue.edge_share for ue in decision.ues) <= scenario.edge.cpus * (1 + 1e-12)
    assert all(abs(a.edge_share - b.edge_share) <= part for a, b in zip(free.ues, decision.ues, strict=True))
    assert {a.edge_share for a in free.ues} != {b.edge_share for b in decision.ues}
    _, coarse = decide("dds", scenario, steps=2)  # four UEs, two parts: who gets none computes alone
    assert sorted(ue.edge_share for ue in coarse.ues)[:2] == [0.0, 0.0]
    assert [ue.cut == () for ue in coarse.ues] == [ue.edge_share == 0 for ue in coarse.ues]


def test_rounding_gives_the_largest_remainders() -> None:
    assert in_steps([0.30, 0.34, 0.36], 1.0, 10) == pytest.approx([0.3, 0.3, 0.4])
    assert in_steps([0.5, 0.25, 0.25], 1.0, 64) == [0.5, 0.25, 0.25]
    rng = np.random.default_rng(3)
    for _ in range(50):
        shares = (rng.dirichlet(np.ones(7)) * rng.uniform(0.3, 1.0) * 2.5).tolist()
        rounded = in_steps(shares, 2.5, 64)
        assert sum(shares) - 2.5 / 64 < sum(rounded) <= sum(shares) + 1e-9
        assert np.abs(np.array(rounded) - shares).max() < 2.5 / 64


def policy_rate(scenario: Scenario, index: int):  # type: ignore[no-untyped-def]
    from controller.model.radio import LinkRates

    rate = scenario.ues[index].mean_gain / len(scenario.ues)
    return LinkRates(rate, rate)


def test_the_last_price_is_where_the_next_search_begins(scenario: Scenario) -> None:
    policy = Dds()
    policy.reset(scenario, 1)
    first = policy.decide(at_mean(scenario))
    asked = policy.state()["messages"]
    second = policy.decide(at_mean(scenario))
    assert policy.state()["messages"] < asked / 2
    shares = [[ue.edge_share for ue in one.ues] for one in (first, second)]
    assert shares[0] == pytest.approx(shares[1], abs=2e-5 * scenario.edge.cpus)


def test_a_ue_without_a_link_computes_alone(scenario: Scenario) -> None:
    observation = at_mean(scenario)
    dead = msgspec.structs.replace(observation.ues[1], gain_up=(0.0,))
    observation = msgspec.structs.replace(observation, ues=(observation.ues[0], dead, *observation.ues[2:]))
    for name in NAMES:
        policy = registry.create(name)
        policy.reset(scenario, 1)
        decision = policy.decide(observation)
        assert decision.ues[1].cut == (), name
        assert decision.ues[1].edge_share == 0, name


def chain_scenario() -> Scenario:
    """AlexNet is a chain."""
    base = example_scenario(2, slot_seconds=2.0)
    profile = read_profile(PROFILES / "alexnet.json")
    ues = tuple(msgspec.structs.replace(ue, profile=profile, max_speed=0.3) for ue in base.ues)
    return msgspec.structs.replace(base, ues=ues)


def test_on_a_chain_dads_and_neurosurgeon_agree() -> None:
    scenario = chain_scenario()
    chosen = set()
    for slot in range(25):
        observation = example_observation(scenario, slot)
        decisions = []
        for policy in (Dads("light"), NeurosurgeonDag(), registry.create("neurosurgeon")):
            policy.reset(scenario, 1)
            decisions.append(policy.decide(observation))
        cuts = [[ue.cut for ue in decision.ues] for decision in decisions]
        assert cuts[0] == cuts[1] == cuts[2]
        chosen.update(cuts[0])
    assert len(chosen) > 1


def test_under_load_dads_shortens_the_busiest_stage(scenario: Scenario) -> None:
    observation = at_mean(scenario)
    busiest = {}
    for mode in ("light", "heavy"):
        policy = Dads(mode)  # type: ignore[arg-type]
        policy.reset(scenario, 1)
        decision = policy.decide(observation)
        busiest[mode] = []
        for index, choice in enumerate(decision.ues):
            ue = policy.ues[index]
            inside = np.ones(len(ue.graph.names), dtype=bool)
            if choice.cut:
                from controller.model.cuts import device_set

                device = device_set(ue.ue.profile.nodes, choice.cut)
                inside = np.array([name in device for name in ue.graph.names])
            busiest[mode].append(max(ue.stages(policy_rate(scenario, index), inside, policy.equal_share)))
    assert all(heavy <= light + 1e-12 for heavy, light in zip(busiest["heavy"], busiest["light"], strict=True))
    assert sum(busiest["heavy"]) < sum(busiest["light"])


def test_dads_turns_heavy_by_itself(scenario: Scenario) -> None:
    policy = Dads()
    policy.reset(scenario, 1)
    calm = at_mean(scenario)
    busy = msgspec.structs.replace(
        calm, ues=tuple(msgspec.structs.replace(ue, nominal_arrival_rate_per_second=50.0) for ue in calm.ues)
    )
    quiet = tuple(msgspec.structs.replace(ue, nominal_arrival_rate_per_second=0.01) for ue in calm.ues)
    policy.decide(msgspec.structs.replace(calm, ues=quiet))
    assert set(policy.state().values()) == {0.0}
    policy.decide(busy)
    assert set(policy.state().values()) == {1.0}


def test_the_optimum_needs_a_start() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Optimum(starts=0)


def test_the_simulator_carries_cuts_of_several_tensors(scenario: Scenario) -> None:
    """Large feature maps on a fast link and a fast edge: a branch may be cut. Every decided cut is canonical."""
    several = msgspec.structs.replace(scenario, edge=Edge(cpus=0.4))
    cut = next(node.inputs for node in several.ues[0].profile.nodes if len(node.inputs) == 2)
    assert len(cut) == 2
    label = "+".join(cut)
    other = next(node.inputs for node in several.ues[1].profile.nodes if len(node.inputs) == 2)
    fixed = registry.create(
        "fixed", {"cut": {str(ue.name): label if i % 2 == 0 else "+".join(other) for i, ue in enumerate(several.ues)}}
    )
    result = simulate(several, fixed, 20, 3)
    assert label in result.cut_labels
    assert np.isfinite(np.nanmean(result.delay_seconds))
    channel = ChannelStates.constant(several)
    found = simulate(several, Dds(), 10, 3, channel=channel)
    for text in found.cut_labels:
        if text != "local":
            assert any(_is_cut(ue.profile.nodes, tuple(text.split("+"))) for ue in several.ues), text
    assert found.policy_state[-1]["settled"] == 1.0
    assert not math.isnan(found.policy_state[-1][f"demand.{UeName(several.ues[0].name)}"])


def _is_cut(nodes, cut) -> bool:  # type: ignore[no-untyped-def]
    try:
        check_cut(nodes, cut)
    except ValueError:
        return False
    return True

"""Whose mean delay LyMDO's family makes least: the tasks', or the UEs'."""

from __future__ import annotations

import math
from typing import get_args

import msgspec
import numpy as np
import pytest

from benchmarks.lymdo.labs import SimulatedLab, simulated_lab
from benchmarks.lymdo.options import PricedAsPoisson
from controller.contract import Arrivals, Scenario
from controller.learning.batch import SlotBatch
from controller.policies import registry
from controller.policies.check import check_policy
from controller.policies.examples import example_observation, example_scenario
from controller.policies.lymdo import LymdoCoordinateDescent
from controller.simulator.channels import ChannelStates
from controller.simulator.simulate import simulate
from controller.solvers.allocation.chain import ChainTables
from controller.solvers.allocation.problem import Objective


def uneven(rates: tuple[float, ...] = (0.4, 0.4, 3.2)) -> Scenario:
    """Devices too slow for the model, alike but for their arrivals, on a narrow band: what one gets another lacks."""
    base = example_scenario(len(rates), slot_seconds=2.0, energy_budget_joules=math.inf)
    return msgspec.structs.replace(
        base,
        radio=msgspec.structs.replace(base.radio, uplink_hz=3e6),
        edge=msgspec.structs.replace(base.edge, cpus=2.0),
        ues=tuple(
            msgspec.structs.replace(ue, arrivals=Arrivals("poisson", (rate,)), max_speed=0.02, mean_gain=3e-10)
            for ue, rate in zip(base.ues, rates, strict=True)
        ),
    )


@pytest.mark.parametrize("name", [name for name in registry.available() if "V" in registry.options(name)])
def test_every_policy_of_the_family_has_the_option(name: str) -> None:
    assert registry.options(name)["objective"] == "tasks"
    with pytest.raises(ValueError, match="objective must be"):
        registry.create(name, {"objective": "users"})


def test_each_objective_is_better_at_its_own_mean() -> None:
    scenario = uneven()
    found = {}
    for objective in get_args(Objective):
        result = simulate(scenario, LymdoCoordinateDescent(objective=objective), 100, 3)
        found[objective] = (result.mean_delay_seconds(), result.mean_ue_delay_seconds().mean())
    assert found["tasks"][0] < 0.9 * found["ues"][0]
    assert found["ues"][1] < 0.9 * found["tasks"][1]


def test_weights_are_the_parts_of_the_tasks() -> None:
    scenario = uneven()
    heavy = msgspec.structs.replace(
        scenario, ues=(msgspec.structs.replace(scenario.ues[0], weight=3.0), *scenario.ues[1:])
    )
    rates = np.array([[0.4, 0.4, 3.2], [0.8, 0.0, 3.2]])
    by_task = ChainTables.of(heavy).weights(rates)
    mean = np.mean([0.4, 0.4, 3.2])
    np.testing.assert_allclose(by_task, np.array([3.0, 1.0, 1.0]) * rates / mean, atol=1e-5)
    assert np.all(by_task > 0)  # a pause of the arrivals makes no price vanish
    np.testing.assert_array_equal(ChainTables.of(heavy, objective="ues").weights(rates), [[3.0, 1.0, 1.0]] * 2)


def test_equal_rates_make_the_objectives_one() -> None:
    scenario = uneven((1.5, 1.5, 1.5))
    decisions = []
    for objective in get_args(Objective):
        policy = LymdoCoordinateDescent(objective=objective)
        policy.reset(scenario, 1)
        decisions.append(policy.decide(example_observation(scenario, 0, 1)))
    assert decisions[0] == decisions[1]


def test_training_weighs_as_the_policies_do() -> None:
    scenario = uneven()
    batch = SlotBatch(scenario, ChannelStates.constant(scenario).at_slots(4, scenario.slot_seconds), 4, 0.3, 1)
    cuts = np.zeros((4, 3), dtype=np.int64)
    step = batch.score(cuts)
    weight = np.array([0.4, 0.4, 3.2]) / np.mean([0.4, 0.4, 3.2])
    mean = -(step.allocation.delay_seconds * weight).mean(axis=1)
    np.testing.assert_allclose(step.reward, mean, rtol=1e-9)  # the virtual queues are empty


def streams(slots: int) -> tuple[SimulatedLab, ChannelStates]:
    lab = simulated_lab("lymdo", ["ues.0.arrivals={process: periodic, rate: 3 /s}"])
    return lab, lab.channel(slots, 2)


def test_periodic_streams_are_priced_as_what_they_are() -> None:
    """What is predicted comes true, and knowing it is worth several per cent. Priced as Poisson it is 31 % off."""
    lab, channel = streams(300)
    known, poisson = (
        simulate(lab.scenario, kind(V=lab.v, initial_queue=4.0), 300, 2, "event", channel)
        for kind in (LymdoCoordinateDescent, PricedAsPoisson)
    )
    predicted = np.mean(
        [state[f"predicted_seconds.{ue.name}"] for state in known.policy_state for ue in lab.scenario.ues]
    )
    assert predicted == pytest.approx(known.mean_delay_seconds(), rel=0.03)
    assert known.mean_delay_seconds() < 0.95 * poisson.mean_delay_seconds()
    assert known.energy_ratio().max() < poisson.energy_ratio().max() + 0.01


FAMILY = ("lymdo", "lymdo-cd", "lymdo-equal", "edge-only+convex", "delay-only", "myopic")


@pytest.mark.parametrize("name", [*FAMILY, "lymdo-equal/dead link", "random+convex/dead link"])
def test_an_overload_is_told_in_finite_numbers(name: str) -> None:
    scenario = uneven((300.0, 300.0, 300.0))
    policy = registry.create(name.split("/")[0])
    policy.reset(scenario, 1)
    seen = example_observation(scenario, 0, 1)
    if "dead" in name:
        dead = tuple(msgspec.structs.replace(ue, gain_up=(0.0,)) for ue in seen.ues)
        seen = msgspec.structs.replace(seen, ues=dead)
    policy.decide(seen)
    state = policy.state()
    assert all(math.isfinite(value) for value in state.values())
    assert state["feasible"] == 0.0
    assert state["largest_load"] >= 1.0


@pytest.mark.parametrize(
    "name",
    [
        *FAMILY[1:4],
        "random+convex",
        *(pytest.param(one, marks=pytest.mark.thorough) for one in ("exhaustive", "myopic")),
    ],
)
def test_the_family_keeps_the_contract_in_every_kind_of_lab(name: str) -> None:
    check_policy(registry.create(name), slots=11)

"""What a policy sees: errors, age and rates, the same for everybody of a seed."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from controller.contract import Arrivals, Knowledge, Observation, Scenario
from controller.model.knowledge import Observer
from controller.policies.examples import example_observation, example_scenario
from controller.policies.static import EdgeOnly
from controller.simulator.channels import ChannelStates
from controller.simulator.simulate import simulate
from testbed.lab.simulated_tables import Watched


def lab(**knowledge: Any) -> Scenario:
    base = example_scenario(3)
    arrivals = Arrivals("switching", (1.0, 3.0), 0.2)
    return msgspec.structs.replace(
        base,
        knowledge=Knowledge(**knowledge),
        ues=tuple(msgspec.structs.replace(ue, arrivals=arrivals) for ue in base.ues),
    )


def true(scenario: Scenario, slot: int, rate: float = 3.0, measured: float = 4.0) -> Observation:
    seen = example_observation(scenario, slot, 5)
    return msgspec.structs.replace(
        seen,
        ues=tuple(
            msgspec.structs.replace(ue, nominal_arrival_rate_per_second=rate, measured_arrival_rate_per_second=measured)
            for ue in seen.ues
        ),
    )


def gains(observation: Observation) -> np.ndarray:
    return np.array([(*ue.gain_up, *ue.gain_down) for ue in observation.ues])


def test_by_default_channels_are_seen_as_they_are_and_a_hidden_rate_is_not_given_away() -> None:
    scenario = lab()
    observer = Observer(scenario, 1)
    seen = observer.seen(true(scenario, 4))
    assert [ue.nominal_arrival_rate_per_second for ue in seen.ues] == [2.0] * 3
    told = msgspec.structs.replace(
        seen, ues=tuple(msgspec.structs.replace(ue, nominal_arrival_rate_per_second=3.0) for ue in seen.ues)
    )
    assert told == true(scenario, 4)
    asked_for = lab(arrival_rate="state")
    assert Observer(asked_for, 1).seen(true(asked_for, 4)) == true(asked_for, 4)


def test_the_error_of_a_gain_is_of_the_size_that_is_asked_for_and_of_the_seed() -> None:
    scenario = lab(gain_error_decibels=2.0)
    decibels = []
    observer, again, other = Observer(scenario, 1), Observer(scenario, 1), Observer(scenario, 2)
    for slot in range(400):
        actual = true(scenario, slot)
        seen = observer.seen(actual)
        assert again.seen(actual) == seen
        assert other.seen(actual) != seen
        decibels.append(10 * np.log10(gains(seen) / gains(actual)))
        up = [ue.gain_up[0] / was.gain_up[0] for ue, was in zip(seen.ues, actual.ues, strict=True)]
        mean = [ue.mean_gain_up[0] / was.mean_gain_up[0] for ue, was in zip(seen.ues, actual.ues, strict=True)]
        np.testing.assert_allclose(up, mean)
    errors = np.array(decibels).reshape(-1, 6)
    assert errors.std() == pytest.approx(2.0, rel=0.05)
    assert abs(errors.mean()) < 0.15
    assert np.abs(np.corrcoef(errors.T) - np.eye(6)).max() < 0.2
    dead = msgspec.structs.replace(
        true(scenario, 0), ues=tuple(msgspec.structs.replace(ue, gain_up=(0.0,)) for ue in true(scenario, 0).ues)
    )
    assert all(ue.gain_up == (0.0,) for ue in Observer(scenario, 1).seen(dead).ues)


def test_an_aged_gain_is_that_of_the_slot_before_also_when_slots_are_skipped() -> None:
    scenario = lab(gain_age_slots=2)
    observer = Observer(scenario, 1)
    usual = [[ue.mean_gain] * 2 for ue in scenario.ues]
    wanted = {0: None, 1: None, 2: 0, 3: 1, 6: 3, 7: 3, 8: 6, 9: 7}
    for slot, of in wanted.items():
        seen = gains(observer.seen(true(scenario, slot)))
        np.testing.assert_array_equal(seen, usual if of is None else gains(true(scenario, of)))


def test_a_measured_rate_follows_what_arrived() -> None:
    scenario = lab(arrival_rate="measured")
    observer = Observer(scenario, 1)
    rates = [
        observer.seen(true(scenario, slot, measured=6.0 if slot else 0.0)).ues[0].nominal_arrival_rate_per_second
        for slot in range(20)
    ]
    assert rates[0] == 2.0
    assert rates == sorted(rates)
    assert rates[1] == pytest.approx(3.0)
    assert rates[-1] == pytest.approx(6.0, rel=0.01)


def test_the_simulator_shows_a_policy_what_the_lab_says() -> None:
    rng = np.random.default_rng(1)
    states = rng.exponential(size=(10, 3)) * 1e-11
    channel = ChannelStates(0.5, states, states)
    watched = {}
    for name, scenario in (
        ("all", lab(arrival_rate="state")),
        ("less", lab(gain_error_decibels=3.0, gain_age_slots=1)),
    ):
        policy = Watched(EdgeOnly())
        simulate(scenario, policy, 10, 4, channel=channel)
        watched[name] = [closed.observation for closed in policy.closed]
    exact = np.array([gains(seen) for seen in watched["all"]])
    np.testing.assert_allclose(exact[..., 0], states)
    assert {ue.nominal_arrival_rate_per_second for seen in watched["all"] for ue in seen.ues} == {1.0, 3.0}
    assert {ue.nominal_arrival_rate_per_second for seen in watched["less"] for ue in seen.ues} == {2.0}
    ratio = np.array([gains(seen) for seen in watched["less"]])[1:] / exact[:-1]
    assert 1.0 < np.std(10 * np.log10(ratio)) < 5.0
    assert watched["all"][0].ues[0].measured_arrival_rate_per_second == 2.0  # nothing can have arrived

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from controller.contract import ALL_ON_DEVICE, ALL_ON_EDGE, Cut, Observation, Scenario, cut_label
from controller.model.decision import enforce
from controller.model.radio import shannon_bits_per_second
from controller.policies.examples import example_observation, example_scenario
from controller.policies.neurosurgeon import Neurosurgeon
from controller.policies.static import DeviceOnly, EdgeOnly, Fixed, Random


def _with_gain(scenario: Scenario, gain: float) -> Observation:
    observation = example_observation(scenario)
    ues = tuple(msgspec.structs.replace(ue, gain_up=(gain,), gain_down=(gain,)) for ue in observation.ues)
    return msgspec.structs.replace(observation, ues=ues)


@pytest.mark.parametrize(("policy", "cut"), [(DeviceOnly(), ALL_ON_DEVICE), (EdgeOnly(), ALL_ON_EDGE)])
def test_the_ends_of_the_scale(policy: DeviceOnly | EdgeOnly, cut: Cut) -> None:
    scenario = example_scenario(4)
    policy.reset(scenario, 1)
    decision = policy.decide(example_observation(scenario))
    assert {ue.cut for ue in decision.ues} == {cut}
    assert sum(ue.spectrum_up_hz for ue in decision.ues) == pytest.approx(scenario.radio.uplink_hz)
    assert sum(ue.edge_share for ue in decision.ues) == pytest.approx(scenario.edge.cpus)
    assert {ue.device_speed for ue in decision.ues} == {0.1}


def test_fixed_takes_one_label_or_one_per_ue() -> None:
    scenario = example_scenario(2)
    policy = Fixed(cut={"ue0": "block1+block2", "ue1": "local"}, speed=0.05)
    policy.reset(scenario, 1)
    decision = policy.decide(example_observation(scenario))
    assert [ue.cut for ue in decision.ues] == [("block1", "block2"), ()]
    assert {ue.device_speed for ue in decision.ues} == {0.05}
    assert enforce(scenario, None, decision).ues[0].cut == ("block1", "block2")


@pytest.mark.parametrize(
    ("cut", "text"),
    [
        ("block9", "single-tensor cuts: input, stem, block1, block2_add, block3, block4, pool, local"),
        ("block2", "not canonical"),
        ({"ue0": "input"}, "names no cut for ue1; it has ue0"),
    ],
)
def test_fixed_refuses_cuts_that_are_none(cut: str | dict[str, str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Fixed(cut=cut).reset(example_scenario(2), 1)


def test_random_depends_on_seed_slot_and_ue_only() -> None:
    scenario = example_scenario(3)
    policy, other = Random(), Random()
    policy.reset(scenario, 1)
    other.reset(scenario, 2)
    drawn = [policy.cuts(example_observation(scenario, slot)) for slot in range(200)]
    assert drawn[150] == policy.cuts(example_observation(scenario, 150, seed=9))  # in any order, for any channel
    assert drawn != [other.cuts(example_observation(scenario, slot)) for slot in range(200)]
    counts = np.unique([cut_label(cuts[1]) for cuts in drawn], return_counts=True)[1]
    assert len(counts) == len(scenario.ues[0].profile.chain_cuts)
    assert counts.min() >= 10  # of 25 expected


def test_neurosurgeon_is_the_argmin_of_its_prediction() -> None:
    scenario = example_scenario(3)
    policy = Neurosurgeon()
    policy.reset(scenario, 1)
    radio = scenario.radio
    for slot in range(20):
        observation = example_observation(scenario, slot)
        decision = policy.decide(observation)
        for index, (ue, seen, choice) in enumerate(zip(scenario.ues, observation.ues, decision.ues, strict=True)):
            profile = ue.profile
            up = float(shannon_bits_per_second(radio.uplink_hz / 3, ue.transmit_watts * seen.gain_up[0], 10**-19.5))
            down = float(shannon_bits_per_second(radio.downlink_hz / 3, seen.gain_down[0] / 3, 10**-19.5))
            share = scenario.edge.cpus / 3
            delays = []
            for number, cut in enumerate(profile.chain_cuts):
                delay = profile.head_seconds[number]
                if cut:
                    codec = profile.codecs["uint8"]
                    sent = 8 * scenario.framing_ratio * (profile.boundary_bytes(cut, "uint8") + scenario.header_bytes)
                    back = 8 * scenario.framing_ratio * (profile.result_bytes + scenario.header_bytes)
                    tail = profile.tail_seconds[number] + codec.decode_seconds[number]
                    delay += codec.encode_seconds[number]
                    delays.append(delay / ue.max_speed + sent / up + tail / share + back / down)
                else:
                    delays.append(delay / ue.max_speed)
            assert choice.cut == profile.chain_cuts[int(np.argmin(delays))]
            assert policy.state()[f"predicted_seconds.ue{index}"] == pytest.approx(min(delays))


def test_neurosurgeon_follows_the_channel() -> None:
    scenario = example_scenario(3)
    policy = Neurosurgeon()
    policy.reset(scenario, 1)
    assert set(policy.cuts(_with_gain(scenario, 0.0))) == {ALL_ON_DEVICE}
    assert set(policy.cuts(_with_gain(scenario, 1e-9))) == {ALL_ON_EDGE}
    between = {cut for gain in np.logspace(-15, -10, 40) for cut in policy.cuts(_with_gain(scenario, float(gain)))}
    assert len(between) >= 3

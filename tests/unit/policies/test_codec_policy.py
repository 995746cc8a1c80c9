"""The cut and the codec of least delay, among those that keep the answers; and the simulator follows both."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from controller.contract import CodecTimes, Edge, ModelProfile, Observation, Scenario
from controller.model.decision import InvalidDecisionError, enforce
from controller.policies.check import check_policy
from controller.policies.codec import NeurosurgeonCodec
from controller.policies.examples import example_observation, example_scenario
from controller.simulator.simulate import simulate

RATE = 14e6  # bit/s, at which the input is too much, and a small code of a late value is not
CHOICES = ("fp32", "uint8", "int4")


def scenario(agreement: dict[str, float], rate: float = RATE) -> Scenario:
    """Slow links on which fewer bytes are worth much; the same agreement at every cut."""
    base = example_scenario(2)

    def known(profile: ModelProfile) -> ModelProfile:
        free = CodecTimes(profile.codecs["fp32"].encode_seconds, profile.codecs["fp32"].decode_seconds)
        return msgspec.structs.replace(
            profile,
            codecs={**profile.codecs, "int4": free},
            agreement={codec: (ratio,) * len(profile.chain_cuts) for codec, ratio in agreement.items()},
        )

    ues = tuple(
        msgspec.structs.replace(
            ue,
            profile=known(ue.profile),
            channel_kind="rate",
            mean_gain=rate,
            codec_choices=CHOICES,
            max_speed=0.3,
            boundary_codec="fp32",
        )
        for ue in base.ues
    )
    return msgspec.structs.replace(base, ues=ues, edge=Edge(cpus=8.0))


def observation(lab: Scenario, rate: float) -> Observation:
    seen = example_observation(lab)
    return msgspec.structs.replace(
        seen, ues=tuple(msgspec.structs.replace(ue, gain_up=(rate,), gain_down=(rate,)) for ue in seen.ues)
    )


def decided(accuracy: float, agreement: dict[str, float], rate: float = RATE) -> set[str | None]:
    lab = scenario(agreement, rate)
    policy = NeurosurgeonCodec(accuracy)
    policy.reset(lab, 1)
    decision = policy.decide(observation(lab, rate))
    enforce(lab, None, decision)
    assert all(0 < value < np.inf for value in policy.state().values())
    return {ue.codec for ue in decision.ues}


def test_the_smallest_code_that_keeps_the_answers() -> None:
    agreement = {"uint8": 0.99, "int4": 0.8}
    assert decided(0.7, agreement) == {"int4"}
    assert decided(0.95, agreement) == {"uint8"}
    assert "int4" not in decided(1.0, agreement) | decided(1.0, {})
    assert not {"int4", "uint8"} & decided(0.5, {}), "what nobody measured is not taken"


def test_a_codec_of_the_profile_that_is_not_the_labs_is_refused() -> None:
    lab = scenario({})
    policy = NeurosurgeonCodec()
    policy.reset(lab, 1)
    seen = observation(lab, RATE)
    decision = policy.decide(seen)
    for codec in ("fp16", "jpeg-90"):
        wrong = msgspec.structs.replace(
            decision, ues=tuple(msgspec.structs.replace(ue, codec=codec) for ue in decision.ues)
        )
        with pytest.raises(InvalidDecisionError, match="is not this lab's; allowed: fp32, uint8, int4"):
            enforce(lab, None, wrong)


@pytest.mark.parametrize("accuracy", [-0.1, 1.1])
def test_an_accuracy_is_a_ratio(accuracy: float) -> None:
    with pytest.raises(ValueError, match="ratio from 0 to 1"):
        NeurosurgeonCodec(accuracy)


def test_it_keeps_the_contract() -> None:
    check_policy(NeurosurgeonCodec(), slots=5)


def test_the_simulator_takes_the_codec_that_was_decided() -> None:
    results = {}
    for accuracy in (0.7, 1.0):
        lab = scenario({"uint8": 0.99, "int4": 0.8})
        results[accuracy] = simulate(lab, NeurosurgeonCodec(accuracy), 40, seed=3)
    assert "int4" in results[0.7].codecs
    assert "int4" not in results[1.0].codecs
    assert results[0.7].mean_delay_seconds() < results[1.0].mean_delay_seconds()
    for result in results.values():
        assert sum(result.cut_shares().values()) == pytest.approx(1.0)
        assert len(result.codecs) == len(result.cut_labels)

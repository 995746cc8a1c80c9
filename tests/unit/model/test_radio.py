"""Rates: superposed links against hand-computed cases and identities, bands of UEs' own, what a decision may hold."""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np
import pytest

from controller.contract import ALL_ON_DEVICE, ALL_ON_EDGE, Decision, Scenario, UeDecision
from controller.model.channel import subchannel_ratios
from controller.model.decision import InvalidDecisionError, bootstrap_decision, enforce
from controller.model.older_tasks import DRAIN_RATIO, LARGEST_PART
from controller.model.outage import OUTAGE_BITS_PER_SECOND
from controller.model.radio import LinkRates, rates, rates_over, spread
from controller.model.sic import superposed_rates
from controller.policies.examples import example_observation, example_scenario, with_access_points
from controller.policies.neurosurgeon import Neurosurgeon
from controller.policies.static import EdgeOnly
from controller.simulator.channels import ChannelStates
from controller.simulator.simulate import simulate

replace = msgspec.structs.replace


def test_two_users_by_hand() -> None:
    # SNRs of 12 and 3 over 1 Hz: the strong one suffers from the weak one, the weak one from nobody
    up = superposed_rates([[2.0], [1.0]], [[6.0], [3.0]], [1.0], 1.0, downlink=False)[:, 0]
    assert up == pytest.approx([math.log2(1 + 12 / (3 + 1)), math.log2(1 + 3 / 1)])
    # down: the strong one removes the weak one's signal, the weak one hears the strong one's
    down = superposed_rates([[2.0], [1.0]], [[6.0], [3.0]], [1.0], 1.0, downlink=True)[:, 0]
    assert down == pytest.approx([math.log2(1 + 2 * 6), math.log2(1 + 1 * 3 / (3 * 2 + 1))])


def test_three_users_by_hand_with_imperfect_sic() -> None:
    power, gain, eps = np.array([[1.0], [2.0], [4.0]]), np.array([[8.0], [1.0], [3.0]]), 0.05
    # received 8 (first), 12 (second: gain 3), 2 (last); noise 0.5
    up = superposed_rates(power, gain, [1.0], 0.5, downlink=False, residual_ratio=eps)[:, 0]
    first = math.log2(1 + 8 / (12 + 2 + 0.5))
    second = math.log2(1 + 12 / (2 + eps * 8 + 0.5))
    last = math.log2(1 + 2 / (eps * (8 + 12) + 0.5))
    assert up == pytest.approx([first, last, second])
    down = superposed_rates(power, gain, [1.0], 0.5, downlink=True, residual_ratio=eps)[:, 0]
    best = math.log2(1 + 8 * 1 / (8 * eps * (4 + 2) + 0.5))
    middle = math.log2(1 + 3 * 4 / (3 * (1 + eps * 2) + 0.5))
    worst = math.log2(1 + 1 * 2 / (1 * (1 + 4) + 0.5))
    assert down == pytest.approx([best, worst, middle])


@pytest.mark.parametrize("ues", [2, 3, 9])
def test_the_sum_of_rates_is_the_capacity_of_the_multiple_access_channel(ues: int) -> None:
    rng = np.random.default_rng(ues)
    gains = rng.exponential(size=(50, ues, 4)) * 10.0 ** rng.uniform(-14, -7, (50, ues, 1))
    powers, widths, noise = rng.uniform(1e-3, 0.2, (ues, 4)), np.array([1e6, 2e6, 3e6, 4e6]), 4e-21
    summed = superposed_rates(powers, gains, widths, noise, downlink=False).sum(axis=1)
    capacity = widths * np.log2(1 + (powers * gains).sum(axis=1) / (noise * widths))
    np.testing.assert_allclose(summed, capacity, rtol=1e-9)


def test_a_foreign_access_point_is_noise() -> None:
    gains, powers = np.full((2, 1), 4.0), np.ones((2, 1))
    kwargs = {"access_points": [0, 1], "leakage_ratio": 0.25}
    up = superposed_rates(powers, gains, [1.0], 1.0, downlink=False, **kwargs)[:, 0]  # type: ignore[arg-type]
    assert up == pytest.approx([math.log2(1 + 4 / (0.25 * 4 + 1))] * 2)
    down = superposed_rates(powers, gains, [1.0], 1.0, downlink=True, **kwargs)[:, 0]  # type: ignore[arg-type]
    assert down == pytest.approx([math.log2(1 + 4 / (4 * 0.25 + 1))] * 2)


def _lab(ues: int, subchannels: int, access: Literal["ofdma", "noma"] = "noma", fading: bool = True) -> Scenario:
    scenario = example_scenario(ues)
    radio = replace(scenario.radio, access=access, subchannels=subchannels, users_per_subchannel=2)
    drawn = [subchannel_ratios(subchannels, 5, index) for index in range(ues)]
    found = tuple(
        replace(ue, subchannel_ratios_up=tuple(one.up), subchannel_ratios_down=tuple(one.down)) if fading else ue
        for ue, one in zip(scenario.ues, drawn, strict=True)
    )
    return replace(scenario, radio=radio, ues=found)


def _states(scenario: Scenario) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    return {ue.name: ((ue.mean_gain,), (0.5 * ue.mean_gain,)) for ue in scenario.ues}


def _on(scenario: Scenario, numbers: list[int], **changes: object) -> Decision:
    """UE i superposed on subchannel ``numbers[i]``, raw inputs to the edge."""
    return Decision(
        sequence=0,
        slot=0,
        valid_from_seconds=0.0,
        ues=tuple(
            replace(
                UeDecision(ue.name, ALL_ON_EDGE, ue.max_speed, 0.0, 0.0, scenario.edge.cpus / len(scenario.ues)),
                **({"subchannels_up": (number,), "subchannels_down": (number,)} | changes),
            )
            for ue, number in zip(scenario.ues, numbers, strict=True)
        ),
    )


def test_rates_of_a_lab_by_hand() -> None:
    lab = _lab(4, 2, fading=False)
    found = rates(lab, _states(lab), _on(lab, [0, 0, 1, 1]))
    width, noise = lab.radio.uplink_hz / 2, lab.radio.noise_watts_per_hz * lab.radio.uplink_hz / 2
    received = [ue.transmit_watts * ue.mean_gain for ue in lab.ues]  # ue0 is 4 times ue1, ue3 like ue0, ue2 1/16
    assert found["ue0"].up_bits_per_second == pytest.approx(width * math.log2(1 + received[0] / (received[1] + noise)))
    assert found["ue1"].up_bits_per_second == pytest.approx(width * math.log2(1 + received[1] / noise))
    assert found["ue3"].up_bits_per_second == pytest.approx(width * math.log2(1 + received[3] / (received[2] + noise)))
    # the station's power goes evenly over subchannels and users: a quarter each
    gain = 0.5 * lab.ues[1].mean_gain
    expected = width * math.log2(1 + 0.25 * gain / (0.25 * gain + noise))
    assert found["ue1"].down_bits_per_second == pytest.approx(expected)


def test_equal_shares_of_flat_subchannels_are_ofdma() -> None:
    plain = example_scenario(3)
    lab = _lab(3, 4, fading=False)
    policy = EdgeOnly()
    policy.reset(plain, 0)
    decision = policy.with_cuts(example_observation(plain), [ALL_ON_EDGE] * 3)
    for name, rate in rates(plain, _states(plain), decision).items():
        assert rates(lab, _states(lab), decision)[name] == pytest.approx(rate)


def test_a_state_per_subchannel_and_a_series_give_the_same_rates() -> None:
    lab = _lab(4, 2)
    decision = enforce(lab, None, _on(lab, [0, 0, 1, 1], transmit_watts=0.1, downlink_watts=0.2))
    one = rates(lab, _states(lab), decision)
    spread = {
        ue.name: (
            tuple(ue.mean_gain * ratio for ratio in ue.subchannel_ratios_up),
            tuple(0.5 * ue.mean_gain * ratio for ratio in ue.subchannel_ratios_down),
        )
        for ue in lab.ues
    }
    many = rates(lab, spread, decision)
    mean = np.array([[ue.mean_gain for ue in lab.ues]] * 3)
    up, down = rates_over(lab, mean, 0.5 * mean, decision)
    for index, ue in enumerate(lab.ues):
        assert many[ue.name] == pytest.approx(one[ue.name])
        assert LinkRates(up[2, index], down[2, index]) == pytest.approx(one[ue.name])


def test_local_ues_keep_a_band_beside_the_superposed() -> None:
    lab = _lab(4, 2)
    asked = _on(lab, [0, 0, 1, 1])
    local = replace(asked.ues[3], cut=ALL_ON_DEVICE, subchannels_up=(), subchannels_down=())
    turned = replace(asked, ues=(*asked.ues[:3], local))
    seen = example_observation(lab)
    waits = replace(seen.ues[3], in_flight_tasks=1, device_queue_tasks=0, tx_queue_tasks=1, tx_backlog_bytes=2_000)
    decision = enforce(lab, asked, turned, replace(seen, ues=(*seen.ues[:3], waits)))
    assert 0 < decision.ues[3].spectrum_up_hz < LARGEST_PART * lab.radio.uplink_hz
    with_band, without = (rates(lab, _states(lab), one)["ue3"] for one in (decision, turned))
    assert with_band.up_bits_per_second > 2_000 * 8 / (2 * DRAIN_RATIO * lab.slot_seconds)
    # with nothing there it holds nothing, and its wire has the outage floor for acknowledgements
    assert without == LinkRates(100e3, 100e3)
    assert enforce(lab, asked, turned, seen).ues[3].spectrum_up_hz == 0


def test_powers_above_what_there_is_are_refused() -> None:
    lab = _lab(4, 2)
    for changes, text in (
        ({"transmit_watts": 1.01 * lab.ues[0].transmit_watts}, "ue0: transmit_watts 0.303 is above its power of 0.3 W"),
        ({"downlink_watts": 0.26}, "downlink_watts sum to 1.04, above the base station's 1 W"),
    ):
        with pytest.raises(InvalidDecisionError, match=text):
            enforce(lab, None, _on(lab, [0, 0, 1, 1], **changes))
    # each access point has a power of its own
    two = replace(
        lab,
        radio=replace(lab.radio, access_points=2),
        ues=tuple(replace(ue, access_point=index % 2) for index, ue in enumerate(lab.ues)),
    )
    enforce(two, None, _on(two, [0, 0, 1, 1], downlink_watts=0.5))
    with pytest.raises(InvalidDecisionError, match=r"of access point 0 sum to 1\.02"):
        enforce(two, None, _on(two, [0, 0, 1, 1], downlink_watts=0.51))


def test_access_points_reuse_the_spectrum_and_hear_each_other() -> None:
    """Four UEs in turn at two access points, each with a half of its own one's spectrum: by hand."""
    lab = with_access_points(example_scenario(4), 2, leakage_ratio=0.05)
    radio = lab.radio
    decision = bootstrap_decision(lab, 0.0)
    assert [ue.spectrum_up_hz for ue in decision.ues] == [radio.uplink_hz / 2] * 4
    decision = enforce(lab, None, replace(decision, ues=tuple(replace(ue, cut=ALL_ON_EDGE) for ue in decision.ues)))
    gains = {str(ue.name): ((ue.mean_gain,), (2 * ue.mean_gain,)) for ue in lab.ues}
    found = rates(lab, gains, decision)
    band, noise = radio.uplink_hz / 2, radio.noise_watts_per_hz
    for index, ue in enumerate(lab.ues):
        others = [one for one in lab.ues if one.access_point != ue.access_point]
        heard = sum(0.05 * one.transmit_watts * one.mean_gain for one in others) / radio.uplink_hz
        up = band * math.log2(1 + ue.transmit_watts * ue.mean_gain / ((noise + heard) * band))
        heard = 0.05 * radio.downlink_power_watts * 2 * ue.mean_gain / radio.downlink_hz
        received = radio.downlink_power_watts / 2 * 2 * ue.mean_gain
        down = band * math.log2(1 + received / ((noise + heard) * band))
        assert found[ue.name] == pytest.approx((up, down), rel=1e-9), index


@pytest.mark.parametrize("access", ["noma", "ofdma"])
def test_a_band_as_wide_as_the_subchannel_is_heard_as_a_superposed_ue_is(access: Literal["ofdma", "noma"]) -> None:
    """One UE at each of two access points: the same rates either way, those of the rule for superposed UEs."""
    lab = _lab(2, 3, "noma")
    lab = with_access_points(replace(lab, radio=replace(lab.radio, access=access)), 2, leakage_ratio=0.1)
    everywhere = (0, 1, 2)
    bands = _on(lab, [0, 1], subchannels_up=(), subchannels_down=(), spectrum_up_hz=lab.radio.uplink_hz,
                spectrum_down_hz=lab.radio.downlink_hz)  # fmt: skip
    superposed = _on(lab, [0, 1], subchannels_up=everywhere, subchannels_down=everywhere)
    found = rates(lab, _states(lab), enforce(lab, None, bands))
    for side, direction in enumerate(("up", "down")):
        gains = np.array([spread(lab.radio, ue, _states(lab)[ue.name][side], direction) for ue in lab.ues])
        watts = [ue.transmit_watts if direction == "up" else lab.radio.downlink_power_watts for ue in lab.ues]
        expected = superposed_rates(
            np.repeat(np.array(watts)[:, np.newaxis] / 3, 3, axis=1),
            gains,
            np.full(3, lab.radio.uplink_hz / 3),
            lab.radio.noise_watts_per_hz,
            downlink=direction == "down",
            access_points=[0, 1],
            leakage_ratio=0.1,
        ).sum(axis=1)
        assert [found[ue.name][side] for ue in lab.ues] == pytest.approx(expected, rel=1e-9)
    if access == "noma":
        assert rates(lab, _states(lab), superposed)["ue0"] == pytest.approx(found["ue0"], rel=1e-9)


def test_the_spectrum_of_an_access_point_is_for_its_own_ues() -> None:
    lab = with_access_points(example_scenario(4), 2)
    blank = bootstrap_decision(lab, 0.0)

    def bands(*parts: float) -> Decision:
        hz = [part * lab.radio.uplink_hz for part in parts]
        return replace(
            blank,
            ues=tuple(replace(ue, cut=ALL_ON_EDGE, spectrum_up_hz=one) for ue, one in zip(blank.ues, hz, strict=True)),
        )

    found = enforce(lab, None, bands(0.7, 0.2, 0.3, 0.8))
    assert [ue.spectrum_up_hz / lab.radio.uplink_hz for ue in found.ues] == pytest.approx([0.7, 0.2, 0.3, 0.8])
    with pytest.raises(InvalidDecisionError, match="spectrum_up_hz at access point 1 is"):
        enforce(lab, None, bands(0.1, 0.3, 0.1, 0.8))
    # older tasks take what is left at their own access point, and nobody else's
    seen = example_observation(lab)
    waits = replace(seen.ues[2], in_flight_tasks=1, device_queue_tasks=0, tx_queue_tasks=1, tx_backlog_bytes=2_000)
    asked = bands(1.0, 0.6, 0.0, 0.4)
    asked = replace(asked, ues=(*asked.ues[:2], replace(asked.ues[2], cut=ALL_ON_DEVICE), asked.ues[3]))
    before = enforce(lab, None, bands(0.5, 0.6, 0.5, 0.4))
    now = enforce(lab, before, asked, replace(seen, ues=(*seen.ues[:2], waits, seen.ues[3])))
    parts = [ue.spectrum_up_hz / lab.radio.uplink_hz for ue in now.ues]
    assert parts[2] > 0
    assert parts[0] + parts[2] == pytest.approx(1.0)
    assert parts[1::2] == pytest.approx([0.6, 0.4])


@pytest.mark.parametrize(
    ("numbers", "change", "text"),
    [
        ([0, 1, 1], {"subchannels_up": (2,)}, "not of 0 to 1"),
        ([1, 1, 1], {}, "3 UEs are superposed"),
        ([0, 1, 1], {"spectrum_up_hz": 8e6}, "of its width"),
        ([0, 0, 1], {"spectrum_up_hz": 4e6}, "leave nothing"),
        ([0, 1, 1], {"subchannels_up": ()}, "needs spectrum_up_hz"),
    ],
)
def test_what_a_subchannel_cannot_hold_is_refused(numbers: list[int], change: dict[str, object], text: str) -> None:
    lab = _lab(3, 2)
    asked = _on(lab, numbers)
    first = replace(asked.ues[0], **change)
    with pytest.raises(InvalidDecisionError, match=text):
        enforce(lab, None, replace(asked, ues=(first, *asked.ues[1:])))


def test_ofdma_superposes_nobody() -> None:
    lab = _lab(2, 2, "ofdma")
    with pytest.raises(InvalidDecisionError, match="superposes nobody"):
        enforce(lab, None, _on(lab, [0, 1]))


def test_the_simulator_takes_coupled_rates() -> None:
    lab = _lab(3, 2)
    rng = np.random.default_rng(3)
    states = np.array([ue.mean_gain for ue in lab.ues]) * rng.exponential(size=(20, 3))
    channel = ChannelStates(0.25, states, states)
    result = simulate(lab, Neurosurgeon(), 10, 1, channel=channel)
    decision = Neurosurgeon()
    decision.reset(lab, 1)
    equal = decision.with_cuts(example_observation(lab), [ALL_ON_EDGE] * 3)
    up, _ = rates_over(lab, states, states, equal)
    up = np.where(up < lab.ues[0].outage_floor_bits_per_second, OUTAGE_BITS_PER_SECOND, up)
    np.testing.assert_allclose(result.rate_up_bits_per_second, up.reshape(10, 2, 3).mean(axis=1))
    assert result.completions.sum() > 0
    slots = simulate(lab, Neurosurgeon(), 10, 1, "slot", channel)
    np.testing.assert_allclose(slots.rate_up_bits_per_second, up[::2])

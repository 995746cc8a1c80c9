"""From channel state to link rates. :func:`rates` is the only formula from gains to rates.

A UE holds spectrum in one of two ways. Its *own* band (``spectrum_up_hz`` above 0) is disturbed by nobody; it lies in
the subchannels that the UE names, else evenly in all. Without a band of its own it is *superposed* on the whole of each
subchannel that it names, together with the other UEs there (:mod:`controller.model.sic`). OFDMA is the case in which
everybody has a band of its own; the two may be mixed, and what is superposed gets the width that is left. A UE that
holds neither has its wire's outage floor, for acknowledgements.

Every access point has all of the spectrum, and divides it among its own UEs. What the others receive and send there is
noise, spread evenly over each subchannel: nobody says where in it a band lies. Who holds spectrum counts as sending.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controller.contract import Decision, Radio, Scenario, UeDecision, UeScenario
from controller.model.outage import OUTAGE_BITS_PER_SECOND
from controller.model.sic import superposed_rates

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Direction = Literal["up", "down"]

#: Channel states (steps x UEs x UEs x subchannels) that are worked on at once.
_BLOCK_ELEMENTS = 1 << 21


class LinkRates(NamedTuple):
    up_bits_per_second: float
    down_bits_per_second: float


def shannon_bits_per_second(
    bandwidth_hz: ArrayLike, received_watts: ArrayLike, noise_watts_per_hz: ArrayLike
) -> Floats:
    """``b log2(1 + p g / (N0 b))``, broadcast; 0 where the bandwidth is 0. Shannon 1948."""
    bandwidth = np.asarray(bandwidth_hz, dtype=np.float64)
    received = np.asarray(received_watts, dtype=np.float64)
    safe = np.where(bandwidth > 0, bandwidth, 1.0)
    rate = safe * np.log2(1.0 + received / (np.asarray(noise_watts_per_hz) * safe))
    return np.where(bandwidth > 0, rate, 0.0)


def idle_bits_per_second(ue: UeScenario) -> float:
    """What the wire of a UE that holds no spectrum carries, unless even the whole spectrum would carry less."""
    return max(ue.outage_floor_bits_per_second, OUTAGE_BITS_PER_SECOND)


def is_coupled(radio: Radio) -> bool:
    """Whether a link's rate may depend on more than its own state, spectrum and power."""
    return radio.access == "noma" or radio.subchannels > 1 or radio.access_points > 1


def stations_of(scenario: Scenario) -> Integers:
    """The access point of each UE, (UEs,): whoever has the same shares one spectrum."""
    return np.array([ue.access_point for ue in scenario.ues], dtype=np.int64)


def sharers_of(scenario: Scenario) -> Integers:
    """How many UEs share the spectrum with each, itself among them, (UEs,)."""
    stations = stations_of(scenario)
    return np.bincount(stations)[stations]


def rates(
    scenario: Scenario,
    gains: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]],
    decision: Decision,
) -> dict[str, LinkRates]:
    """Rates of all links together (NOMA couples them).

    ``gains`` maps a UE to its (uplink, downlink) channel state: one entry, which the scenario's ratios spread over the
    subchannels, or one per subchannel. A state is a linear power gain, or bit/s at the whole spectrum for a UE whose
    ``channel_kind`` is "rate" (scaled by decided / total spectrum; it cannot be superposed).

    Power: a UE's is spread evenly over what it holds. The base station's, where the decision does not say, goes evenly
    over the downlink spectrum, so a UE with a band of its own gets it in proportion, and UEs on one subchannel alike.
    """
    radio = scenario.radio
    if is_coupled(radio):
        up, down = (
            np.array([spread(radio, ue, gains[ue.name][side], direction) for ue in scenario.ues])[np.newaxis]
            for side, direction in enumerate(DIRECTIONS)
        )
        up_rates, down_rates = _coupled(scenario, up, down, decision)
        return {
            str(ue.name): LinkRates(float(up_rates[0, index]), float(down_rates[0, index]))
            for index, ue in enumerate(scenario.ues)
        }
    result: dict[str, LinkRates] = {}
    decided = {ue.name: ue for ue in decision.ues}
    for ue in scenario.ues:
        choice = decided[ue.name]
        up_gain, down_gain = gains[ue.name][0][0], gains[ue.name][1][0]
        up_hz, down_hz = choice.spectrum_up_hz or radio.uplink_hz, choice.spectrum_down_hz or radio.downlink_hz
        if ue.channel_kind == "rate":
            up_rate, down_rate = up_gain * up_hz / radio.uplink_hz, down_gain * down_hz / radio.downlink_hz
        else:
            watts = ue.transmit_watts if choice.transmit_watts is None else choice.transmit_watts
            down_watts = choice.downlink_watts
            if down_watts is None:
                down_watts = radio.downlink_power_watts * down_hz / radio.downlink_hz
            up_rate = float(shannon_bits_per_second(up_hz, watts * up_gain, radio.noise_watts_per_hz))
            down_rate = float(shannon_bits_per_second(down_hz, down_watts * down_gain, radio.noise_watts_per_hz))
        idle = idle_bits_per_second(ue)
        result[ue.name] = LinkRates(
            up_rate if choice.spectrum_up_hz else min(up_rate, idle),
            down_rate if choice.spectrum_down_hz else min(down_rate, idle),
        )
    return result


def rates_over(scenario: Scenario, up: Floats, down: Floats, decision: Decision) -> tuple[Floats, Floats]:
    """:func:`rates` of a coupled radio for a series of channel states (steps, UEs): (up, down), each (steps, UEs)."""
    radio = scenario.radio
    block = max(1, _BLOCK_ELEMENTS // (len(scenario.ues) ** 2 * radio.subchannels))
    up_rates, down_rates = np.empty((2, *up.shape))
    for start in range(0, up.shape[0], block):
        rows = slice(start, start + block)
        spread_up, spread_down = (
            states[rows, :, np.newaxis] * np.array([_ratios(radio, ue, direction) for ue in scenario.ues])
            for states, direction in zip((up, down), DIRECTIONS, strict=True)
        )
        up_rates[rows], down_rates[rows] = _coupled(scenario, spread_up, spread_down, decision)
    return up_rates, down_rates


# ------------------------------------------------------------------------------------------------------ subchannels

DIRECTIONS: tuple[Direction, Direction] = ("up", "down")


def spread(radio: Radio, ue: UeScenario, state: tuple[float, ...], direction: Direction) -> Floats:
    """Gain of a UE on every subchannel, (subchannels,), from its state (see :func:`rates`)."""
    if len(state) == radio.subchannels > 1:
        return np.array(state, dtype=np.float64)
    return np.asarray(state[0] * _ratios(radio, ue, direction))


def _ratios(radio: Radio, ue: UeScenario, direction: Direction) -> Floats:
    ratios = ue.subchannel_ratios_up if direction == "up" else ue.subchannel_ratios_down
    # a rate is that of the whole spectrum, whatever its parts are worth
    if not ratios or ue.channel_kind == "rate":
        return np.ones(radio.subchannels)
    return np.array(ratios, dtype=np.float64)


@dataclass(frozen=True)
class Holdings:
    """What a decision gives to whom in one direction, UEs in the scenario's order."""

    own_hz: Floats  # (UEs, subchannels)
    superposed: NDArray[np.bool_]  # (UEs, subchannels)
    left_hz: Floats  # (UEs, subchannels): what bands of UEs' own leave to the superposed at a UE's access point
    subchannel_hz: float


def holdings(scenario: Scenario, choices: Mapping[str, UeDecision], direction: Direction) -> Holdings:
    """Who holds what. ``choices`` by UE. Raises ValueError for a subchannel that is not there or named twice."""
    radio = scenario.radio
    total = radio.uplink_hz if direction == "up" else radio.downlink_hz
    shape = (len(scenario.ues), radio.subchannels)
    own, superposed = np.zeros(shape), np.zeros(shape, dtype=np.bool_)
    for index, ue in enumerate(scenario.ues):
        choice = choices[ue.name]
        hz = choice.spectrum_up_hz if direction == "up" else choice.spectrum_down_hz
        named = choice.subchannels_up if direction == "up" else choice.subchannels_down
        if len(set(named)) != len(named) or not all(0 <= number < radio.subchannels for number in named):
            raise ValueError(f"{ue.name}: subchannels_{direction} {named} are not of 0 to {radio.subchannels - 1}")
        if hz > 0:
            own[index, list(named) or slice(None)] = hz / (len(named) or radio.subchannels)
        elif named:
            superposed[index, list(named)] = True
    width = total / radio.subchannels
    left = np.array([np.maximum(width - taken, 0.0) for taken in by_station(scenario, own)])
    return Holdings(own, superposed, left[stations_of(scenario)], width)


def by_station(scenario: Scenario, held: Floats) -> list[Floats]:
    """Sums of (UEs, subchannels) over each access point's UEs, (subchannels,) each."""
    stations = stations_of(scenario)
    return [held[stations == station].sum(axis=0) for station in range(int(stations.max()) + 1)]


def _coupled(scenario: Scenario, up: Floats, down: Floats, decision: Decision) -> tuple[Floats, Floats]:
    """(up, down) rates (steps, UEs) from gains (steps, UEs, subchannels)."""
    radio = scenario.radio
    choices = {str(ue.name): ue for ue in decision.ues}
    points = stations_of(scenario)
    by_rate = np.array([ue.channel_kind == "rate" for ue in scenario.ues])
    result: list[Floats] = []
    for direction, gains in zip(DIRECTIONS, (up, down), strict=True):
        held = holdings(scenario, choices, direction)
        powers = _powers(scenario, choices, held, direction)
        noise: float | Floats = radio.noise_watts_per_hz
        if radio.access_points > 1:
            noise = noise + _foreign_watts_per_hz(scenario, powers, gains, held.subchannel_hz, direction)
        own = shannon_bits_per_second(held.own_hz, powers * gains, noise).sum(axis=-1)
        total = radio.uplink_hz if direction == "up" else radio.downlink_hz
        own = np.where(by_rate, gains[..., 0] * held.own_hz.sum(axis=-1) / total, own)
        superposed = superposed_rates(
            np.where(held.superposed, powers, 0.0),
            gains,
            held.left_hz,
            noise,
            downlink=direction == "down",
            residual_ratio=radio.sic_residual_ratio,
            access_points=points,  # of others nothing is decoded: it is in the noise
        )
        none = ~(held.superposed | (held.own_hz > 0)).any(axis=1)
        result.append(np.where(none, _idle_rates(scenario, gains, direction), own + superposed.sum(axis=-1)))
    return result[0], result[1]


def _foreign_watts_per_hz(
    scenario: Scenario, powers: Floats, gains: Floats, subchannel_hz: float, direction: Direction
) -> Floats:
    """What comes in from other access points' cells, (steps, UEs, subchannels), from powers (UEs, subchannels).

    Uplink: at a UE's access point, of the UEs of the others. Downlink: at the UE, of the other access points.
    """
    stations = stations_of(scenario)
    foreign = (stations[:, np.newaxis] != stations).astype(np.float64)
    known = np.array([[ue.channel_kind == "gain"] for ue in scenario.ues])  # of a rate nobody knows the power
    sent = foreign @ (powers * gains * known if direction == "up" else np.broadcast_to(powers, gains.shape))
    return np.asarray(scenario.radio.leakage_ratio * (sent if direction == "up" else sent * gains) / subchannel_hz)


def _idle_rates(scenario: Scenario, gains: Floats, direction: Direction) -> Floats:
    """Of UEs that hold nothing, (steps, UEs), from gains (steps, UEs, subchannels)."""
    radio = scenario.radio
    total = radio.uplink_hz if direction == "up" else radio.downlink_hz
    watts = np.array([ue.transmit_watts if direction == "up" else radio.downlink_power_watts for ue in scenario.ues])
    mean = gains.mean(axis=-1)
    whole = shannon_bits_per_second(total, watts * mean, radio.noise_watts_per_hz)
    whole = np.where([ue.channel_kind == "rate" for ue in scenario.ues], mean, whole)
    return np.asarray(np.minimum(whole, [idle_bits_per_second(ue) for ue in scenario.ues]))


def _powers(scenario: Scenario, choices: Mapping[str, UeDecision], held: Holdings, direction: Direction) -> Floats:
    """Watts per UE and subchannel, (UEs, subchannels)."""
    radio = scenario.radio
    here = held.superposed | (held.own_hz > 0)
    spread_evenly = here / np.maximum(here.sum(axis=1, keepdims=True), 1)
    if direction == "up":
        nominal = [
            ue.transmit_watts if choices[ue.name].transmit_watts is None else choices[ue.name].transmit_watts
            for ue in scenario.ues
        ]
        return np.asarray(np.array(nominal, dtype=np.float64)[:, np.newaxis] * spread_evenly)
    points = stations_of(scenario)
    sharing = held.superposed * np.array([held.superposed[points == point].sum(axis=0) for point in points])
    hz = held.own_hz + held.superposed * held.left_hz / np.maximum(sharing, 1)
    powers = radio.downlink_power_watts * hz / radio.downlink_hz
    for index, ue in enumerate(scenario.ues):
        watts = choices[ue.name].downlink_watts
        if watts is not None:
            powers[index] = watts * spread_evenly[index]
    return np.asarray(powers)

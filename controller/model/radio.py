"""From channel state to link rates. :func:`rates` is the only formula from gains to rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controller.contract import Decision, Scenario


class LinkRates(NamedTuple):
    up_bits_per_second: float
    down_bits_per_second: float


def shannon_bits_per_second(
    bandwidth_hz: ArrayLike, received_watts: ArrayLike, noise_watts_per_hz: ArrayLike
) -> NDArray[np.float64]:
    """``b log2(1 + p g / (N0 b))``, broadcast; 0 where the bandwidth is 0. Shannon 1948."""
    bandwidth = np.asarray(bandwidth_hz, dtype=np.float64)
    received = np.asarray(received_watts, dtype=np.float64)
    safe = np.where(bandwidth > 0, bandwidth, 1.0)
    rate = safe * np.log2(1.0 + received / (np.asarray(noise_watts_per_hz) * safe))
    return np.where(bandwidth > 0, rate, 0.0)


def rates(
    scenario: Scenario,
    gains: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]],
    decision: Decision,
) -> dict[str, LinkRates]:
    """Rates of all links together (NOMA couples them).

    ``gains`` maps a UE to its (uplink, downlink) channel state, one entry per subchannel: a linear power gain, or
    bit/s at the whole spectrum for a UE whose ``channel_kind`` is "rate" (scaled by decided / total spectrum).
    The base station spreads its power evenly over the downlink spectrum, so a UE gets its power in proportion.
    """
    radio = scenario.radio
    if radio.access != "ofdma":
        raise NotImplementedError(f"radio access {radio.access!r} has no rate model yet")
    result: dict[str, LinkRates] = {}
    decided = {ue.name: ue for ue in decision.ues}
    for ue in scenario.ues:
        choice = decided[ue.name]
        up_gain, down_gain = gains[ue.name][0][0], gains[ue.name][1][0]
        if ue.channel_kind == "rate":
            result[ue.name] = LinkRates(
                up_gain * choice.spectrum_up_hz / radio.uplink_hz,
                down_gain * choice.spectrum_down_hz / radio.downlink_hz,
            )
            continue
        watts = ue.transmit_watts if choice.transmit_watts is None else choice.transmit_watts
        down_watts = choice.downlink_watts
        if down_watts is None:
            down_watts = radio.downlink_power_watts * choice.spectrum_down_hz / radio.downlink_hz
        result[ue.name] = LinkRates(
            float(shannon_bits_per_second(choice.spectrum_up_hz, watts * up_gain, radio.noise_watts_per_hz)),
            float(shannon_bits_per_second(choice.spectrum_down_hz, down_watts * down_gain, radio.noise_watts_per_hz)),
        )
    return result

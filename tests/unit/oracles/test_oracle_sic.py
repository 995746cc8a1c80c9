"""Superposed rates against decoding one signal after the other, each taken away before the next."""

from __future__ import annotations

import math

import numpy as np
import pytest

from controller.model.sic import superposed_rates


def decoded_one_by_one(
    powers: np.ndarray, gains: np.ndarray, width: float, noise: float, *, downlink: bool, residual: float
) -> list[float]:
    """Rates on one subchannel, by a receiver that decodes and subtracts."""
    rates = [0.0] * len(powers)
    strongest_first = sorted(range(len(gains)), key=lambda ue: (-gains[ue], ue))
    if not downlink:
        air = {ue: powers[ue] * gains[ue] for ue in strongest_first}  # what the access point still hears of each
        for ue in strongest_first:
            others = math.fsum(air[other] for other in air if other != ue)
            rates[ue] = width * math.log2(1 + air[ue] / (others + noise * width))
            air[ue] *= residual
        return rates
    for receiver in strongest_first:
        air = {ue: powers[ue] * gains[receiver] for ue in strongest_first}
        for ue in reversed(strongest_first):  # it takes away what is meant for weaker ones, the weakest first
            if ue == receiver:
                break
            air[ue] *= residual
        others = math.fsum(air[other] for other in air if other != receiver)
        rates[receiver] = width * math.log2(1 + air[receiver] / (others + noise * width))
    return rates


@pytest.mark.parametrize("downlink", [False, True])
@pytest.mark.parametrize("residual", [0.0, 0.03])
def test_rates_are_those_of_a_receiver_that_subtracts(downlink: bool, residual: float) -> None:
    rng = np.random.default_rng(4)
    for _ in range(40):
        ues = int(rng.integers(1, 6))
        powers, gains = rng.uniform(0.01, 0.3, (ues, 2)), 10 ** rng.uniform(-12, -9, (ues, 2))
        widths, noise = np.array([1e5, 3e5]), 1e-17
        found = superposed_rates(powers, gains, widths, noise, downlink=downlink, residual_ratio=residual)
        for sub in range(2):
            expected = decoded_one_by_one(
                powers[:, sub], gains[:, sub], widths[sub], noise, downlink=downlink, residual=residual
            )
            np.testing.assert_allclose(found[:, sub], expected, rtol=1e-9)

"""Sampled paths of a channel obey the law that traces are made from; transfers over them are those of the tandem."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from scipy.special import j0

from controller.contract import Scenario, ShadowingLaw
from controller.model.carried import transmit
from controller.model.channel import Shadowing, shadowing_db
from controller.model.channel_paths import channel_paths, jakes_series
from controller.model.transfers import Transfers
from controller.policies.examples import example_scenario


def lab(**fields: object) -> Scenario:
    scenario = example_scenario(1, slot_seconds=1.0)
    ue = msgspec.structs.replace(scenario.ues[0], channel_step_seconds=0.1, **fields)  # type: ignore[arg-type]
    return msgspec.structs.replace(scenario, ues=(ue,))


@pytest.mark.parametrize("doppler_periods", [0.02, 0.3, 0.8])
def test_the_series_has_the_autocorrelation_of_the_doppler_spectrum(doppler_periods: float) -> None:
    series = jakes_series(1 << 15, doppler_periods, np.random.default_rng(1))
    for lag in (1, 2, 7):
        found = np.mean(series[lag:] * series[:-lag].conj()).real
        assert found == pytest.approx(j0(2 * np.pi * doppler_periods * lag), abs=0.05)
    power = np.abs(series) ** 2
    assert (power.mean(), (power**2).mean()) == pytest.approx((1.0, 2.0), rel=0.1)


def test_fading_paths_have_mean_one_and_the_correlation_of_their_doppler_at_any_step() -> None:
    for doppler in (0.2, 2.0):
        paths = channel_paths(lab(fading="rayleigh", doppler_hz=doppler), 0, 2.0)
        assert paths.up.mean() == pytest.approx(1.0, rel=0.03)
        for steps in (1, 3):
            found = np.corrcoef(paths.up[0], paths.up[steps])[0, 1]
            assert found == pytest.approx(j0(2 * np.pi * doppler * 0.1 * steps) ** 2, abs=0.05)
        assert abs(np.corrcoef(paths.up[0], paths.down[0])[0, 1]) < 0.05


def test_shadowing_changes_at_slots_from_a_uniform_phase_as_the_series_of_a_trace_does() -> None:
    law = ShadowingLaw(6.0, 0.8, 9.0)
    paths = channel_paths(lab(fading="static", shadowing=law), 0, 5.0)
    levels = np.log(paths.up)
    assert paths.up.mean() == pytest.approx(1.0, rel=0.03)
    changed = (np.diff(levels, axis=0) != 0).mean()
    assert changed == pytest.approx(0.1, abs=0.02)  # ten steps to a slot; what is clipped may stay
    series = shadowing_db(100_000, Shadowing(6.0, 0.8, 1.0, 9.0), np.random.default_rng(1))
    assert np.corrcoef(levels[0], levels[10])[0, 1] == pytest.approx(
        np.corrcoef(series[:-1], series[1:])[0, 1], abs=0.02
    )
    assert 10 * np.log10(math.e) * levels.std() == pytest.approx(series.std(), rel=0.02)
    assert np.array_equal(paths.up, paths.down)


def test_rician_paths_have_the_spread_of_their_k_factor_and_doppler_zero_stays() -> None:
    paths = channel_paths(lab(fading="rician", k_factor=4.0, doppler_hz=1.0), 0, 1.0)
    assert paths.up.var() == pytest.approx((1 + 2 * 4) / 25, rel=0.06)
    still = channel_paths(lab(fading="rayleigh", doppler_hz=0.0), 0, 1.0)
    assert np.ptp(still.up, axis=0).max() == 0
    assert still.up[0].var() == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("floor", [1.0, 2e5])
def test_a_transfer_over_a_path_is_that_of_the_simulators_link(floor: float) -> None:
    rng = np.random.default_rng(3)
    quality = rng.exponential(3e4, size=(16, 20))
    starts = rng.uniform(0.0, 1.5, 20)
    transfers = Transfers.over(quality, 0.1, floor, linear=False, spectrum=1e6)
    for bits in (1e3, 2e5, 3e7):
        expected = [
            transmit(start, np.inf, bits, np.nan, quality, 1.0, path, False, 1e6, np.inf, floor, 0.1, 10.0)[0] - start
            for path, start in enumerate(starts)
        ]
        # an outage that is entered in the middle of a step is over at the same time
        np.testing.assert_allclose(transfers.seconds(starts, bits), expected, rtol=1e-6, atol=1e-6)
    assert np.array_equal(transfers.seconds(starts, 0.0), np.zeros(20))

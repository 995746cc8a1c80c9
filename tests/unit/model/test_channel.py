"""The channel: its laws, its correlation, its seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from controller.model.channel import (
    SINUSOIDS,
    Channel,
    Shadowing,
    fading_power,
    gain_series,
    mean_gain,
    path_gain,
    path_loss_db,
    shadowing_db,
)


def realisations(count: int, times: np.ndarray, doppler_hz: float, k_factor: float = 0.0) -> np.ndarray:
    return np.stack(
        [fading_power(times, doppler_hz, np.random.default_rng(seed), k_factor=k_factor) for seed in range(count)]
    )


def test_path_loss() -> None:
    assert path_loss_db(1000.0) == pytest.approx(128.1)
    assert path_loss_db([100.0, 10_000.0]) == pytest.approx([90.5, 165.7])
    assert path_gain(1000.0) == pytest.approx(10**-12.81)


@pytest.mark.parametrize("doppler_hz", [0.0, 0.2, 5.0, math.inf])
def test_rayleigh_power_is_exponential_with_mean_one(doppler_hz: float) -> None:
    # one time per realisation: independent samples, whatever the correlation in time
    if math.isinf(doppler_hz):
        samples = fading_power(np.arange(4000.0), doppler_hz, np.random.default_rng(1))
    else:
        samples = realisations(4000, np.array([3.0]), doppler_hz)[:, 0]
    assert stats.kstest(samples, "expon").pvalue > 0.01
    assert samples.mean() == pytest.approx(1.0, abs=0.05)


def test_the_sum_of_sinusoids_is_as_close_to_exponential_as_it_says() -> None:
    samples = realisations(200, np.arange(200) * 50.0, 1.0).ravel()  # far apart: nearly independent
    assert (samples**2).mean() == pytest.approx(2 - 1 / SINUSOIDS, rel=0.03)


@pytest.mark.parametrize(("doppler_hz", "lag_seconds"), [(0.2, 0.5), (2.0, 0.5), (1.0, 0.1), (1.0, 0.77), (5.0, 1.0)])
def test_power_correlates_as_jakes_says(doppler_hz: float, lag_seconds: float) -> None:
    pairs = realisations(6000, np.array([1.0, 1.0 + lag_seconds]), doppler_hz)
    measured = np.corrcoef(pairs[:, 0], pairs[:, 1])[0, 1]
    # |h|^2 of complex Gaussians correlates as the square of h's J0
    assert measured == pytest.approx(special.j0(2 * np.pi * doppler_hz * lag_seconds) ** 2, abs=0.05)


def test_a_finer_step_is_the_same_channel() -> None:
    coarse = fading_power(np.arange(50) * 0.5, 1.0, np.random.default_rng(3))
    fine = fading_power(np.arange(500) * 0.05, 1.0, np.random.default_rng(3))
    np.testing.assert_allclose(fine[::10], coarse, rtol=1e-9, atol=0)


def test_long_series_are_made_in_blocks_that_do_not_show() -> None:
    times = np.arange(40_000) * 0.01
    whole = fading_power(times, 3.0, np.random.default_rng(5))
    np.testing.assert_allclose(
        fading_power(times[-100:], 3.0, np.random.default_rng(5)), whole[-100:], rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("doppler_hz", [0.7, math.inf])
def test_rician_power_follows_its_law(doppler_hz: float) -> None:
    k = 4.0
    if math.isinf(doppler_hz):
        samples = fading_power(np.arange(4000.0), doppler_hz, np.random.default_rng(1), k_factor=k)
    else:
        samples = realisations(4000, np.array([2.0]), doppler_hz, k)[:, 0]
    # 2 (K + 1) |h|^2 is a noncentral chi-square with 2 degrees of freedom
    assert stats.kstest(2 * (k + 1) * samples, stats.ncx2(2, 2 * k).cdf).pvalue > 0.01


def test_shadowing_is_a_stationary_ar1() -> None:
    law = Shadowing(sigma_db=8.0, rho=0.9, interval_seconds=0.5)
    series = shadowing_db(200_000, law, np.random.default_rng(2))
    assert series.std() == pytest.approx(8.0, rel=0.03)
    assert np.corrcoef(series[:-1], series[1:])[0, 1] == pytest.approx(0.9, abs=0.01)
    first = [shadowing_db(1, law, np.random.default_rng(seed))[0] for seed in range(3000)]
    assert np.std(first) == pytest.approx(8.0, rel=0.05)  # from the start


def test_shadowing_is_clipped_and_constant_within_its_interval() -> None:
    law = Shadowing(sigma_db=8.0, rho=0.5, interval_seconds=0.5, clip_db=6.0)
    assert np.abs(shadowing_db(5000, law, np.random.default_rng(0))).max() == 6.0
    channel = Channel(200.0, "static", shadowing=law)
    gains = gain_series([channel], np.arange(500) * 0.1, seed=4)
    slots = gains.up[:, 0].reshape(100, 5)
    assert np.all(slots == slots[:, :1])
    assert len(np.unique(slots[:, 0])) > 10
    np.testing.assert_array_equal(gains.up, gains.down)


@pytest.mark.parametrize("clip_db", [math.inf, 10.0, 0.0])
def test_mean_gain_is_the_mean(clip_db: float) -> None:
    channel = Channel(300.0, "static", shadowing=Shadowing(6.0, 0.0, 1.0, clip_db))
    gains = gain_series([channel], np.arange(200_000.0), seed=1).up
    assert gains.mean() == pytest.approx(mean_gain(channel), rel=0.02)
    assert mean_gain(Channel(300.0, "rayleigh", 1.0)) == path_gain(300.0)


def test_seeds() -> None:
    times = np.arange(100) * 0.1
    channels = [Channel(200.0, "rayleigh", 1.0), Channel(200.0, "rayleigh", 1.0)]
    first, again = gain_series(channels, times, 7), gain_series(channels, times, 7)
    assert first.up.tobytes() == again.up.tobytes()
    assert first.down.tobytes() == again.down.tobytes()
    assert not np.isclose(first.up[:, 0], first.up[:, 1], atol=0).any()
    assert not np.isclose(first.up[:, 0], first.down[:, 0], atol=0).any()
    assert not np.isclose(first.up, gain_series(channels, times, 8).up, atol=0).any()
    alone = gain_series(channels[1:], times, 7, ue_indices=[1])
    np.testing.assert_array_equal(alone.up[:, 0], first.up[:, 1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Channel(0.0),
        lambda: Channel(10.0, "rayleigh", -1.0),
        lambda: Channel(10.0, "rician", 1.0, -1.0),
        lambda: Shadowing(-1.0, 0.5, 1.0),
        lambda: Shadowing(1.0, 1.5, 1.0),
        lambda: Shadowing(1.0, 0.5, 0.0),
    ],
)
def test_what_is_no_channel_is_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="needs"):
        make()

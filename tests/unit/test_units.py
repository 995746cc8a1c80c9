from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed import units


@pytest.mark.parametrize(
    ("dimension", "text", "value"),
    [
        (units.DURATION, "5 ms", 0.005),
        (units.DURATION, "2min", 120.0),
        (units.BIT_RATE, "1.5 Mbit/s", 1.5e6),
        (units.FREQUENCY, "8 MHz", 8e6),
        (units.POWER, "20 dBm", 0.1),
        (units.NOISE_DENSITY, "-174 dBm/Hz", 10**-20.4),
        (units.RATIO, "1 %", 0.01),
        (units.RATIO, "1e-3 %", 1e-5),
        (units.RATIO, 0, 0.0),
        (units.RATIO, "0", 0.0),
        (units.LENGTH, "0.4 km", 400.0),
        (units.EVENT_RATE, "30 /min", 0.5),
    ],
)
def test_parse(dimension: units.Dimension, text: object, value: float) -> None:
    assert dimension.parse(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["1 mbps", "1 Mbps", "1 mbit", "1 MB/s", "1", 1, True, None, "fast", "1e999 Mbit/s"])
def test_ambiguous_or_missing_units_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"bit rate"):
        units.BIT_RATE.parse(text)


@pytest.mark.parametrize("raw", [1, 0.25, "1", "0.01", 5, "1e-3"])
def test_a_ratio_needs_its_percent_sign(raw: object) -> None:
    """1 could be 1 % or all of it."""
    with pytest.raises(ValueError, match=r"no unit; a ratio needs one: units: %"):
        units.RATIO.parse(raw)


@pytest.mark.parametrize(
    ("dimension", "text"),
    [(units.POWER, "1e6 dBm"), (units.DURATION, "1e9s"), (units.DECIBEL, "1e6 dB"), (units.EVENT_RATE, "1e9 /s")],
)
def test_what_cannot_be_meant_is_refused(dimension: units.Dimension, text: str) -> None:
    with pytest.raises(ValueError, match=r"too large|not a finite"):
        dimension.parse(text)


LINEAR = [units.DURATION, units.BIT_RATE, units.FREQUENCY, units.POWER, units.ENERGY, units.LENGTH, units.SIZE]


@given(st.sampled_from(LINEAR), st.floats(1e-6, 1e12))
def test_what_is_printed_parses_back(dimension: units.Dimension, value: float) -> None:
    value = min(value, dimension.largest)
    assert dimension.parse(dimension.format(value)) == pytest.approx(value, rel=1e-11)

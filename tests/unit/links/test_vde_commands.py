"""What a filter is told, and the delay that comes of it."""

from __future__ import annotations

import pytest

from testbed.wires.impairment import GilbertElliott, Impairment
from testbed.wires.vde import commands, emulated_delay_seconds


@pytest.mark.parametrize(
    ("asked", "emulated"), [(0.0, 0.0), (0.4e-3, 0.0), (1e-3, 1e-3), (2.4e-3, 2e-3), (7.6e-3, 8e-3), (0.1, 0.1)]
)
def test_a_delay_is_of_whole_milliseconds(asked: float, emulated: float) -> None:
    assert emulated_delay_seconds(asked) == pytest.approx(emulated)
    assert commands(Impairment(delay_seconds=asked))["delay"] == f"LR{emulated * 1e3:.0f}"


def test_jitter_spreads_a_delay_over_milliseconds_and_keeps_its_mean() -> None:
    assert emulated_delay_seconds(2.4e-3, 1e-3) == 2.4e-3
    spread = Impairment(delay_seconds=2.4e-3, jitter_seconds=1e-3)
    assert commands(spread)["delay"] == "LR2.900+3.000N"  # half a millisecond is cut off, and "+" is three deviations


def test_bursts_are_told_by_their_length_and_the_part_that_is_lost() -> None:
    told = commands(Impairment(bursts=GilbertElliott(p=0.02, r=0.25)))
    assert (told["loss"], told["lostburst"]) == (f"LR{2 / 27 * 100:.6f}", "LR4.000000")

"""What HTB is told ahead of a step, against a shaper that charges frames as HTB does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from controller.frames import FRAME_BITS
from testbed.wires.frames import OUTAGE_FRAME_SECONDS, Course, leading_over, service

STEP_SECONDS = 0.1


def course_of(rates: Sequence[float], first: int, now: float | None = None, step: float = STEP_SECONDS) -> Course:
    """From step ``first`` on (``now``: a time in it); the last rate stays."""

    def course(index: int) -> tuple[float, float]:
        number = first + index
        if number >= len(rates):
            return math.inf, rates[-1]
        return (now if index == 0 and now is not None else number * step), rates[number]

    return course


def carried(rates: Sequence[float], until: float, step: float = STEP_SECONDS) -> float:
    """Bits that the course of the rate lets through from 0 on."""
    times = np.clip(until - step * np.arange(len(rates)), 0, None)
    times[:-1] = np.minimum(times[:-1], step)
    return float(np.dot(rates, times))


def departures(rates: Sequence[float], end: float, *, ahead: bool = True) -> list[float]:
    """Of a wire that is never empty, frame by frame: HTB lets one go and waits for its bits at the rate it was told."""
    told: list[tuple[float, float]] = []
    for number in range(len(rates)):
        levels = leading_over(course_of(rates, number))
        told += levels if ahead else [(levels[0][0], rates[number])]
    times = np.array([at for at, _ in told])
    at, left = 0.0, []
    while at < end:
        left.append(at)
        at += FRAME_BITS / told[int(np.searchsorted(times, at, side="right")) - 1][1]
    return left


def test_a_frame_takes_its_time_at_one_rate_and_across_steps() -> None:
    rates = [1e6, 4e6, 0.0, 2e6]
    assert service(course_of(rates, 0), 0, 0.0) == pytest.approx((FRAME_BITS / 1e6, 1e6))
    # the last 4 ms of the first step carry 4000 bits, the rest goes at 4 Mbit/s
    assert service(course_of(rates, 0), 0, 0.096)[0] == pytest.approx(0.004 + (FRAME_BITS - 4000) / 4e6)
    # 1 ms at 4 Mbit/s, an outage of 0.1 s, the rest at 2 Mbit/s
    assert service(course_of(rates, 0), 1, 0.199) == pytest.approx((0.101 + (FRAME_BITS - 4000) / 2e6, 2e6))


def test_a_frame_waits_for_the_end_of_an_outage_that_is_in_sight() -> None:
    end = 8.0
    assert service(course_of([0.0, 2e6], 0, step=end), 0, 0.0)[0] == pytest.approx(end + FRAME_BITS / 2e6)
    assert leading_over(course_of([0.0, 2e6], 0, step=end))[0][1] == pytest.approx(FRAME_BITS / end, rel=2e-3)


def test_an_outage_without_an_end_in_sight_lets_a_frame_through_now_and_then() -> None:
    assert service(course_of([0.0], 0), 0, 5.0)[0] == OUTAGE_FRAME_SECONDS
    ((at, rate),) = leading_over(course_of([0.0], 0))
    assert (at, rate) == pytest.approx((0.0, 16e3))


@pytest.mark.parametrize("rates", [[5e6], [5e6, 5e6, 5e6], [50e6, 20e6], [20e6, 50e6, 13e6]])
def test_steady_and_fast_wires_are_told_their_rate(rates: list[float]) -> None:
    told = leading_over(course_of(rates, 0))
    assert [rate for _, rate in told] == [pytest.approx(rates[0])]


def test_a_slow_wire_is_led_over_to_the_next_rate() -> None:
    told = leading_over(course_of([200e3, 10e6], 0, now=0.01))
    times, levels = [at for at, _ in told], [rate for _, rate in told]
    assert told[0] == pytest.approx((0.01, 200e3))
    assert times == sorted(times)
    assert times[1] == pytest.approx(STEP_SECONDS - FRAME_BITS / 200e3, abs=2e-3)  # when a frame would last beyond it
    assert levels == sorted(levels)
    assert levels[-1] == pytest.approx(10e6, rel=0.5)
    assert min(np.diff(times[1:])) > 1e-3


# steps that last longer than a frame, and outages
RATES = st.one_of(st.floats(100e3, 20e6), st.just(0.0))


@settings(max_examples=200, deadline=None)
@example([12717601.0, 1053831.0, 0.0, 0.0, 1e6])
@given(st.lists(RATES, min_size=1, max_size=20).map(lambda rates: [*rates, 1e6]))
def test_a_full_wire_carries_what_the_course_of_its_rate_lets_through(rates: list[float]) -> None:
    """At every step within some frames, whatever it was before. The end of every outage is in sight."""
    end = STEP_SECONDS * len(rates)
    left = np.array(departures(rates, end))
    for number in range(1, len(rates) + 1):
        at = number * STEP_SECONDS
        frames = float(np.sum(left < at))
        through = carried(rates, at) / FRAME_BITS
        steps_up = sum(after > before for before, after in pairwise(rates[: number + 1]))
        outages = sum(before > after == 0 for before, after in pairwise(rates[: number + 1]))  # lets a frame through
        assert through - 1 - 2 * steps_up <= frames <= through + 2 + 2 * steps_up + outages


def test_errors_do_not_add_up() -> None:
    """Over 60 s that swing by up to a factor of 100: 0.2 %. Told nothing ahead it would be some per cent."""
    rng = np.random.default_rng(3)
    rates = (10 ** rng.uniform(5, 7, 600)).tolist()
    end = STEP_SECONDS * len(rates)
    total = carried(rates, end)
    assert len(departures(rates, end)) * FRAME_BITS == pytest.approx(total, rel=2e-3)
    assert len(departures(rates, end, ahead=False)) * FRAME_BITS < 0.98 * total

"""Look-ups of a trace: steps, ends, means."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.traces import AtEnd, State, Trace

TRACE = Trace(np.array([0.0, 1.0, 2.5]), np.array([4.0, 8.0, 2.0]), np.array([1.0, 2.0, 3.0]), "rate", 4.0)
ENDS: list[AtEnd] = ["loop", "hold", "clear"]


@pytest.mark.parametrize(
    ("at_end", "time", "expected"),
    [
        ("loop", 0.0, State(4, 1)),
        ("loop", 0.999, State(4, 1)),
        ("loop", 1.0, State(8, 2)),
        ("loop", 3.999, State(2, 3)),
        ("loop", 4.0, State(4, 1)),
        ("loop", 9.2, State(8, 2)),
        ("hold", 4.0, State(2, 3)),
        ("hold", 1e6, State(2, 3)),
        ("clear", 3.999, State(2, 3)),
        ("clear", 4.0, State(10e9, 10e9)),
        ("clear", 1e6, State(10e9, 10e9)),
        ("loop", -1.0, State(4, 1)),
    ],
)
def test_value_at(at_end: AtEnd, time: float, expected: State) -> None:
    assert TRACE.value_at(time, at_end) == expected


def test_clear_gains_are_no_loss() -> None:
    gain = Trace(np.zeros(1), np.array([1e-10]), np.array([1e-10]), "gain", 1.0)
    assert gain.value_at(1.0, "clear") == State(1.0, 1.0)


def test_steps() -> None:
    assert [TRACE.step_time(k, "loop") for k in range(7)] == [0, 1, 2.5, 4, 5, 6.5, 8]
    assert [TRACE.step_time(k, "hold") for k in (2, 3, 6)] == [2.5, math.inf, math.inf]
    assert [TRACE.step_time(k, "clear") for k in (2, 3, 4)] == [2.5, 4, math.inf]


@given(st.integers(0, 10_000), st.sampled_from(ENDS), st.floats(1e-3, 10.0), st.integers(1, 7))
def test_a_step_is_in_force_from_its_time_on(number: int, at_end: AtEnd, step: float, length: int) -> None:
    trace = Trace(np.arange(length) * step, np.ones(length), np.ones(length), "gain", length * step)
    start = trace.step_time(number, at_end)
    if math.isfinite(start):
        assert trace.step_number(start, at_end) == number
        if number:
            assert trace.step_number(math.nextafter(start, 0.0), at_end) == number - 1


def test_means() -> None:
    assert TRACE.mean() == State((4 * 1 + 8 * 1.5 + 2 * 1.5) / 4, (1 + 3 + 4.5) / 4)
    assert TRACE.mean(0.5, 1.5).up == pytest.approx(6.0)
    assert TRACE.mean(3.5, 4.5, "loop").up == pytest.approx(3.0)
    assert TRACE.mean(3.5, 4.5, "hold").up == pytest.approx(2.0)
    assert TRACE.mean(3.5, 4.5, "clear").up == pytest.approx(5e9 + 1)
    assert TRACE.mean(8.0, 12.0, "loop").down == pytest.approx(TRACE.mean().down)


@given(st.floats(0, 20), st.floats(0.01, 20), st.sampled_from(ENDS))
def test_the_mean_is_that_of_samples(start: float, width: float, at_end: AtEnd) -> None:
    grid = start + (np.arange(2000) + 0.5) * width / 2000
    up, _ = TRACE.sampled(grid, at_end)
    jump = 10e9 if at_end == "clear" else 8.0
    assert TRACE.mean(start, start + width, at_end).up == pytest.approx(up.mean(), abs=jump * 20 / 2000)


@pytest.mark.parametrize(
    ("times", "values", "duration"),
    [
        ([], [], 1.0),
        ([0.0, 1.0], [1.0], 2.0),
        ([1.0], [1.0], 2.0),
        ([0.0, 0.0], [1.0, 1.0], 2.0),
        ([0.0, 1.0], [1.0, 1.0], 1.0),
        ([0.0], [math.nan], 1.0),
        ([0.0], [-1.0], 1.0),
        ([0.0], [1.0], math.inf),
    ],
)
def test_what_is_no_trace_is_refused(times: list[float], values: list[float], duration: float) -> None:
    with pytest.raises(ValueError, match="trace"):
        Trace(np.array(times), np.array(values), np.array(values), "gain", duration)

"""Mahimahi files: every bit is kept, whatever the bin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import InputError
from testbed.traces import load_trace, read_mahimahi

BITS = 1504 * 8


def write(path: Path, times: list[int]) -> Path:
    path.write_text("".join(f"{time}\n" for time in times))
    return path


@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=60).filter(lambda times: max(times) > 0),
    st.sampled_from([0.001, 0.02, 0.1, 0.3, 1.0, 7.0]),
)
def test_the_mean_is_exact(tmp_path_factory: pytest.TempPathFactory, times: list[int], width: float) -> None:
    path = write(tmp_path_factory.getbasetemp() / "mean.up", sorted(times))
    trace = read_mahimahi(path, bin_seconds=width)
    duration = max(times) / 1000
    assert trace.duration_seconds == duration
    assert trace.mean().up == pytest.approx(len(times) * BITS / duration, rel=1e-12)


def test_bits_land_in_their_bins(tmp_path: Path) -> None:
    path = write(tmp_path / "t.up", [0, 0, 99, 100, 250, 250])
    trace = load_trace(path, "rate")
    widths = np.diff(np.append(trace.times_seconds, trace.duration_seconds))
    np.testing.assert_allclose(trace.up * widths / BITS, [3, 1, 2])
    np.testing.assert_array_equal(trace.down, trace.up)


def test_the_shorter_of_two_files_repeats(tmp_path: Path) -> None:
    up, down = write(tmp_path / "t.up", [1000, 2000]), write(tmp_path / "t.down", [500])
    trace = read_mahimahi(up, down, bin_seconds=1.0)
    assert trace.duration_seconds == 2.0
    assert trace.mean().up == pytest.approx(BITS)
    assert trace.mean().down == pytest.approx(2 * BITS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\nx\n", "t.up, line 2: not a Mahimahi line"),
        ("5\n4\n", "t.up, line 2: times must not fall"),
        ("", "t.up: a trace needs a line after 0 ms"),
        ("0\n0\n", "t.up: a trace needs a line after 0 ms"),
        ("-1\n", "t.up, line 1: not a Mahimahi line"),
        ("²\n", "t.up, line 1: not a Mahimahi line"),
        ("100000000000000\n", "t.up, line 1: the time is not one from the start .* since 1970"),
        ("9" * 5000, "t.up, line 1: the time is not one from the start"),
        ("5\n99000000000\n", r"t.up: the trace is too long for bins of 0.1 s; got '9.9e\+07 s'.* in ms"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.up"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_mahimahi(path)


def test_a_short_file_beside_a_long_one_needs_no_memory(tmp_path: Path) -> None:
    up, down = write(tmp_path / "t.up", [1]), write(tmp_path / "t.down", [100_000_000])
    trace = read_mahimahi(up, down, bin_seconds=10.0)
    np.testing.assert_allclose(trace.up, BITS * 1000, rtol=2e-4)
    assert trace.mean().down == pytest.approx(BITS / 1e5)


def test_a_chance_on_an_edge_lies_after_it_whatever_rounding_says(tmp_path: Path) -> None:
    """0.1 * 3 is 0.30000000000000004."""
    trace = read_mahimahi(write(tmp_path / "t.up", [300, 1000]))
    np.testing.assert_array_equal(np.flatnonzero(trace.up), [3, 9])


@pytest.mark.parametrize(
    ("times", "rate"), [([1], BITS * 1000), ([1, 1, 2], BITS * 1500), (list(range(1, 10)), BITS * 1000)]
)
@pytest.mark.parametrize("name", ["t.up", "t.trace", "t.pps", "t"])
def test_a_constant_or_very_short_file_is_one_step(tmp_path: Path, times: list[int], rate: float, name: str) -> None:
    trace = load_trace(write(tmp_path / name, times), "rate").as_played("loop")
    assert len(trace) == 1
    assert trace.up[0] == pytest.approx(rate)
    assert [trace.step_time(number, "loop") for number in (0, 1, 1000)] == [0.0, np.inf, np.inf]
    assert trace.value_at(1e6, "loop").up == pytest.approx(rate)
    assert trace.mean(3.0, 1e4).up == pytest.approx(rate)


def test_equal_neighbours_are_one_step(tmp_path: Path) -> None:
    trace = load_trace(write(tmp_path / "t.up", [*range(0, 1000), *range(1000, 2000, 2), 2000]), "rate")
    assert len(trace) == 3
    assert trace.mean().up == pytest.approx(BITS * 1501 / 2)


@pytest.mark.parametrize("text", ["\ufeff10\n20\n", "10\n20\n\n", "10\r\n\r\n20\r\n"])
def test_marks_and_blank_lines_mean_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.up").write_text(text, encoding="utf-8", newline="")
    assert read_mahimahi(tmp_path / "t.up").mean().up == pytest.approx(BITS * 100)


def test_a_mahimahi_file_holds_no_gains(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds rates"):
        load_trace(write(tmp_path / "t.up", [10]), "gain")

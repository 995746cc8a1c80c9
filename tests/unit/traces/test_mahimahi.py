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
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.up"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_mahimahi(path)


def test_a_mahimahi_file_holds_no_gains(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds rates"):
        load_trace(write(tmp_path / "t.up", [10]), "gain")

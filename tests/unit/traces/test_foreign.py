"""Recorded traces as other people keep them: read with the right unit, or refused with the way out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from testbed.cli.trace import command
from testbed.errors import InputError
from testbed.traces import load_trace, read_trace
from testbed.traces.foreign import Foreign, guess, read_foreign

COOKED = "0.0 4.03\n0.55 4.79\n1.10 0.0\n1.65 2.5\n"
HSDPA = "1297 0 59.85 10.78 0 1000\n1298 1000 59.85 10.78 48000 1000\n1299 2500 59.85 10.78 30000 1500\n"
GNETTRACK = (
    "Timestamp,Longitude,NetworkMode,SNR,DL_bitrate,UL_bitrate,State\n"
    "2019.12.14_10.16.30,0,5G,-,15345,312,D\n"
    "2019.12.14_10.16.31,0,5G,3,22710,401,D\n"
    "2019.12.14_10.16.31,0,5G,3,25710,-,D\n"
    "2019.12.14_10.16.33,0,5G,3,0,0,D\n"
)


def file(tmp_path: Path, text: str, name: str = "recorded.log") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (COOKED, "seconds-mbps"),
        (COOKED.replace(" ", "\t"), "seconds-mbps"),
        (COOKED.replace(" ", ","), "seconds-mbps"),
        (HSDPA, "hsdpa"),
        (GNETTRACK, "gnettrack"),
        (GNETTRACK.replace(",", ";"), "gnettrack"),
        ("1\n2\n3\n", "mahimahi"),
        ("\n5\n", "mahimahi"),
        ("# testbed trace 1\n", "testbed"),
        ("time_seconds, up, down\n0,1,1\n", "testbed"),
        ("# kind=rate\ntime_seconds,up,down\n", "testbed"),
        ("time;up;down\n0;1;1\n", None),
        ("hello\n", None),
        ("", None),
    ],
)
def test_what_a_file_looks_like(text: str, form: str | None) -> None:
    assert guess(text) == form


def test_two_columns_are_seconds_and_megabits(tmp_path: Path) -> None:
    trace = read_foreign(file(tmp_path, "\ufeff" + COOKED.replace("0.0 4", "10.0 4", 1).replace("0.55", "10.55")
                              .replace("1.10", "11.1").replace("1.65", "11.65")), "seconds-mbps")  # fmt: skip
    np.testing.assert_allclose(trace.times_seconds, [0, 0.55, 1.1, 1.65])
    np.testing.assert_allclose(trace.up, [4.03e6, 4.79e6, 0, 2.5e6])
    np.testing.assert_array_equal(trace.up, trace.down)
    assert trace.duration_seconds == pytest.approx(2.2)


def test_bytes_and_ms_of_a_row_end_at_its_time(tmp_path: Path) -> None:
    trace = read_foreign(file(tmp_path, HSDPA), "hsdpa")
    np.testing.assert_allclose(trace.times_seconds, [0, 1.0, 2.0])
    np.testing.assert_allclose(trace.up, [0, 384e3, 160e3])
    assert trace.duration_seconds == pytest.approx(3.5)


def test_gnettrack_is_in_kilobits_and_several_rows_in_a_second_are_one(tmp_path: Path) -> None:
    trace = read_foreign(file(tmp_path, GNETTRACK), "gnettrack")
    np.testing.assert_allclose(trace.times_seconds, [0, 1, 3])
    np.testing.assert_allclose(trace.down, [15345e3, 24210e3, 0])
    np.testing.assert_allclose(trace.up, [312e3, 401e3, 0])
    assert trace.duration_seconds == 5.0


def test_one_direction_serves_both(tmp_path: Path) -> None:
    text = "Timestamp,DL_bitrate\n2019.12.14_10.16.30,5000\n2019.12.14_10.16.31,-\n2019.12.14_10.16.32,7000\n"
    trace = read_foreign(file(tmp_path, text), "gnettrack")
    np.testing.assert_allclose(trace.up, [5e6, 7e6])
    np.testing.assert_array_equal(trace.up, trace.down)


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("seconds-mbps", "0 1\n1 x\n", r"line 2: not a row of this format; got '1 x'"),
        ("seconds-mbps", "0 1\n1 nan\n", r"line 2: not a row"),
        ("seconds-mbps", "0 1\n1 -2\n", r"line 2: not a row"),
        ("seconds-mbps", "0 1\n0 2\n", r"line 2: times must rise"),
        ("seconds-mbps", "0 1500000\n1 1500000\n", r"line 1: this is no rate of a radio link; got '1.5e\+12 bit/s'"),
        ("seconds-mbps", "", r"a trace without a row"),
        ("hsdpa", "1 0 0 0 5 0\n", r"line 1: a row without a time"),
        ("hsdpa", "1 0 0 0 5 10\n1 0 0 0 5 10\n", r"line 2: times must rise"),
        ("gnettrack", "Timestamp,DL_bitrate\nnow,5\n", r"line 2: not a time; got 'now'"),
        ("gnettrack", "Timestamp,DL_bitrate\n2019.12.14_10.16.30,fast\n", r"line 2: dl_bitrate is not a value"),
        ("gnettrack", "Timestamp,SNR,DL_bitrate\n2019.12.14_10.16.30,5\n", r"line 2: a row is too short"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, form: Foreign, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_foreign(file(tmp_path, text), form)
    assert "recorded.log" in str(caught.value)


@pytest.mark.parametrize(("text", "form"), [(COOKED, "two columns"), (HSDPA, "a log of"), (GNETTRACK, "G-NetTrack")])
def test_a_lab_that_names_one_is_told_what_it_is_and_the_command(tmp_path: Path, text: str, form: str) -> None:
    path = file(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_trace(path, "rate")
    assert form in str(caught.value)
    assert f"testbed trace import {path} --out recorded.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [("time_seconds;up;down\n0;1;1\n", "semicolons"), ("time_seconds\tup\tdown\n0\t1\t1\n", "tabs"), ("a\n", "import")],
)
def test_other_separators_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_trace(file(tmp_path, text, "t.csv"), "rate")


@pytest.mark.parametrize(("text", "mean"), [(COOKED, 2.83e6), (HSDPA, (384e3 + 160e3 * 1.5) / 3.5)])
def test_import(tmp_path: Path, text: str, mean: float) -> None:
    out = tmp_path / "out.csv"
    result = CliRunner().invoke(command, ["import", str(file(tmp_path, text)), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert "is read as" in result.stderr
    assert json.loads(result.stdout)["up"]["mean"] == pytest.approx(mean)
    assert read_trace(out, "rate").mean().up == pytest.approx(mean, rel=1e-8)


def test_import_in_wider_bins_keeps_the_mean(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    source = str(file(tmp_path, COOKED))
    result = CliRunner().invoke(command, ["import", source, "--bin", "1 s", "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    trace = read_trace(out)
    np.testing.assert_allclose(trace.times_seconds, [0, 1, 2])
    assert trace.up[0] == pytest.approx(0.55 * 4.03e6 + 0.45 * 4.79e6)
    assert trace.mean().up == pytest.approx(2.83e6, rel=1e-8)


def test_import_of_something_else_names_the_formats(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["import", str(file(tmp_path, "a b c\n")), "--out", str(tmp_path / "x")])
    assert isinstance(result.exception, InputError)
    assert "gnettrack" in str(result.exception)

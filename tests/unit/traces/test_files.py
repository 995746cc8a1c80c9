"""Trace files: the same trace the same bytes, and an error with file and line for everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controller.model.channel import Channel, Shadowing
from testbed.errors import InputError
from testbed.traces import Kind, describe, generate, load_trace, read_trace, write_trace

CHANNEL = Channel(200.0, "rician", 0.5, 4.0, Shadowing(6.0, 0.9, 0.5))


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_trace(generate([CHANNEL], 30.0, seed=3)[0], tmp_path / name, describe(CHANNEL))
    write_trace(generate([CHANNEL], 30.0, seed=4)[0], tmp_path / "c", describe(CHANNEL))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_a_longer_trace_begins_like_a_shorter_one() -> None:
    short, long = generate([CHANNEL], 5.0, seed=3)[0], generate([CHANNEL], 50.0, seed=3)[0]
    np.testing.assert_allclose(long.up[: len(short)], short.up, rtol=1e-12, atol=0)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    trace = generate([CHANNEL], 10.05, seed=1, step_seconds=0.25)[0]
    write_trace(trace, tmp_path / "t.csv", "any = note")
    back = load_trace(tmp_path / "t.csv", "gain")
    assert (back.kind, back.duration_seconds, len(back)) == ("gain", 10.05, 41)
    np.testing.assert_allclose(back.up, trace.up, rtol=1e-8, atol=0)
    np.testing.assert_allclose(back.down, trace.down, rtol=1e-8, atol=0)
    write_trace(back, tmp_path / "again.csv", "any = note")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "t.csv").read_bytes()


def test_a_static_channel_is_one_step() -> None:
    trace = generate([Channel(100.0)], 60.0, seed=0)[0]
    assert len(trace) == 1
    assert trace.duration_seconds == 60.0


def test_a_plain_csv_takes_its_kind_from_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "plain.csv"
    path.write_text("time_seconds,up,down\n0,1e6,2e6\n0.5,3e6,4e6\n")
    trace = read_trace(path, "rate")
    assert (trace.kind, trace.duration_seconds) == ("rate", 1.0)
    with pytest.raises(InputError, match=r"plain.csv: the kind is not known"):
        read_trace(path)


HEADER = "time_seconds,up,down\n"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", "gain", r"t.csv: no column line"),
        (HEADER, "gain", r"t.csv: a trace without a row"),
        ("0,1,1\n", "gain", r"line 1: not the column line"),
        ("# kind=gain\n# speed=3\n" + HEADER + "0,1,1\n", None, r"line 2: unknown header line"),
        ("# kind=gain\n# kind=gain\n" + HEADER + "0,1,1\n", None, r"line 2: kind is given twice"),
        ("# kind=level\n" + HEADER + "0,1,1\n", None, r"unknown kind; got 'level'; allowed: gain, rate"),
        ("# kind=gain\n" + HEADER + "0,1,1\n", "rate", r"of another kind .* got 'gain'; allowed: rate"),
        (HEADER + "0,1\n", "gain", r"line 2: not a row of three values"),
        (HEADER + "0,1,1\n1,x,1\n", "gain", r"line 3: up is not a value; got 'x'"),
        (HEADER + "0,1,1\n1,1,nan\n", "gain", r"line 3: down is not a value; got 'nan'"),
        (HEADER + "0,1,-1\n", "gain", r"line 2: down is not a value; got '-1'"),
        (HEADER + "1,1,1\n", "gain", r"line 2: the first time is not 0"),
        (HEADER + "0,1,1\n1,1,1\n1,1,1\n", "gain", r"line 4: times must rise"),
        (HEADER + "0,1,1\n\n1,1\n", "gain", r"line 4: not a row"),
        (HEADER + "0,118,1\n", "gain", r"line 2: up is not a value; got '118'.*at most 1\. .*path loss .*1e-12"),
        (HEADER + "0,-118,1\n", "gain", r"line 2: up is not a value; got '-118'.*linear power ratio"),
        (HEADER + "0,0,3\n", "loss", r"line 2: down is not a value; got '3'.*divide percent by 100.*--unit %"),
        (HEADER + "0,0,4000\n", "delay", r"line 2: down is not a value.*divide ms by 1000.*--unit ms"),
        (HEADER + "0,1e14,1\n", "rate", r"line 2: up is not a value.*bit/s"),
        (HEADER + "1700000000,1,1\n", "rate", r"line 2: the first time is not 0.*Subtract it"),
        (HEADER + "0,1,1\n1e308,1,1\n", "rate", r"the last step has no length"),
        ("# duration_seconds=1\n" + HEADER + "0,1,1\n1,1,1\n", "gain", r"duration_seconds is not a value; got '1'"),
        ("# duration_seconds=long\n" + HEADER + "0,1,1\n", "gain", r"duration_seconds is not a value"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str, kind: Kind | None, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_trace(path, kind)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        read_trace(tmp_path / "binary.csv")


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + HEADER + "0,1e6,2e6\n1,2e6,1e6\n",
        HEADER + "0,1e6,2e6\n\n1,2e6,1e6\n\n\n",
        "\n" + HEADER + "0,1e6,2e6\r\n1,2e6,1e6",
    ],
)
def test_marks_and_blank_lines_mean_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8", newline="")
    trace = load_trace(tmp_path / "t.csv", "rate")
    np.testing.assert_array_equal(trace.up, [1e6, 2e6])
    assert trace.duration_seconds == 2.0


def test_a_fading_channel_at_the_antenna_can_be_played(tmp_path: Path) -> None:
    """The path loss has no near field: its gain comes out above 1, which no file may hold."""
    (trace,) = generate([Channel(0.2, "rayleigh", 1.0)], 5.0, seed=1)
    write_trace(trace, tmp_path / "t.csv")
    assert read_trace(tmp_path / "t.csv").up.max() <= 1.0


def test_more_steps_than_memory_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="steps that a trace may have"):
        generate([CHANNEL], 1e8, seed=0)
    with pytest.raises(ValueError, match="steps that a trace may have"):
        generate([CHANNEL], 60.0, seed=0, step_seconds=1e-6)

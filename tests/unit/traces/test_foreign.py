"""Recorded traces as other people keep them: read with the right unit, or refused with the way out.

``tests/data/traces`` has a small file in the layout of each data set that docs/trace.md names.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.model.channel import path_gain
from testbed.cli.trace import command
from testbed.errors import InputError
from testbed.lab.simulate import SimulationOrder, simulate_lab
from testbed.labfile.load import load
from testbed.records.tables import column, read_tables
from testbed.traces import Trace, load_trace, read_trace, write_trace
from testbed.traces.foreign import read_foreign
from testbed.traces.layouts import TableFormat, guess
from testbed.traces.value_units import REFERENCE_DBM

DATA = Path(__file__).parents[2] / "data" / "traces"
PROFILE = Path(__file__).parents[3] / "topologies" / "profiles" / "mobilenet_v2.json"
COOKED = "0.0 4.03\n0.55 4.79\n1.10 0.0\n1.65 2.5\n"
HSDPA = "1297 0 59.85 10.78 0 1000\n1298 1000 59.85 10.78 48000 1000\n1299 2500 59.85 10.78 30000 1500\n"
GNETTRACK = "Timestamp,DL_bitrate,UL_bitrate\n2019.12.14_10.16.30,15345,312\n2019.12.14_10.16.31,0,0\n"


def file(tmp_path: Path, text: str, name: str = "recorded.log") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def imported(source: Path, out: Path, *options: str) -> Trace:
    result = CliRunner().invoke(command, ["import", str(source), *options, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "is read as" in result.stderr
    return read_trace(out)


def refusal(source: Path, out: Path, *options: str) -> str:
    result = CliRunner().invoke(command, ["import", str(source), *options, "--out", str(out)])
    assert isinstance(result.exception, InputError), result.output
    assert not out.exists()
    return str(result.exception)


#: name, options, (kind, times, up, down, duration)
DATA_SETS = {
    "mahimahi.up": ((), ("rate", [0, 0.1, 0.3], [5 * 120320, 0, 120320], [5 * 120320, 0, 120320], 0.4)),
    "gnettrack-5g.csv": ((), ("rate", [0, 1, 3], [312e3, 401e3, 0], [15345e3, 24210e3, 0], 5)),
    "gnettrack-4g.csv": ((), ("rate", [0, 1], [194e3, 230e3], [5178e3, 6178e3], 2)),
    "lumos5g.csv": (
        ("--where", "run_num=1"),
        ("rate", [0, 1, 2], [84e6, 1012e6, 1411.5e6], [84e6, 1012e6, 1411.5e6], 3),
    ),
    "fcc.csv": (("--where", "unit_id=386"), ("rate", [0, 5], [10e6, 11.2e6], [10e6, 11.2e6], 10)),
    "pensieve.txt": ((), ("rate", [0, 0.55, 1.1, 1.65], [4.03e6, 4.79e6, 0, 2.5e6], [4.03e6, 4.79e6, 0, 2.5e6], 2.2)),
    "hsdpa.log": ((), ("rate", [0, 1, 2], [0, 384e3, 160e3], [0, 384e3, 160e3], 3.5)),
    "ghent-4g.log": (
        (),
        ("rate", [0, 1.003], [2e7 / 1.003, 1e7 / 1.001], [2e7 / 1.003, 1e7 / 1.001], 2.004),
    ),
    "ns3-nr-DlPathlossTrace.txt": (
        ("--where", "IMSI=1"),
        ("gain", [0, 0.01], [10**-10.15, 10**-10.25], [10**-10.15, 10**-10.25], 0.02),
    ),
    # 30 dBm over 300 subcarriers
    "ns3-lte-DlRsrpSinrStats.txt": (
        ("--where", "IMSI=1"),
        ("gain", [0, 0.000999995], [1e-11, 2e-11], [1e-11, 2e-11], 2 * 0.000999995),
    ),
    "excel-german.csv": ((), ("rate", [0, 0.5], [312.5e3, 401e3], [15345e3, 15345.5e3], 0.75)),
}


def test_every_file_of_the_data_has_its_test() -> None:
    assert {path.name for path in DATA.iterdir()} == set(DATA_SETS)


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_data_set_by_its_command(tmp_path: Path, name: str) -> None:
    options, (kind, times, up, down, duration) = DATA_SETS[name]
    if name == "excel-german.csv":  # three steps: the missing uplink is as before, the missing downlink too
        times, up, down = [0, 0.25, 0.5], [312.5e3, 312.5e3, 401e3], [15345e3, 15345.5e3, 15345.5e3]
    out = tmp_path / "out.csv"
    trace = imported(DATA / name, out, *options)
    assert trace.kind == kind
    np.testing.assert_allclose(trace.times_seconds, times, rtol=1e-6)
    np.testing.assert_allclose(trace.up, up, rtol=1e-3)
    np.testing.assert_allclose(trace.down, down, rtol=1e-3)
    assert trace.duration_seconds == pytest.approx(duration)
    shown = CliRunner().invoke(command, ["show", str(out), "--json"], catch_exceptions=False)
    summary = json.loads(shown.stdout)
    assert (summary["kind"], summary["steps"]) == (kind, len(times))
    assert summary["up"]["mean"] == pytest.approx(trace.mean().up)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (COOKED, "pensieve"),
        (COOKED.replace(" ", "\t"), "pensieve"),
        (COOKED.replace(" ", ","), "pensieve"),
        (COOKED.replace(".", ","), "pensieve"),
        (HSDPA, "hsdpa"),
        (GNETTRACK, "gnettrack"),
        (GNETTRACK.replace(",", ";"), "gnettrack"),
        ("1\n2\n3\n", "mahimahi"),
        ("\n5\n", "mahimahi"),
        ("# testbed trace 1\n", "testbed"),
        ("time_seconds, up, down\n0,1,1\n", "testbed"),
        ("# kind=rate\ntime_seconds,up,down\n", "testbed"),
        ("time;up;down\n0;1;1\n", "csv"),
        ("# time rate\n0 1\n1 2\n", "csv"),
        ("0 1 2\n1 3 4\n", "csv"),
        ("a b c\nd e f\n", None),
        ("hello\n", None),
        ("", None),
    ],
)
def test_what_a_file_looks_like(text: str, form: str | None) -> None:
    assert guess(text) == form


ERRORS: list[tuple[TableFormat, str, str]] = [
    ("pensieve", "0 1\n1 x\n", r"line 2: 2 is not a value; got 'x'"),
    ("pensieve", "0 1\n1 nan\nz 1\n", r"line 3: not a time"),
    ("pensieve", "0 1\n1 inf\n", r"line 2: 2 is not a value"),
    ("pensieve", "0 1\n1 -2\n", r"line 2: this is no rate"),
    ("pensieve", "0 1\n1 2\n0.5 2\n", r"line 3: times must rise"),
    ("pensieve", "0 1500000\n1 1500000\n", r"line 1: this is no rate of a radio link; got '1.5e\+06 Mbit/s'"),
    ("pensieve", "", r"a trace without a row"),
    ("pensieve", "0 nan\n", r"a trace without a row"),
    ("hsdpa", "1 0 0 0 5 0\n", r"line 1: a row without a time"),
    ("hsdpa", "1 0 0 0 5 10\n1 0 0 0 5 10\n", r"the last step has no length"),
    ("gnettrack", "Timestamp,DL_bitrate\nnow,5\n", r"line 2: not a time; got 'now'"),
    ("gnettrack", "Timestamp,DL_bitrate\n2019.12.14_10.16.30,fast\n", r"line 2: DL_bitrate is not a value"),
    ("gnettrack", "Timestamp,SNR,DL_bitrate\n2019.12.14_10.16.30,5\n", r"line 2: a row is too short"),
    ("gnettrack", "a,b\n1,2\n", r"not clear which columns hold time and values; got '2 columns"),
]


@pytest.mark.parametrize(("form", "text", "message"), ERRORS)
def test_errors_name_file_and_line(tmp_path: Path, form: TableFormat, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_foreign(file(tmp_path, text), form)
    assert "recorded.log" in str(caught.value)


RSRP = 10 ** ((-97 - REFERENCE_DBM) / 10)


@pytest.mark.parametrize(
    ("options", "kind", "second"),
    [
        (("--up", "RSRP"), "gain", RSRP),
        (("--up", "RSRP", "--tx-power", "18 dBm"), "gain", 10**-11.5),
        (("--up", "PINGAVG"), "delay", None),
        (("--up", "UL_bitrate", "--unit", "Mbit/s"), "rate", 401e6),
    ],
)
def test_other_columns_of_a_known_file(
    tmp_path: Path, options: tuple[str, ...], kind: str, second: float | None
) -> None:
    trace = imported(DATA / "gnettrack-5g.csv", tmp_path / "out.csv", *options)
    assert trace.kind == kind
    np.testing.assert_array_equal(trace.up, trace.down)
    if second is None:
        np.testing.assert_allclose(trace.up, [0.024])
    else:
        assert trace.up[1] == pytest.approx(second, rel=1e-6)


def test_a_distance_is_the_gain_of_the_channel_law(tmp_path: Path) -> None:
    trace = imported(DATA / "gnettrack-4g.csv", tmp_path / "out.csv", "--up", "ServingCell_Distance")
    np.testing.assert_allclose(trace.up, path_gain([600.0, 1000.0]), rtol=1e-8)


@pytest.mark.parametrize(
    ("text", "options", "times", "up"),
    [
        # path losses in our own columns, as of a lab that was refused
        ("time_seconds,up,down\n0,118,116\n0.1,119,117\n", ("--unit", "dB"), [0, 0.1], [10**-11.8, 10**-11.9]),
        ("t,gain_dB\n5,-90\n6,-100\n", (), [0, 1], [1e-9, 1e-10]),
        ("1700000000\t1\t2\n1700000001\t3\t4\n", ("--unit", "Mbit/s"), [0, 1], [1e6, 3e6]),
        ("1700000000000,1,2\n1700000000500,3,4\n", ("--unit", "Mbit/s"), [0, 0.5], [1e6, 3e6]),
        ("time,rate_kbps\n2024-05-01T10:00:00Z,8\n2024-05-01T10:00:00.5Z,9\n", (), [0, 0.5], [8e3, 9e3]),
        ("when,what\n0,8\n2,9\n", ("--time", "when", "--up", "what", "--unit", "kbit/s"), [0, 2], [8e3, 9e3]),
        ("7\n8\n", ("--step", "2 s", "--unit", "kB/s"), [0, 2], [56e3, 64e3]),
        ("x;1,5\ny;2,5\n", ("--step", "2 s", "--up", "2", "--unit", "Mbit/s"), [0, 2], [1.5e6, 2.5e6]),
        # the mean of gains, not of decibels
        ("t,rsrp\n0,-80\n0,-90\n1,-90\n", ("--tx-power", "0 dBm"), [0, 1], [5.5e-9, 1e-9]),
        ("t,ms\n0,10\n1,20\n", ("--up", "ms", "--unit", "ms"), [0, 1], [0.01, 0.02]),
        ("t,lost\n0,10\n1,20\n", ("--up", "lost", "--unit", "%"), [0, 1], [0.1, 0.2]),
    ],
)
def test_tables(tmp_path: Path, text: str, options: tuple[str, ...], times: list[float], up: list[float]) -> None:
    trace = imported(file(tmp_path, text), tmp_path / "out.csv", *options)
    np.testing.assert_allclose(trace.times_seconds, times)
    np.testing.assert_allclose(trace.up, up, rtol=1e-8)


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("a b c\nd e f\n", (), ["no format that is known", "separated by blanks: a, b, c", "gnettrack", "--step STEP"]),
        ("when,what\n0,8\n2,9\n", (), ["columns separated by commas: when, what; first rows: 0,8 | 2,9", "--time COL"]),
        ("time;up;down\n0;1;1\n", (), ["the unit of the values is not known", "kbit/s", "--unit"]),
        ("time,up\n0,1\n1,2\n", ("--unit", "furlong"), ["unknown unit", "'furlong'", "Mbit/s"]),
        ("time,up\n0,1\n1,2\n", ("--up", "x", "--unit", "s"), ["no such column", "'x'", "time, up"]),
        ("time,up\n0,-1\n1,2\n", ("--unit", "dB"), ["decibels of both signs"]),
        ("time,up\n0,30\n1,20\n", ("--unit", "dBm"), ["nothing amplifies", "line 2", "--tx-power"]),
        ("time,up\n0,1\n1,2\n", ("--where", "up=3", "--unit", "dB"), ["no row is left", "up=3", "up: 1, 2"]),
        ("1\n2\n", ("--format", "mahimahi", "--unit", "kbit/s"), ["those of tables", "csv"]),
    ],
)
def test_what_cannot_be_read_says_what_it_looks_like_and_the_command(
    tmp_path: Path, text: str, options: tuple[str, ...], says: list[str]
) -> None:
    said = refusal(file(tmp_path, text), tmp_path / "out.csv", *options)
    assert "\n" not in said
    for words in says:
        assert words in said


@pytest.mark.parametrize("name", ["lumos5g.csv", "fcc.csv", "ns3-nr-DlPathlossTrace.txt"])
def test_several_recordings_in_a_file_are_not_mixed(tmp_path: Path, name: str) -> None:
    option = DATA_SETS[name][0][1]
    assert f"Choose one: --where {option}" in refusal(DATA / name, tmp_path / "out.csv")


@pytest.mark.parametrize(("text", "form"), [(COOKED, "two columns"), (HSDPA, "a log of"), (GNETTRACK, "G-NetTrack")])
def test_a_lab_that_names_one_is_told_what_it_is_and_the_command(tmp_path: Path, text: str, form: str) -> None:
    path = file(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_trace(path, "rate")
    assert form in str(caught.value)
    assert f"testbed trace import {path} --out recorded.csv" in str(caught.value)


def test_a_lab_is_told_the_command_for_other_separators(tmp_path: Path) -> None:
    path = file(tmp_path, "time_seconds;up;down\n0;1;1\n", "t.csv")
    with pytest.raises(InputError, match="separated by semicolons") as caught:
        load_trace(path, "rate")
    assert f"trace import {path} --time time_seconds --up up --down down --unit UNIT --out t-trace.csv" in str(
        caught.value
    )


def test_the_downlink_has_a_file_of_its_own(tmp_path: Path) -> None:
    down = file(tmp_path, "0 8\n1.1 9\n", "down.txt")
    out = tmp_path / "out.csv"
    trace = imported(DATA / "pensieve.txt", out, str(down))
    assert trace.mean().up == pytest.approx(2.83e6, rel=1e-8)
    assert trace.mean().down == pytest.approx(8.5e6, rel=1e-8)


def test_import_in_wider_bins_keeps_the_mean_and_draws(tmp_path: Path) -> None:
    png = tmp_path / "p.png"
    trace = imported(file(tmp_path, COOKED), tmp_path / "out.csv", "--bin", "1 s", "--png", str(png))
    np.testing.assert_allclose(trace.times_seconds, [0, 1, 2])
    assert trace.up[0] == pytest.approx(0.55 * 4.03e6 + 0.45 * 4.79e6)
    assert trace.mean().up == pytest.approx(2.83e6, rel=1e-8)
    assert png.read_bytes().startswith(b"\x89PNG")


RATES = st.integers(0, 10**6).map(lambda value: value * 1e4)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.integers(1, 10_000), RATES, RATES),
        min_size=2,
        max_size=20,
    ),
    separator=st.sampled_from([",", ";", "\t", " "]),
    start=st.sampled_from([0, 1_700_000_000_000]),
)
def test_what_is_written_as_somebody_elses_table_comes_back(
    tmp_path: Path, steps: list[tuple[int, float, float]], separator: str, start: int
) -> None:
    """Times in ms from anywhere on, rates in kbit/s; and what we write of it, we read."""
    times = np.cumsum([step[0] for step in steps])
    rows = [
        separator.join((str(start + time), f"{up / 1e3:.17g}", f"{down / 1e3:.17g}"))
        for time, (_, up, down) in zip(times.tolist(), steps, strict=True)
    ]
    source = file(tmp_path, "\n".join([separator.join(("time_ms", "up_kbps", "down_kbps")), *rows]) + "\n")
    trace = imported(source, tmp_path / "out.csv")
    wanted = Trace(
        (times - times[0]) / 1e3,
        np.array([step[1] for step in steps]),
        np.array([step[2] for step in steps]),
        "rate",
        float(2 * times[-1] - times[-2] - times[0]) / 1e3,
    ).without_repeats()
    assert trace.duration_seconds == pytest.approx(wanted.duration_seconds)
    np.testing.assert_allclose(trace.times_seconds, wanted.times_seconds, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(trace.up, wanted.up, rtol=1e-8)
    np.testing.assert_allclose(trace.down, wanted.down, rtol=1e-8)
    write_trace(trace, tmp_path / "again.csv", "csv recorded.log")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()


def test_a_lab_replays_an_imported_trace_in_the_simulator(tmp_path: Path) -> None:
    """An upload takes as long as the file's rates let it."""
    played = imported(file(tmp_path, "0 2\n5 20\n10 20\n"), tmp_path / "ue.csv")
    lab = tmp_path / "lab.yaml"
    lab.write_text(
        "name: imported\nseed: 7\nslot: 0.5 s\nmodel: torchvision:mobilenet_v2\n"
        f"profile: {PROFILE}\n"
        "codec: {input: uint8, boundary: uint8}\nedge: {cpus: 1.2, gpu: off}\nradio: {uplink: 8 MHz, downlink: 8 MHz}\n"
        "ues:\n- {name: ue, speed: 0.2, arrivals: {process: periodic, rate: 1 /s},\n"
        "   channel: {trace: ue.csv, kind: rate}}\npolicy: edge-only\n"
    )
    run = tmp_path / "run"
    simulate_lab(SimulationOrder(load(lab, []), str(lab), tmp_path, run, 20, "event"), lambda _text: None)
    kept = read_trace(run / "traces" / "ue.csv")
    np.testing.assert_allclose(kept.up, played.up)
    tasks = read_tables(run).tasks
    bits = 8 * column(tasks, "wire_bytes")
    rates = np.where(column(tasks, "received_seconds") < 5, 2e6, 20e6)
    one_rate = (column(tasks, "received_seconds") < 5) | (column(tasks, "transfer_start_seconds") > 5)
    assert one_rate.sum() >= 8
    np.testing.assert_allclose(column(tasks, "stage_uplink_seconds")[one_rate], (bits / rates)[one_rate], rtol=1e-3)

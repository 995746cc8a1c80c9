"""What the files of a lab hold: read by validate, and doubted where a unit is wrong by a thousand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from testbed.cli.validate import command as validate
from testbed.errors import InputError
from testbed.lab.simulate import channel_states, require_bounded
from testbed.labfile.arrival_files import doubts, mean_rate_per_second, read_arrivals
from testbed.labfile.channels import make_traces
from testbed.labfile.lab_files import check_files, check_policy
from testbed.labfile.load import load
from testbed.labfile.scenario import arrivals_of
from testbed.labfile.schema import Topology

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
PROFILE = f"profile={TOPOLOGIES / 'profiles' / 'mobilenet_v2.json'}"


def lab(tmp_path: Path, *overrides: str, **files: str) -> Topology:
    for name, text in files.items():
        (tmp_path / name.replace("_", ".")).write_text(text)
    file = tmp_path / "lab.yaml"
    file.write_text((TOPOLOGIES / "quickstart.yaml").read_text())
    return load(file, [PROFILE, *overrides])


def rates(up: float, down: float, rows: int = 4, step: float = 1.0) -> str:
    return "time_seconds,up,down\n" + "".join(f"{n * step:g},{up + n!r},{down + n!r}\n" for n in range(rows))


RATE = "ues.0.channel={trace: t.csv, kind: rate}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (rates(445, 21e3), ["100% up and 100% down", "mean 446 bit/s up", "peak 448 bit/s up", "in kbit/s", "by 1000"]),
        (rates(4.03, 12.1), ["mean 5.53 bit/s up", "in Mbit/s", "by 1000000"]),
        (rates(5e6, 15e3), ["0% up and 100% down", "in kbit/s"]),
        (rates(5e6, 5e6, rows=20, step=1000.0), ["steps are 1000 s long", "in ms"]),
        (rates(5e6, 5e6, rows=2000, step=0.001), ["1000 steps a second"]),
        (rates(5e11, 5e11), ["500 Gbit/s", "bit/s"]),
    ],
)
def test_a_rate_in_another_unit_is_doubted(tmp_path: Path, text: str, says: list[str]) -> None:
    (warning,) = check_files(lab(tmp_path, RATE, t_csv=text), "lab.yaml")
    assert "ues.0.channel.trace" in warning
    for words in says:
        assert words in warning


def test_a_plausible_rate_is_not(tmp_path: Path) -> None:
    assert check_files(lab(tmp_path, RATE, t_csv=rates(2e6, 5e6)), "lab.yaml") == []
    assert check_files(lab(tmp_path), "lab.yaml") == []


@pytest.mark.parametrize("text", ["500000\n", "500000\n1000000\n"])
def test_a_rate_in_a_mahimahi_file(tmp_path: Path, text: str) -> None:
    (warning,) = check_files(lab(tmp_path, "ues.0.channel={trace: t.up, kind: rate}", t_up=text), "lab.yaml")
    for words in ("mean 24", "peak 120 kbit/s", "times in ms, one per 1504 bytes"):
        assert words in warning


@pytest.mark.parametrize(
    ("text", "more"),
    [
        (rates(445, 5e6), "ues.0.link.outage=loss"),
        ("time_seconds,up,down\n0,0,0\n", "ues.0.link.outage=hold"),
        ("time_seconds,up,down\n0,1e6,0\n1,2e6,0\n", "ues.0.link.outage=hold"),
    ],
)
def test_where_nothing_can_ever_pass_it_is_refused(tmp_path: Path, text: str, more: str) -> None:
    if "1e6,0" in text:
        with pytest.raises(InputError, match=r"nothing can ever pass: .*0% up and 100% down"):
            check_files(lab(tmp_path, RATE, more, t_csv=text), "lab.yaml")
        return
    with pytest.raises(InputError, match=r"ues.0.channel.trace: nothing can ever pass: .*peak"):
        check_files(lab(tmp_path, RATE, more, t_csv=text), "lab.yaml")
    cleared = lab(tmp_path, RATE, more, "ues.0.channel.at_end=clear", t_csv=text)
    assert check_files(cleared, "lab.yaml")  # said, and allowed: the channel is clear afterwards


def test_gains_are_judged_by_the_rates_that_they_make(tmp_path: Path) -> None:
    gain = "ues.0.channel={trace: t.csv, kind: gain}"
    assert check_files(lab(tmp_path, gain, t_csv=rates(1e-11, 1e-11).replace("up", "up", 1)[:33]), "lab.yaml") == []
    low = "time_seconds,up,down\n0,1e-16,1e-16\n1,2e-16,2e-16\n"
    (warning,) = check_files(lab(tmp_path, gain, t_csv=low), "lab.yaml")
    assert "gains are linear" in warning
    with pytest.raises(InputError, match=r"t.csv, line 2: up is not a value; got '118'.*10\^\(-L/10\)"):
        check_files(lab(tmp_path, gain, t_csv=rates(118, 116)), "lab.yaml")


def test_a_ue_beyond_the_horizon_is_doubted(tmp_path: Path) -> None:
    (warning,) = check_files(lab(tmp_path, "ues.0.channel.distance=[100 m, 40 km]"), "lab.yaml")
    assert "ue3 at 40000 m" in warning


def test_a_short_loop_is_its_mean_with_a_note(tmp_path: Path) -> None:
    text = "time_seconds,up,down\n0,1e6,1e6\n0.001,3e6,1e6\n"
    topology = lab(tmp_path, RATE, t_csv=text)
    (warning,) = check_files(topology, "lab.yaml")
    assert "lasts 2 ms and loops: its mean is played" in warning
    trace = make_traces(topology, 10.0)["ue1"]
    assert (len(trace), trace.up[0]) == (1, 2e6)
    states = channel_states(topology, make_traces(topology, 10.0), 10.0)
    assert states.step_seconds >= 1.0
    np.testing.assert_allclose(states.up, 2e6)


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("delay_trace", "time_seconds,up,down\n0,20,40\n", ["40 s in the mean", "in ms"]),
        ("loss_trace", "time_seconds,up,down\n0,0.6,0.5\n", ["60% in the mean", "percent"]),
    ],
)
def test_traces_of_a_link_are_doubted_too(tmp_path: Path, key: str, text: str, says: list[str]) -> None:
    (warning,) = check_files(lab(tmp_path, f"ues.0.link.{key}=t.csv", t_csv=text), "lab.yaml")
    assert f"ues.0.link.{key}" in warning
    for words in says:
        assert words in warning


def test_losses_of_everything_are_refused(tmp_path: Path) -> None:
    topology = lab(tmp_path, "ues.0.link.loss_trace=t.csv", t_csv="time_seconds,up,down\n0,1,1\n")
    with pytest.raises(InputError, match="every packet is lost"):
        check_files(topology, "lab.yaml")


# ------------------------------------------------------------------------------------------------------------ arrivals

EPOCH = [1.7e9 + 0.4 * n for n in range(200)]


def times(tmp_path: Path, *values: float, scale: float = 1.0) -> Path:
    path = tmp_path / "times.txt"
    path.write_text("\ufeff# when\n" + "".join(f"{value * scale:.6f}\n" for value in values) + "\n", encoding="utf-8")
    return path


def test_times_since_1970_are_counted_from_the_first_one(tmp_path: Path) -> None:
    arrivals = read_arrivals(times(tmp_path, *EPOCH))
    np.testing.assert_allclose(arrivals.times_seconds, 0.4 * np.arange(200), atol=1e-5)
    (text,) = doubts(arrivals)
    for words in ("since 1970 (2023-11-14", "200 tasks", "mean 2.51 /s", "at most 3 in a second"):
        assert words in text
    (ue,) = lab(tmp_path, "ues.0.count=1", "ues.0.arrivals={process: file, file: times.txt}").expand()
    process, _ = arrivals_of(ue)
    assert process.mean_rate_per_second == pytest.approx(200 / 79.6)


@pytest.mark.parametrize(("scale", "unit"), [(1e3, "ms"), (1e6, "us"), (1e9, "ns")])
def test_finer_times_since_1970_are_refused_with_their_unit(tmp_path: Path, scale: float, unit: str) -> None:
    with pytest.raises(InputError, match=rf"times.txt: these are times in {unit} since 1970.*divide by {scale:.0f}"):
        read_arrivals(times(tmp_path, *EPOCH, scale=scale))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([0, 400, 800, 1200], "a task every 400 s in the mean; if the times are in ms, divide them by 1000"),
        ([7200, 7201, 7202], "the first task arrives after 7200 s"),
        ([n * 1e-6 for n in range(200)], "more than 1000 tasks a second"),
    ],
)
def test_odd_times_are_doubted(tmp_path: Path, values: list[float], says: str) -> None:
    assert any(says in text for text in doubts(read_arrivals(times(tmp_path, *values))))


@pytest.mark.parametrize(("values", "rate"), [([0.0], 1.0), ([30.0], 1 / 30), ([0.0, 1e-6], 2.0), ([0, 1, 2, 4], 1.0)])
def test_the_mean_rate_of_few_times_is_sane(tmp_path: Path, values: list[float], rate: float) -> None:
    assert mean_rate_per_second(read_arrivals(times(tmp_path, *values)).times_seconds) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1\nx\n", r"line 2: not an arrival time"),
        (b"-1\n", r"line 1: not an arrival time"),
        (b"inf\n", r"line 1: not an arrival time"),
        (b"1,5\n", r"line 1: not an arrival time"),
        (b"# nothing\n\n", r"holds no time"),
        (b"\xff\xfe1\x00", r"not a text file"),
        (b"0\n1700000000\n", r"span more than three years"),
        (b"1e300\n", r"since 1970"),
    ],
)
def test_a_bad_arrivals_file_is_bad_input(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "times.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_arrivals(tmp_path / "times.txt")


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = times(tmp_path, 1.0)
    assert read_arrivals(path).times_seconds == (1.0,)
    path.write_text("2\n")
    os.utime(path, ns=(1, 1))
    assert read_arrivals(path).times_seconds == (2.0,)


# ------------------------------------------------------------------------------------------------------------ validate


def run_validate(*arguments: str) -> BaseException | None:
    return CliRunner().invoke(validate, list(arguments)).exception


@pytest.mark.parametrize(
    ("override", "content", "says"),
    [
        ("ues.0.arrivals={process: file, file: bad}", b"x", "not an arrival time"),
        ("ues.0.channel={trace: bad, kind: rate}", b"\x00\x01", "not a text file"),
        ("ues.0.link.delay_trace=bad", b"0 0 0", "not the column line"),
        ("ues.0.link.loss_trace=bad", b"time_seconds,up,down\n0,50,50\n", "percent"),
        ("profile=bad", b"{}", "profile"),
        ("profile=bad", b"\xff", "profile"),
        ("device=bad", b"[]", "profile"),
        ("policy={name: lymdo, V: 0.3, checkpoint: bad}", b"PK", "checkpoint"),
        ("policy={name: fixed, cut: nowhere}", b"", "nowhere"),
    ],
)
def test_validate_refuses_what_run_would(tmp_path: Path, override: str, content: bytes, says: str) -> None:
    lab(tmp_path)
    (tmp_path / "bad").write_bytes(content)
    given = ["--set", PROFILE] if not override.startswith("profile") else []
    error = run_validate(str(tmp_path / "lab.yaml"), *given, "--set", override)
    assert isinstance(error, InputError), error
    assert says in str(error)
    assert "\n" not in str(error)


def test_a_profile_of_another_model_is_refused_by_validate(tmp_path: Path) -> None:
    topology = lab(tmp_path, "model=torchvision:resnet18")
    with pytest.raises(InputError, match="of another model"):
        check_files(topology, "lab.yaml")


def test_a_file_that_cannot_be_reached_is_bad_input(tmp_path: Path) -> None:
    for name in ("a" * 5000, "x\0y"):
        with pytest.raises(InputError, match="key 'profile'"):
            load(TOPOLOGIES / "quickstart.yaml", [f'profile="{name}"'.replace("\0", "\\0")])


def test_the_policy_begins_where_the_profiles_are_known(tmp_path: Path) -> None:
    check_policy(lab(tmp_path), "lab.yaml")
    with pytest.raises(InputError, match=r"key 'policy': fixed does not fit this lab"):
        check_policy(lab(tmp_path, "policy={name: fixed, cut: nowhere}"), "lab.yaml")


@pytest.mark.parametrize(
    ("slots", "overrides", "says"),
    [(10**12, [], "slots x UEs"), (10**6, ["ues.0.arrivals.rate=1e5 /s"], "tasks")],
)
def test_a_simulation_that_memory_would_not_hold(tmp_path: Path, slots: int, overrides: list[str], says: str) -> None:
    with pytest.raises(InputError, match=f"too many {says}"):
        require_bounded(lab(tmp_path, *overrides), slots)


def test_channels_that_memory_would_not_hold(tmp_path: Path) -> None:
    for overrides, seconds in (([], 1e7), (["ues.0.channel.step=1 us"], 60.0), (["ues.0.count=500"], 1e4)):
        with pytest.raises(InputError, match=r"channel.step"):
            make_traces(lab(tmp_path, *overrides), seconds)


def test_names_that_make_the_path_of_a_socket_too_long_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from testbed.lab import prepare

    topology = lab(tmp_path, "name=a-lab", f"ues.0.name={'u' * 28}")
    monkeypatch.setattr(prepare, "state_root", lambda: Path("/run/user/1000/testbed"))
    prepare._check_socket_paths(topology, "lab.yaml")
    monkeypatch.setattr(prepare, "state_root", lambda: Path("/run/user/1000", "x" * 50, "testbed"))
    with pytest.raises(InputError, match=r"lab\.yaml: .*too long for a socket.*u1.*allowed: 107 bytes.*shorter name"):
        prepare._check_socket_paths(topology, "lab.yaml")

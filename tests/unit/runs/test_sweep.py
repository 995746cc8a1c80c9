"""Sweeps: values from the command line, a point per value, a figure."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from simulated_lab import LAB

from testbed.cli.sweep import command
from testbed.errors import InputError
from testbed.lab.sweep import Point, draw_points, split_values

PNG = b"\x89PNG"


def test_values_are_split_outside_of_brackets() -> None:
    assert split_values("0.1, 0.3,1") == ["0.1", "0.3", "1"]
    assert split_values("[1 /s, 2 /s],[2 /s, 4 /s]") == ["[1 /s, 2 /s]", "[2 /s, 4 /s]"]


@pytest.mark.parametrize(("text", "says"), [("1,,2", "empty"), ("", "empty"), ("1,2,1", "twice")])
def test_values_that_are_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        split_values(text)


@pytest.mark.thorough
def test_sweep_in_the_simulator(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    arguments = [
        "--policy",
        "device-only",
        "--key",
        "ues.0.speed",
        "--values",
        "0.4,0.5",
        "--simulate",
        "--slots",
        "10",
    ]
    result = CliRunner().invoke(command, [str(LAB), *arguments, "--out", str(out), "--json"], catch_exceptions=False)
    slow, fast = msgspec.json.decode(result.stdout, type=list[Point])
    assert (slow.value, fast.value) == ("0.4", "0.5")
    assert slow.mean_seconds is not None
    assert fast.mean_seconds is not None
    assert slow.mean_seconds > fast.mean_seconds
    assert slow.worst_energy_ratio is not None
    assert slow.worst_energy_ratio > 1
    with (out / "sweep.csv").open(encoding="utf-8") as file:
        assert [row["value"] for row in csv.DictReader(file)] == ["0.4", "0.5"]
    assert (out / "sweep.png").read_bytes().startswith(PNG)
    again = CliRunner().invoke(command, [str(LAB), *arguments, "--out", str(out)])
    assert isinstance(again.exception, InputError)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--slots", "5"], "--slots is for simulations"),
        (["--simulate", "--duration", "5s"], "--duration is for runs"),
        (["--simulate", "--set", "policy.nothing=1"], "nothing"),
    ],
)
def test_orders_that_are_refused(arguments: list[str], says: str, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    result = CliRunner().invoke(
        command, [str(LAB), "--key", "slot", "--values", "1s,2s", "--out", str(out), *arguments]
    )
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception)
    assert not out.exists()


@pytest.mark.parametrize("values", [["0.1", "1"], ["1 /s", "2 /s"], ["lymdo", "edge-only"], ["0.1", "many"]])
def test_figure_of_any_kind_of_value(values: list[str], tmp_path: Path) -> None:
    points = [Point(value, "run", value != "1", 10, 0, 0.1, 0.01, 0.2, None, None) for value in values]
    draw_points(points, "key", tmp_path / "figure.png", "title")
    assert (tmp_path / "figure.png").read_bytes().startswith(PNG)

"""``testbed trace``: files and pictures from flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from testbed.cli.trace import command
from testbed.errors import InputError
from testbed.traces import read_trace


def call(*arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_generate_show_and_plot(tmp_path: Path) -> None:
    csv, png = tmp_path / "made" / "t.csv", tmp_path / "t.png"
    options = ["--fading", "rician", "--sigma", "6 dB", "--duration", "20 s", "--seed", "3", "--out", str(csv)]
    made = json.loads(call("generate", *options, "--json"))
    assert (made["steps"], made["duration_seconds"], made["kind"]) == (200, 20.0, "gain")
    first = csv.read_bytes()
    call("generate", *options)
    assert csv.read_bytes() == first
    shown = call("show", str(csv), "--png", str(png), "--width", "40")
    assert "up, dB" in shown
    assert "█" in shown
    assert max(len(line) for line in shown.splitlines() if "█" in line) <= 51
    assert png.read_bytes().startswith(b"\x89PNG")
    assert json.loads(call("show", str(csv), "--json"))["up"]["mean"] == pytest.approx(read_trace(csv).mean().up)


def test_import(tmp_path: Path) -> None:
    source, csv = tmp_path / "lte.up", tmp_path / "lte.csv"
    source.write_text("10\n20\n30\n500\n")
    made = json.loads(call("import", str(source), "--bin", "50 ms", "--out", str(csv), "--json"))
    assert made["up"]["mean"] == pytest.approx(4 * 1504 * 8 / 0.5)
    assert read_trace(csv, "rate").mean().up == pytest.approx(4 * 1504 * 8 / 0.5, rel=1e-8)
    assert "Mbit/s" in call("show", str(source))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--doppler", "3"], "--doppler: '3' has no unit"),
        (["--distance", "0 m"], "distance > 0"),
        (["--duration", "0 s"], "duration and step"),
        (["--sigma", "3 dB", "--rho", "2"], "rho <= 1"),
    ],
)
def test_bad_input(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call("generate", *options, "--out", str(tmp_path / "t.csv"))
    assert not (tmp_path / "t.csv").exists()

"""A run that loses a program which it needs ends with an error; one whose records are not whole is invalid."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from testbed.runtime.processes.discovery import list_owned
from tests.emulation.conftest import LABS, Bench
from tests.emulation.hostile import write_lab

pytestmark = pytest.mark.root


def started(
    bench: Bench, name: str, seconds: int, lab: Path = LABS / "tiny.yaml"
) -> tuple[subprocess.Popen[str], Path]:
    """A run under way, with tasks on disk."""
    out = bench.folder / "run"
    process = bench.start(
        "run", str(lab), "--name", name, "--runtime", "netns", "--duration", f"{seconds} s", "--out", str(out)
    )
    stream = out / "streams" / "tasks.arrows"
    deadline = time.monotonic() + 30.0
    while not (stream.exists() and stream.stat().st_size > 6000):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process, out


@pytest.mark.parametrize("victim", ["recorder", "oscar"])
def test_what_ends_ends_the_run(bench: Bench, tmp_path: Path, victim: str) -> None:
    """The recorder by a signal; a UE because its model takes more memory than it may have."""
    name = bench.name()
    if victim == "oscar":
        process, out = started(bench, name, 60, write_lab(tmp_path / "greedy", "greedy.yaml"))
    else:
        process, out = started(bench, name, 60)
        os.kill(bench.processes(name)[victim], signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1, error
    assert f"{victim} ended before the run" in error
    assert ("used up its node's memory" in error) == (victim == "oscar")
    assert f"testbed report {out}" in error
    assert "Traceback" not in error
    assert not list_owned(name)
    assert set(json.loads((out / "manifest.json").read_text())["ended_programs"]) == {victim}
    summary = json.loads((out / "summary.json").read_text())
    assert not summary["valid"]
    assert any(reason.startswith("processes_died") and victim in reason for reason in summary["invalid_reasons"])
    assert summary["tasks"]["completed"] > 0


def test_a_recorder_that_is_stopped_for_good(bench: Bench) -> None:
    """It lives, and records nothing: no one dies, and the run comes to its end."""
    name = bench.name()
    process, out = started(bench, name, 9)
    os.kill(bench.processes(name)["recorder"], signal.SIGSTOP)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 4, error
    reasons = json.loads((out / "summary.json").read_text())["invalid_reasons"]
    assert any(reason.startswith(("unrecorded_seconds", "records_end_early_seconds")) for reason in reasons), reasons
    assert not list_owned(name)

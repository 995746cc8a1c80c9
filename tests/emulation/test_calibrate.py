"""Calibration as the host allows it: at real-time priority, leaving only its file; and what a run does with it."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from testbed.cli import doctor
from testbed.inference.calibration import calibration_of, calibration_path, read_calibration, write_calibration
from testbed.inference.profiles import read_profile
from testbed.lab.calibrate import calibrate, describe
from testbed.runtime.host.cgroups import detect
from testbed.runtime.host.cpusets import RESERVE_FROM_CORES
from testbed.runtime.host.facts import facts
from testbed.runtime.processes.discovery import list_owned
from tests.emulation.conftest import LABS, Bench

pytestmark = pytest.mark.root


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def _quick(*models: str) -> None:
    steps: list[float] = []
    found, path = calibrate(
        models, lambda text, ratio: steps.append(ratio), [LABS], kernel_repetitions=10, model_repetitions=5
    )
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    assert read_calibration(path) == found


def test_it_runs_as_stages_do_and_leaves_only_its_file(state: Path) -> None:
    _quick("tiny_model:make")
    _quick()
    found, reason = calibration_of(facts().cpu)
    assert found is not None, reason
    assert found.realtime == facts().realtime
    assert found.kernel.n == 10
    assert found.models["tiny_model:make"].n == 5, "what was timed before stays"
    assert "SCHED_FIFO" in describe(found) or not facts().realtime
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert [path.name for path in state.rglob("*") if path.is_file()] == [calibration_path().name]
    if not detect().labs():
        assert not any(tree.exists() for tree in detect().trees())


def test_doctor_measures_the_models_of_labs_and_then_knows_them(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def findings() -> dict[str, dict[str, object]]:
        answer = CliRunner().invoke(doctor.command, ["--json"], catch_exceptions=False)
        return {finding["name"]: finding for finding in json.loads(answer.stdout)}

    assert not findings()["calibration"]["ok"]
    quick = functools.partial(calibrate, kernel_repetitions=10, model_repetitions=5)
    monkeypatch.setattr(doctor, "calibrate", quick)
    answer = CliRunner().invoke(
        doctor.command, [str(LABS / "tiny.yaml"), "--calibrate", "--json"], catch_exceptions=False
    )
    assert json.loads(answer.stdout)["models"]["tiny_model:make"]["n"] == 5
    table = CliRunner().invoke(doctor.command, ["--calibrate"], catch_exceptions=False).output
    assert "kernel of 139 M multiply-accumulates" in table
    assert "tiny_model:make: p50" in table
    after = findings()
    assert after["calibration"]["ok"]
    assert after["cpusets"]["ok"] == (facts().cpusets and facts().cores >= RESERVE_FROM_CORES)
    assert CliRunner().invoke(doctor.command, [str(LABS / "tiny.yaml")]).exit_code == 2


def test_a_run_that_the_host_is_too_slow_for_ends_with_exit_3_before_anything_is_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(bench.folder / "state"))
    _quick()
    found, _ = calibration_of(facts().cpu)
    assert found is not None
    profile = read_profile(LABS / "tiny_profile.json")
    # so slow that the head, which is only judged from 5 ms on, does not fit its target
    slow = max(0.1, 100 * profile.head_seconds[-1])
    models = {profile.model: msgspec.structs.replace(found.kernel, p50_seconds=slow, p99_seconds=slow)}
    write_calibration(msgspec.structs.replace(found, models=models), calibration_path())
    name, out = bench.name(), bench.folder / "run"
    arguments = (str(LABS / "tiny.yaml"), "--name", name, "--runtime", "netns", "--set", "ues.0.speed=0.1")
    for verb in (("run", "--out", str(out)), ("verify",)):
        answer = bench.call(verb[0], *arguments, *verb[1:], code=3)
        error = answer.stderr.strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert "'ue1': head at cut" in error
        assert "testbed doctor --calibrate" in error
        assert not list_owned(name)
    assert not out.exists()

"""Campaigns computed: once per point, whatever is killed in between; failures end nothing; figures of what is there."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from campaigns import LAB, ROOT, SMALL, written
from testbed.campaign.campaign import conclude_campaign
from testbed.campaign.executor import Here
from testbed.campaign.jobs import Job, LabRun, Outcome, Status
from testbed.campaign.load import load_campaign
from testbed.campaign.prepare import prepare
from testbed.campaign.run import compute, standings
from testbed.campaign.store import Store
from testbed.cli.campaign import command
from testbed.cli.sweep import command as sweep
from testbed.errors import TestbedError

#: One that ends its process, and one that raises.
POLICIES = """
import os

from controller.policies.static import EdgeOnly


class Deadly(EdgeOnly):
    def decide(self, observation):
        os._exit(7)


class Faulty(EdgeOnly):
    def reset(self, scenario, seed):
        raise RuntimeError("no idea")
"""


def done(folder: Path) -> Counter[str]:
    lines = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    return Counter(line["key"] for line in map(json.loads, lines) if line["status"] == "done")


def drawn(folder: Path) -> dict[str, bytes]:
    paths = [*(folder / "figures").iterdir(), *(folder / "tables").iterdir(), folder / "points.csv"]
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.thorough
def test_killed_in_the_middle_it_goes_on(tmp_path: Path) -> None:
    text = SMALL.replace("slots: 5", "slots: 30").replace("1..2", "1..3")
    path, whole, cut = written(tmp_path, text), tmp_path / "whole", tmp_path / "cut"
    CliRunner().invoke(command, ["run", str(path), "--out", str(whole)], catch_exceptions=False)
    arguments = [sys.executable, "-m", "testbed", "campaign", "run", str(path), "--out", str(cut)]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while len(list(cut.glob("points/*/point.json"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    first = len(list(cut.glob("points/*/point.json")))
    assert 3 <= first < 12
    CliRunner().invoke(command, ["run", str(path), "--out", str(cut)], catch_exceptions=False)
    assert len(done(cut)) == 12
    assert set(done(cut).values()) == {1}
    assert drawn(cut) == drawn(whole)
    CliRunner().invoke(command, ["run", str(path), "--out", str(cut)], catch_exceptions=False)
    assert set(done(cut).values()) == {1}


@pytest.mark.thorough
def test_a_change_computes_what_it_changes_and_failures_end_nothing(tmp_path: Path) -> None:
    (tmp_path / "rough.py").write_text(POLICIES)
    for name in ("profiles", "checkpoints"):
        shutil.copytree(LAB.parent / name, tmp_path / name)
    shutil.copy(LAB, tmp_path / "lab.yaml")
    text = SMALL.replace(str(LAB), "lab.yaml").replace("device-only]", "rough:Deadly, rough:Faulty]")
    out = tmp_path / "out"
    arguments = ["run", str(written(tmp_path, text)), "--out", str(out)]
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, TestbedError)
    assert "8 of 12 points failed" in str(result.exception)
    assert len(done(out)) == 4
    status = CliRunner().invoke(command, ["status", *arguments[1:]], catch_exceptions=False).stdout
    assert "its process ended: exit code 7" in status
    assert "no idea" in status
    assert "12 points: 4 done, 8 failed" in status

    more = text.replace("edge-only, rough:Deadly, rough:Faulty", "edge-only").replace("16 MHz]", "16 MHz, 32 MHz]")
    CliRunner().invoke(command, ["run", str(written(tmp_path, more)), "--out", str(out)], catch_exceptions=False)
    assert len(done(out)) == 6
    assert set(done(out).values()) == {1}
    with (out / "points.csv").open(encoding="utf-8") as file:
        assert [row["radio.uplink"] for row in csv.DictReader(file)] == ["8 MHz"] * 2 + ["16 MHz"] * 2 + ["32 MHz"] * 2


class Told:
    """An executor of lab runs that come out as they are told, with the records of a simulation made before."""

    def __init__(self, simulated: Path, outcomes: list[Status]) -> None:
        self._simulated, self._outcomes = simulated, outcomes
        self._jobs: list[Job] = []

    def expect(self, jobs: int) -> None:
        pass

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def results(self):  # type: ignore[no-untyped-def]
        while self._jobs:
            job = self._jobs.pop(0)
            shutil.copytree(self._simulated, job.directory, dirs_exist_ok=True)
            (Path(job.directory) / "point.json").unlink(missing_ok=True)
            status = self._outcomes.pop(0)
            yield Outcome(job.key, status, 1.0, "host", "" if status == "done" else "a limit was broken")

    def running(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        assert not self._jobs


@pytest.mark.thorough
def test_invalid_runs_are_tried_again_then_kept_and_left_out(tmp_path: Path) -> None:
    text = SMALL.replace("[edge-only, device-only]", "[edge-only]").replace("[8 MHz, 16 MHz]", "[8 MHz]")
    simulated = Store(tmp_path / "simulated")
    campaign = load_campaign(written(tmp_path, text))
    (first, _) = tasks = prepare(campaign, simulated, print, measure=False)
    compute(tasks, simulated, Here(print, 1), 2, lambda _progress: None)

    campaign = load_campaign(written(tmp_path, text + "where: lab\nretries: 1\n"))
    store = Store(tmp_path / "lab")
    tasks = prepare(campaign, store, print, measure=False)
    assert all(isinstance(task.job, LabRun) for task in tasks)
    outcomes: list[Status] = ["invalid", "invalid", "invalid", "done"]
    compute(tasks, store, Told(simulated.directory(first.key), outcomes), campaign.spec.retries, lambda _progress: None)
    assert outcomes == []
    # both are tried once more; one of them came out well then
    assert sorted(one.state for one in standings(tasks, store)) == ["done", "invalid"]
    assert [store.record(store.directory(task.key)).attempts for task in tasks] == [2, 2]  # type: ignore[union-attr]
    (cell,) = conclude_campaign(campaign, tasks, store).cells
    assert len(cell.results) == 1
    assert cell.marks == ["1 invalid, left out"]
    compute(tasks, store, Told(tmp_path, []), 1, lambda _progress: None)  # kept: not computed again


def test_one_command_at_a_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.held(), pytest.raises(TestbedError, match="another command"):
        compute([], Store(tmp_path), Here(print), 0, lambda _progress: None)


@pytest.mark.thorough
def test_a_sweep_is_a_campaign_of_one_key(tmp_path: Path) -> None:
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
    result = CliRunner().invoke(sweep, [str(LAB), *arguments, "--out", str(out), "--json"], catch_exceptions=False)
    slow, fast = json.loads(result.stdout)["means"]
    assert (slow["settings"]["ues.0.speed"], fast["settings"]["ues.0.speed"]) == ("0.4", "0.5")
    assert slow["mean_delay_seconds"]["mean"] > fast["mean_delay_seconds"]["mean"]
    assert slow["worst_energy_ratio"]["mean"] > 1
    assert (out / "figures" / "mean_delay_seconds-over-ues_0_speed.pdf").read_bytes().startswith(b"%PDF")


#: Starts a worker, says its pid, waits.
CAMPAIGN = """
import sys
from testbed.campaign.executor import Worker
print(Worker().pid, flush=True)
sys.stdin.read()
"""


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.thorough
def test_a_worker_ends_with_its_campaign() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", CAMPAIGN], cwd=ROOT, stdin=pipe, stdout=pipe) as campaign:
        assert campaign.stdout is not None
        pid = int(campaign.stdout.readline())
        assert lives(pid)
        campaign.kill()
        campaign.wait()
    deadline = time.monotonic() + 60
    while lives(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not lives(pid)

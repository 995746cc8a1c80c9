"""A lab from the command line: what comes up goes away, whatever is killed in between; what was recorded stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from testbed.runtime.processes.discovery import list_owned
from tests.emulation.conftest import LABS, Bench

pytestmark = pytest.mark.root


def _tasks(run_directory: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(Path(run_directory) / "tasks.parquet").to_pylist()
    return rows


def _wait_for_tasks(run_directory: str, seconds: float = 10.0) -> None:
    """Until the recorder has flushed something."""
    streams = Path(run_directory) / "streams"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stream = streams / "tasks.arrows"
        if stream.exists() and stream.stat().st_size > 6000:
            return
        time.sleep(0.1)
    raise AssertionError(f"no task was recorded in {seconds} s")


def test_a_run_counts_every_task_once_and_another_of_its_seed_has_the_same_tasks(bench: Bench) -> None:
    name = bench.name()
    first = bench.run(name, "--duration", "4 s", code=None)
    tasks = first["tasks"]
    assert tasks["completed"] > 20
    assert tasks["arrived"] == tasks["completed"] + tasks["failed"] + tasks["in_flight"]
    assert sum(first["stages_seconds"].values()) == pytest.approx(first["e2e_delay_seconds"]["mean"], abs=1e-6)
    rows = _tasks(first["run_dir"])
    assert len({(row["ue"], row["task"]) for row in rows}) == len(rows)
    assert not list_owned(name), "a run leaves nothing behind"
    for part in ("manifest.json", "summary.json", "fidelity.json", "report.html", "slots.parquet", "links.parquet"):
        assert (Path(first["run_dir"]) / part).is_file(), part
    assert (Path(first["run_dir"]) / "logs" / "ue1.log").parent.is_dir()

    manifest = json.loads((Path(first["run_dir"]) / "manifest.json").read_text())
    kinds = pq.read_table(Path(first["run_dir"]) / "events.parquet")["kind"].to_pylist()
    # the player gets its priority from outside, and says so only where it has none
    assert ("scheduling" in kinds) == (not manifest["runtime_features"]["realtime"])

    second = bench.run(bench.name(), "--duration", "4 s", code=None)
    other = bench.run(bench.name(), "--duration", "4 s", "--seed", "4", code=None)

    def traces(summary: dict[str, str]) -> list[bytes]:
        return [path.read_bytes() for path in sorted((Path(summary["run_dir"]) / "traces").glob("*.csv"))]

    def arrivals(summary: dict[str, str]) -> dict[tuple[object, object], float]:
        rows = _tasks(summary["run_dir"])
        origin = min(float(str(row["arrival_seconds"])) for row in rows)
        return {(row["ue"], row["task"]): round(float(str(row["arrival_seconds"])) - origin, 6) for row in rows}

    assert traces(first) == traces(second) != traces(other)
    assert arrivals(first) == arrivals(second) != arrivals(other)


def test_up_is_idempotent_repairs_and_refuses_what_differs(bench: Bench) -> None:
    name = bench.name()
    assert bench.up(name)["did"] == "up"
    assert bench.up(name)["did"] == "already up"
    bench.call("up", str(LABS / "tiny.yaml"), "--name", name, "--runtime", "netns", "--set", "slot=1 s", code=2)
    victim = bench.processes(name)["ue2"]
    os.kill(victim, signal.SIGKILL)
    time.sleep(0.5)
    assert bench.up(name)["did"] == "repaired: ue2"
    assert bench.processes(name)["ue2"] != victim
    bench.call("down", name)
    bench.call("down", name)
    assert not list_owned(name)


def test_two_labs_side_by_side_do_not_meet_and_others_are_untouched(bench: Bench) -> None:
    foreign = f"foreign-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", foreign], check=True)
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        first = bench.name()
        second = f"{first}-b"
        bench.names.append(second)
        bench.up(first)
        bench.up(second)
        bench.call("down", first)
        assert not list_owned(first)
        assert {"ue1", "ue2", "edge", "controller", "player", "recorder"} <= set(bench.processes(second))
        assert (Path("/run/netns") / foreign).exists()
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()
        subprocess.run(["ip", "netns", "del", foreign], check=True)


@pytest.mark.parametrize("victims", [("ue1", "player"), ("edge", "controller")])  # with one that answers, without
def test_kill_minus_nine_leaves_a_readable_run_and_a_removable_lab(bench: Bench, victims: tuple[str, ...]) -> None:
    name = bench.name()
    run_directory = bench.up(name)["run_dir"]
    _wait_for_tasks(run_directory)
    running = bench.processes(name)
    for victim in victims:
        os.kill(running[victim], signal.SIGKILL)
    time.sleep(0.5)
    bench.call("down", name)
    assert not list_owned(name)
    bench.call("report", run_directory, code=None)
    summary = json.loads((Path(run_directory) / "summary.json").read_text())
    tasks = summary["tasks"]
    assert tasks["completed"] > 0
    assert tasks["arrived"] == tasks["completed"] + tasks["failed"] + tasks["in_flight"]


def test_killed_command_line_leaves_a_readable_run_and_a_removable_lab(bench: Bench) -> None:
    name = bench.name()
    out = bench.folder / "run"
    lab = str(LABS / "tiny.yaml")
    options = ("--name", name, "--runtime", "netns", "--duration", "60 s", "--out", str(out))
    process = bench.start("run", lab, *options, afresh=True)
    _wait_for_tasks(str(out), seconds=30.0)
    process.kill()
    process.communicate()
    bench.call("down", name)
    assert not list_owned(name)
    bench.call("report", str(out), code=None)
    assert json.loads((out / "summary.json").read_text())["tasks"]["completed"] > 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_tears_down_and_concludes(bench: Bench, number: signal.Signals, code: int) -> None:
    name = bench.name()
    out = bench.folder / "run"
    lab = str(LABS / "tiny.yaml")
    options = ("--name", name, "--runtime", "netns", "--duration", "60 s", "--out", str(out))
    process = bench.start("run", lab, *options, afresh=True)
    _wait_for_tasks(str(out), seconds=30.0)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert not list_owned(name)
    assert (out / "summary.json").is_file()

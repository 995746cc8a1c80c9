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

from testbed.runtime.discovery import list_owned
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


def test_run_counts_every_task_once_and_stages_sum(bench: Bench) -> None:
    name = bench.name()
    summary = bench.run(name, "--duration", "6 s", code=None)
    tasks = summary["tasks"]
    assert tasks["completed"] > 30
    assert tasks["arrived"] == tasks["completed"] + tasks["failed"] + tasks["in_flight"]
    assert sum(summary["stages_seconds"].values()) == pytest.approx(summary["e2e_delay_seconds"]["mean"], abs=1e-6)
    rows = _tasks(summary["run_dir"])
    assert len({(row["ue"], row["task"]) for row in rows}) == len(rows)
    assert not list_owned(name), "a run leaves nothing behind"
    for part in ("manifest.json", "summary.json", "fidelity.json", "report.html", "slots.parquet", "links.parquet"):
        assert (Path(summary["run_dir"]) / part).is_file(), part
    assert (Path(summary["run_dir"]) / "logs" / "ue1.log").parent.is_dir()


def test_same_seed_gives_the_same_arrivals_traces_and_inputs(bench: Bench) -> None:
    first = bench.run(bench.name(), "--duration", "3 s", code=None)
    second = bench.run(bench.name(), "--duration", "3 s", code=None)
    other = bench.run(bench.name(), "--duration", "3 s", "--seed", "4", code=None)

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


def test_two_labs_side_by_side_do_not_meet(bench: Bench) -> None:
    first = bench.name()
    second = f"{first}-b"
    bench.names.append(second)
    bench.up(first)
    bench.up(second)
    bench.call("down", first)
    assert not list_owned(first)
    assert {"ue1", "ue2", "edge", "controller", "player", "recorder"} <= set(bench.processes(second))


def test_others_are_untouched(bench: Bench) -> None:
    foreign = f"foreign-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", foreign], check=True)
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        name = bench.name()
        bench.up(name)
        bench.call("down", name)
        assert (Path("/run/netns") / foreign).exists()
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()
        subprocess.run(["ip", "netns", "del", foreign], check=True)


@pytest.mark.parametrize("victim", ["controller", "ue1", "edge", "player"])
def test_kill_minus_nine_leaves_a_readable_run_and_a_removable_lab(bench: Bench, victim: str) -> None:
    name = bench.name()
    run_directory = bench.up(name)["run_dir"]
    _wait_for_tasks(run_directory)
    os.kill(bench.processes(name)[victim], signal.SIGKILL)
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


def test_link_and_policy_change_on_a_running_lab(bench: Bench) -> None:
    name = bench.name()
    bench.up(name)
    bench.call("link", "set", "--lab", name, "ue1", "--rate", "2 Mbit/s")
    time.sleep(0.5)
    states = json.loads(bench.call("link", "show", "--lab", name, "--json").stdout)
    assert {state["rate_bits_per_second"] for state in states if state["ue"] == "ue1"} == {2e6}
    bench.call("link", "reset", "--lab", name, "ue1")
    time.sleep(0.5)
    states = json.loads(bench.call("link", "show", "--lab", name, "--json").stdout)
    assert 2e6 not in {state["rate_bits_per_second"] for state in states if state["ue"] == "ue1"}
    bench.call("link", "set", "--lab", name, "nobody", "--rate", "2 Mbit/s", code=2)
    bench.call("policy", "set", "--lab", name, "device-only")
    assert json.loads(bench.call("ps", name, "--json").stdout)[0]["policy"] == "device-only"
    bench.call("policy", "set", "--lab", name, "nonsense", code=2)
    inside = bench.call("exec", "--lab", name, "ue1", "--", "ip", "-br", "address").stdout
    assert "eth1" in inside
    assert "10.77.0.0/31" in inside

"""Whole labs in containers, from the command line: whatever is killed, records stay, and everything of ours goes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import docker
import pyarrow.compute as pc
import pytest

from testbed.lab.state import existing
from testbed.records.streams import read_stream, streams_directory
from testbed.runtime.docker.docker_nodes import LABEL_OWNER, container_name
from testbed.runtime.docker.presence import list_containers
from testbed.runtime.processes.discovery import list_owned
from tests.emulation.conftest import LABS, Bench

from .conftest import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.root]

TINY = str(LABS / "tiny.yaml")
RESTART_SECONDS = 60.0


def left(name: str) -> list[object]:
    return [*list_owned(name), *list_containers(name)]


def await_tasks(run_directory: Path, process: subprocess.Popen[str] | None = None, seconds: float = 150.0) -> None:
    """Until the recorder has flushed some finished tasks."""
    stream = run_directory / "streams" / "tasks.arrows"
    deadline = time.monotonic() + seconds
    while not stream.exists() or stream.stat().st_size < 6000:
        assert time.monotonic() < deadline, "no task was recorded"
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate()[1])
        time.sleep(0.1)


def start_run(bench: Bench, name: str, seconds: int) -> tuple[subprocess.Popen[str], Path]:
    out = bench.folder / name
    arguments = ("--name", name, "--runtime", "docker", "--duration", f"{seconds} s", "--out", str(out))
    process = bench.start("run", TINY, *arguments)
    await_tasks(out, process)
    return process, out


def summary_of(bench: Bench, run_directory: Path) -> dict[str, Any]:
    if not (run_directory / "summary.json").exists():
        bench.call("report", str(run_directory), code=None)
    summary: dict[str, Any] = json.loads((run_directory / "summary.json").read_text())
    return summary


def check_books(summary: dict[str, Any]) -> None:
    """Every task is counted once, and finished ones are there."""
    tasks = summary["tasks"]
    assert tasks["completed"] > 10
    assert tasks["arrived"] == tasks["completed"] + tasks["failed"] + tasks["in_flight"]


def check_the_next_one_is_clean(bench: Bench, name: str) -> None:
    """What is left of a lab that was hurt hinders no lab of that name."""
    assert bench.up(name)["did"] == "up"
    bench.call("down", name)
    assert not left(name)


def check_steering(bench: Bench, name: str) -> None:
    """Links, policy, logs and commands inside of a lab that is up; it is afterwards as before."""
    bench.call("link", "set", "--lab", name, "ue1", "--rate", "2 Mbit/s")
    time.sleep(0.5)
    states = json.loads(bench.call("link", "show", "--lab", name, "ue1", "--json").stdout)
    assert {(state["ue"], state["rate_bits_per_second"]) for state in states} == {("ue1", 2e6)}
    bench.call("link", "reset", "--lab", name, "ue1")
    for policy in ("device-only", "neurosurgeon"):
        bench.call("policy", "set", "--lab", name, policy)
        assert json.loads(bench.call("ps", name, "--json").stdout)[0]["policy"] == policy
    assert "ue1" in bench.call("exec", "--lab", name, "ue1", "--", "hostname").stdout
    assert "10.77.0.0/31" in bench.call("exec", "--lab", name, "ue1", "--", "ip", "addr").stdout  # README's own line
    bench.call("logs", "--lab", name, "edge")


def killed(process: subprocess.Popen[str], name: str, node: str, client: docker.DockerClient) -> str:
    """What the command line said after a node's container was killed while it ran."""
    client.containers.get(container_name(name, node)).kill("SIGKILL")
    return process.communicate(timeout=90)[1]


@pytest.mark.parametrize("node", ["ue2", "edge", "controller"])
def test_a_killed_program_ends_the_run_and_leaves_all_records_and_nothing_else(
    docker_bench: Bench, client: docker.DockerClient, node: str
) -> None:
    name = docker_bench.name()
    process, out = start_run(docker_bench, name, 10)
    error = killed(process, name, node, client)
    assert process.returncode == 1, error
    assert f"{node} ended before the run" in error
    assert f"testbed report {out}" in error
    assert not left(name)
    summary = summary_of(docker_bench, out)
    check_books(summary)
    assert not summary["valid"]
    assert any(reason.startswith("processes_died") and node in reason for reason in summary["invalid_reasons"])
    assert "died" in (out / "report.html").read_text()


def test_a_killed_command_line_leaves_what_down_removes(docker_bench: Bench) -> None:
    name = docker_bench.name()
    process, out = start_run(docker_bench, name, 120)
    process.kill()
    process.communicate()
    assert left(name)
    docker_bench.call("down", name)
    assert not left(name)
    check_books(summary_of(docker_bench, out))
    check_the_next_one_is_clean(docker_bench, name)


def test_containers_go_by_their_labels_when_all_else_is_lost(docker_bench: Bench) -> None:
    name = docker_bench.name()
    docker_bench.up(name)
    for pid in docker_bench.processes(name).values():
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(Path("/run/testbed") / name)  # as after a reboot
    assert name in {owned.lab for owned in list_containers()}
    docker_bench.call("down", name)
    assert not left(name)


def test_labs_of_both_runtimes_side_by_side_do_not_meet(docker_bench: Bench) -> None:
    """Two of containers: tests/docker/test_lifecycle.py."""
    first, second = (docker_bench.name() for _ in range(2))
    docker_bench.up(first)
    docker_bench.up(second, "--runtime", "netns")
    runtimes = {row["lab"]: row["runtime"] for row in json.loads(docker_bench.call("ps", "--json").stdout)}
    assert (runtimes[first], runtimes[second]) == ("docker", "netns")
    docker_bench.call("down", first)
    assert not left(first)
    everyone = {"ue1", "ue2", "edge", "controller", "player", "recorder"}
    assert everyone <= set(docker_bench.processes(second))


@pytest.mark.alone
def test_down_of_all_labs_twice(docker_bench: Bench) -> None:
    if others := existing():
        pytest.skip(f"needs a machine without other labs; up are {', '.join(others)}")
    name, other = docker_bench.name(), docker_bench.name()
    docker_bench.up(name)
    docker_bench.up(other, "--runtime", "netns")
    for _ in range(2):
        docker_bench.call("down", "--all")
        assert not left(name)
        assert not left(other)


def test_a_lab_that_is_up_is_steered_and_repaired(docker_bench: Bench, client: docker.DockerClient) -> None:
    name = docker_bench.name()
    lab = docker_bench.up(name)
    assert lab["did"] == "up"
    assert docker_bench.up(name)["did"] == "already up"
    check_steering(docker_bench, name)
    for victim in ("ue2", "edge"):
        client.containers.get(container_name(name, victim)).kill("SIGKILL")
    time.sleep(0.5)
    did = docker_bench.up(name)["did"]
    assert did.startswith("repaired: ")
    wires = {"wire of ue1", "wire of ue2"}  # both end at the edge
    assert set(did.removeprefix("repaired: ").split(", ")) == {*wires, "player", "ue2", "edge"}
    assert {"ue2", "edge"} <= set(docker_bench.processes(name))
    repaired = time.monotonic()

    def tasks_arrived_since() -> bool:
        """At ue2, after the repair, and were completed."""
        tasks = read_stream(streams_directory(Path(lab["run_dir"])), "tasks")
        done = tasks.filter((pc.field("ue") == "ue2") & (pc.field("status") == "completed"))
        return bool(done) and pc.max(done["arrival_seconds"]).as_py() > repaired

    wait_until(tasks_arrived_since, 30.0)
    assert docker_bench.up(name)["did"] == "already up"

    def sampled_since() -> bool:
        health = read_stream(streams_directory(Path(lab["run_dir"])), "health").filter(pc.field("node") == "ue2")
        return bool(health) and pc.max(health["monotonic_seconds"]).as_py() > repaired

    wait_until(sampled_since)  # the new container is another group than the recorder was told first


def _engine_is_ours_to_restart(client: docker.DockerClient) -> str:
    """Why the engine must not be restarted here; empty if it may be."""
    ours = client.containers.list(all=True, filters={"label": LABEL_OWNER})
    if len(client.containers.list()) > len([one for one in ours if one.status == "running"]):
        return "needs an engine that runs nobody else's containers"
    if shutil.which("dockerd") is None:
        return "needs an engine on this host"
    return ""


def restart_engine() -> None:
    """End dockerd (its containers end with it) and start it again with the same arguments."""
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "restart", "docker"], check=True)
        return
    answer = subprocess.run(["pidof", "dockerd"], capture_output=True, text=True, check=True)
    (pid,) = (int(word) for word in answer.stdout.split())
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + RESTART_SECONDS
    while Path(f"/proc/{pid}").exists() and _state(pid) not in "ZX":
        assert time.monotonic() < deadline, "the engine did not end"
        time.sleep(0.1)
    log = Path("/tmp/dockerd-restarted.log").open("ab")  # noqa: SIM115
    subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    while subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        assert time.monotonic() < deadline, "the engine did not come back"
        time.sleep(0.2)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


@pytest.mark.alone
def test_an_engine_restarted_in_the_middle_of_a_run(docker_bench: Bench, client: docker.DockerClient) -> None:
    if reason := _engine_is_ours_to_restart(client):
        pytest.skip(reason)
    name = docker_bench.name()
    process, out = start_run(docker_bench, name, 60)
    restart_engine()
    error = process.communicate(timeout=90)[1]
    assert process.returncode == 1, error
    docker_bench.call("down", name)
    assert not left(name)
    summary = summary_of(docker_bench, out)
    check_books(summary)
    assert not summary["valid"]
    assert summary["invalid_reasons"]
    assert docker_bench.run(name, "--duration", "3 s", code=None)["tasks"]["completed"] > 10
    assert not left(name)

"""Cores of their own in a running lab: threads of UEs, of the edge and of what steers are where the manifest says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.runtime.host.facts import facts
from tests.emulation.conftest import Bench

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _two_cores() -> None:
    if not facts().cpusets or facts().cores < 2:
        pytest.skip("needs a cpuset controller and two cores")


def _allowed(pid: int) -> set[str]:
    """Core lists of all threads of a process."""
    found = set()
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = status.read_text().splitlines()
        found.add(next(line.split()[1] for line in lines if line.startswith("Cpus_allowed_list:")))
    return found


def test_split_keeps_ues_apart_from_all_else(bench: Bench) -> None:
    name = bench.name()
    run_directory = Path(bench.up(name, "--set", "host.cpusets=split")["run_dir"])
    record = json.loads((run_directory / "manifest.json").read_text())["host"]
    processes = bench.processes(name)
    sets = record["cpusets"]
    assert record["cpusets_reason"] == ""
    for node, pid in processes.items():
        kind = "ue" if node.startswith("ue") else "edge" if node == "edge" else "steering"
        assert _allowed(pid) == {sets[kind]}, node
    assert {"ue1", "ue2", "edge", "controller", "player", "recorder"} <= set(processes)
    assert sets["ue"] not in ("", sets["edge"], sets["steering"])
    bench.call("down", name)
    assert not Path(f"/sys/fs/cgroup/cpuset/testbed/{name}").exists()

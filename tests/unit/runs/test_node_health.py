"""CPU accounting of nodes, from both forms of cgroup files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testbed.programs.recorder.node_health import NodeSampler
from testbed.protocol.configs import RecorderConfig, read_config, write_config

V1 = "nr_periods 900\nnr_throttled 12\nthrottled_time 2500000000\n"
V2 = "usage_usec 7\nuser_usec 5\nsystem_usec 2\nnr_periods 900\nnr_throttled 12\nthrottled_usec 2500000\n"
V2_WITHOUT_CAP = "usage_usec 7\nuser_usec 5\nsystem_usec 2\n"


@pytest.mark.parametrize(("text", "expected"), [(V1, (12, 2.5)), (V2, (12, 2.5)), (V2_WITHOUT_CAP, (0, 0.0))])
def test_throttling_in_seconds_and_periods(tmp_path: Path, text: str, expected: tuple[int, float]) -> None:
    (tmp_path / "cpu.stat").write_text(text)
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (health,) = NodeSampler(lambda: {"ue1": str(tmp_path)}).sample()
    assert (health.throttled_periods, health.throttled_seconds) == expected
    assert health.node == "ue1"
    assert health.cpu_seconds > 0


def test_a_node_whose_group_is_gone_is_left_out(tmp_path: Path) -> None:
    assert NodeSampler(lambda: {"ue1": str(tmp_path / "gone")}).sample() == []


def test_a_torn_list_of_groups_costs_no_recorder(tmp_path: Path) -> None:
    """A group is gone, and where the new one is cannot be read."""
    for file, text in (("cpu.stat", V1), ("cgroup.procs", f"{os.getpid()}\n")):
        (tmp_path / file).write_text(text)
    path = tmp_path / "recorder.json"
    groups = {"ue1": str(tmp_path), "ue2": str(tmp_path / "gone")}
    write_config(RecorderConfig("lab", "run", "recorder", str(tmp_path), str(tmp_path), cpu_groups=groups), path)
    sampler = NodeSampler(lambda: read_config(path, RecorderConfig).cpu_groups)
    path.write_bytes(path.read_bytes()[:40])
    assert [health.node for health in sampler.sample()] == ["ue1"]


def test_a_node_that_was_made_again_is_found_in_its_new_group(tmp_path: Path) -> None:
    groups = {"ue1": tmp_path / "first"}
    new = tmp_path / "second"
    for directory in (groups["ue1"], new):
        directory.mkdir()
        (directory / "cpu.stat").write_text(V1)
        (directory / "cgroup.procs").write_text(f"{os.getpid()}\n")
    sampler = NodeSampler(lambda: {node: str(path) for node, path in groups.items()})
    assert len(sampler.sample()) == 1
    for file in groups["ue1"].iterdir():
        file.unlink()
    groups["ue1"].rmdir()
    assert sampler.sample() == []
    groups["ue1"] = new
    (health,) = sampler.sample()
    assert health.cpu_seconds > 0

"""What is written to the files of the cgroup trees, on ordinary directories; the kernel is in tests/emulation."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from testbed.errors import HostError, InputError
from testbed.lab.doctor import examine
from testbed.runtime.base import NodeSpec
from testbed.runtime.host import cgroups as cgroup_module
from testbed.runtime.host import realtime
from testbed.runtime.host.cgroups import (
    CgroupsV1,
    CgroupsV2,
    NoCgroups,
    detect,
    mount_points,
    own_quota_cores,
    quota_microseconds,
)

UE = NodeSpec("ue1", "ue", quota_host_cores=0.25, memory_bytes=1 << 20, cpu_list="0-1")


@pytest.mark.parametrize(("cores", "quota"), [(0.0, -1), (0.1, 1000), (0.25, 2500), (1.5, 15000)])
def test_quota_of_a_10_ms_period(cores: float, quota: int) -> None:
    assert quota_microseconds(cores) == quota


@pytest.mark.parametrize("cores", [0.09, 0.001, -0.5])
def test_a_quota_below_1_ms_is_refused_by_every_kind(cores: float, tmp_path: Path) -> None:
    for cgroups in (NoCgroups(), CgroupsV2(tmp_path)):
        with pytest.raises(InputError, match=r"allowed: >= 0\.1"):
            cgroups.set_quota("lab", "ue1", cores)


def test_version_2_hands_down_controllers_then_limits(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    cgroups = CgroupsV2(tmp_path)
    cgroups.create("lab", UE)
    for parent in (tmp_path, tmp_path / "testbed", tmp_path / "testbed" / "lab"):
        assert (parent / "cgroup.subtree_control").read_text() == "+cpu +memory +cpuset\n"
    group = tmp_path / "testbed" / "lab" / "ue1"
    written = {path.name: path.read_text() for path in group.iterdir()}
    assert written == {"cpu.max": "2500 10000\n", "memory.max": "1048576\n", "cpuset.cpus": "0-1\n"}
    cgroups.set_quota("lab", "ue1", 0)
    assert (group / "cpu.max").read_text() == "max 10000\n"
    assert cgroups.groups("lab", "ue1") == [group]
    assert cgroups.groups("lab", "ue2") == []
    assert cgroups.labs() == {"lab"}


def test_version_2_gives_back_the_controllers_that_the_root_did_not_hand_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    root = tmp_path / "cgroup.subtree_control"
    root.write_text("cpu io\n")
    CgroupsV2(tmp_path).create("a", UE)
    root.write_text("cpu io memory cpuset\n")  # as the kernel tells it
    CgroupsV2(tmp_path).create("b", UE)  # by another command, which finds what the first has enabled
    for file in (path for path in (tmp_path / "testbed").rglob("*") if path.is_file()):
        file.unlink()  # the kernel's go with their group
    written: list[str] = []
    monkeypatch.setattr(cgroup_module, "write", lambda path, value: written.append(f"{path.name} {value}"))
    CgroupsV2(tmp_path).remove("a")
    assert written == []
    CgroupsV2(tmp_path).remove("b")
    assert written == ["cgroup.subtree_control -cpuset", "cgroup.subtree_control -memory"]
    assert not (tmp_path / "testbed").exists()
    CgroupsV2(tmp_path).prune()
    assert len(written) == 2


def test_looking_whether_version_2_may_be_used_changes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "cgroup.subtree_control"
    root.write_text("io\n")
    assert cgroup_module._can_delegate(tmp_path)
    assert root.read_text() == "-cpu"  # written last: what was tried is taken back
    root.write_text("cpu io\n")
    assert cgroup_module._can_delegate(tmp_path)
    assert root.read_text() == "cpu io\n"


def test_what_steers_a_lab_outweighs_a_ue(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    cgroups = CgroupsV2(tmp_path)
    cgroups.create("lab", NodeSpec("controller", "controller", network=False))
    assert (tmp_path / "testbed" / "lab" / "controller" / "cpu.weight").read_text() == "400\n"
    cgroups.create("lab", NodeSpec("ue1", "ue"))
    assert not (tmp_path / "testbed" / "lab" / "ue1" / "cpu.weight").exists()


def test_version_1_names_the_controller_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="'memory' is missing on this host"):
        CgroupsV1({"cpu": tmp_path}).create("lab", UE)


def test_groups_of_no_lab_are_not_labs(tmp_path: Path) -> None:
    (tmp_path / "testbed" / ".stages").mkdir(parents=True)
    cgroups = CgroupsV1({"cpu": tmp_path})
    assert cgroups.labs() == set()
    cgroups.prune()
    assert not (tmp_path / "testbed").exists()


def test_removal_takes_one_lab(tmp_path: Path) -> None:
    for lab in ("a", "a-b"):
        (tmp_path / "testbed" / lab / "ue1").mkdir(parents=True)
    cgroups = CgroupsV2(tmp_path)
    cgroups.remove("a")
    assert cgroups.labs() == {"a-b"}
    assert cgroups.lab_groups("a-b") == [tmp_path / "testbed/a-b/ue1", tmp_path / "testbed/a-b"]
    cgroups.remove("a-b")
    assert list(tmp_path.iterdir()) == []


def test_cpusets_are_had_where_the_controller_is(tmp_path: Path) -> None:
    controllers = tmp_path / "cgroup.controllers"
    controllers.write_text("cpuset cpu memory\n")
    assert CgroupsV2(tmp_path).has_cpusets
    controllers.write_text("cpu memory\n")
    assert not CgroupsV2(tmp_path).has_cpusets
    assert CgroupsV1({"cpu": tmp_path, "cpuset": tmp_path}).has_cpusets
    assert not CgroupsV1({"cpu": tmp_path}).has_cpusets
    assert not NoCgroups().has_cpusets


def test_a_kernel_without_a_limit_of_real_time_is_told_and_leaves_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "sched_rt_runtime_us"
    monkeypatch.setattr(realtime, "LIMIT", limit)
    assert realtime.unlimited() == ""
    limit.write_text("950000\n")
    assert realtime.unlimited() == ""
    limit.write_text("-1\n")
    assert "kernel.sched_rt_runtime_us is -1" in realtime.unlimited()
    (finding,) = (one for one in examine() if one.name == "real-time limit")
    assert not finding.ok
    for name, value in (("cpu.rt_runtime_us", -1), ("cpu.rt_period_us", 1_000_000)):
        (tmp_path / name).write_text(f"{value}\n")
    assert realtime._runtime_microseconds(tmp_path) == 1_000_000


@pytest.mark.root
@pytest.mark.parametrize("nested", [False, True])
def test_a_quota_on_the_group_of_this_process_counts(nested: bool) -> None:
    """That of a container, or of a service: its own group, or one above it."""
    kind = detect()
    if kind.version == "none":
        pytest.skip("needs a CPU controller that we may use")
    tree = kind.trees()[0].parent if kind.version == "v2" else mounts_of_cpu()
    group = tree / f"testbed-test-{os.getpid()}"
    inner = group / "inner" if nested else group
    inner.mkdir(parents=True)
    try:
        if kind.version == "v1":
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text("150000")
        else:
            (group / "cpu.max").write_text("150000 100000")
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            (inner / "cgroup.procs").write_text(str(os.getpid()))
            os.write(write, str(own_quota_cores()).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as stream:
            assert float(stream.read()) == 1.5
        os.waitpid(pid, 0)
    finally:
        for path in dict.fromkeys((inner, group)):
            remove_group(path)


def mounts_of_cpu() -> Path:
    return Path(mount_points()["cpu"])


def remove_group(path: Path) -> None:
    deadline = time.monotonic() + 2
    while True:
        try:
            path.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return

"""A container is what the lab says, and nothing more: asked of the engine, of the kernel and from the inside."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import docker
import pytest

from testbed.errors import HostError
from testbed.runtime.docker import docker_nodes, docker_services
from testbed.runtime.docker.docker_nodes import ContainerCgroup, container_name, host_tid
from testbed.runtime.docker.docker_runtime import DockerRuntime
from testbed.runtime.processes.identity import host_id

from .conftest import EDGE, RADIO, RECORDER, UE, Start, wait_until

pytestmark = [pytest.mark.docker, pytest.mark.root]


@pytest.fixture
def lab(start: Start) -> DockerRuntime:
    return start([RADIO, UE, EDGE], {"ue0": "tb_test_sleeper", "edge": "tb_test_server"})


def inside(client: docker.DockerClient, lab: DockerRuntime, node: str, *command: str) -> tuple[int, str]:
    result = client.containers.get(container_name(lab.lab, node)).exec_run(list(command))
    return result.exit_code, result.output.decode()


def test_the_engine_knows_the_limits(client: docker.DockerClient, lab: DockerRuntime) -> None:
    engine = client.info()  # it leaves out what its kernel has not
    ue = client.containers.get(container_name(lab.lab, "ue0")).attrs
    host = ue["HostConfig"]
    assert (host["CpuPeriod"], host["CpuQuota"]) == (10_000, 2_500)
    assert (host["Memory"], host["MemorySwap"]) == (1 << 29, 1 << 29 if engine["SwapLimit"] else -1)
    assert host["PidsLimit"] == 256
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] is None
    assert "no-new-privileges" in host["SecurityOpt"]
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert host["NetworkMode"] == "none"
    assert not host["PortBindings"]
    assert host["RestartPolicy"]["Name"] in ("", "no")
    assert ue["Config"]["User"] == "65532:65532"
    edge = client.containers.get(container_name(lab.lab, "edge")).attrs["HostConfig"]
    assert (edge["CpuPeriod"], edge["CpuQuota"]) == (10_000, 8_000)
    assert edge["CpusetCpus"] == ("0" if engine["CPUSet"] else "")


def test_labels_say_whose_it_is(client: docker.DockerClient, lab: DockerRuntime) -> None:
    labels = client.containers.get(container_name(lab.lab, "edge")).labels
    assert {name: labels[f"testbed.{name}"] for name in ("lab", "run", "owner", "role", "node")} == {
        "lab": lab.lab,
        "run": f"run-of-{lab.lab}",
        "owner": f"{os.geteuid()}@{host_id()}",
        "role": "edge",
        "node": "edge",
    }


def test_the_kernel_enforces_what_the_lab_says(client: docker.DockerClient, lab: DockerRuntime) -> None:
    cgroup = ContainerCgroup(pid_of(lab, "ue0"))
    assert quota_of(cgroup) == 2_500
    limit = "memory.max" if cgroup.version == "v2" else "memory/memory.limit_in_bytes"
    assert inside(client, lab, "ue0", "cat", f"/sys/fs/cgroup/{limit}") == (0, f"{1 << 29}\n")
    if client.info()["CPUSet"]:
        assert os.sched_getaffinity(pid_of(lab, "edge")) == {0}


def test_a_change_of_the_cap_is_in_force_at_once(lab: DockerRuntime) -> None:
    cgroup = ContainerCgroup(pid_of(lab, "ue0"))
    lab.set_cpu("ue0", 0.4)
    assert quota_of(cgroup) == 4_000
    lab.set_cpu("ue0", 0.0)
    assert quota_of(cgroup) == -1


def test_it_runs_as_nobody_in_particular_without_capabilities(client: docker.DockerClient, lab: DockerRuntime) -> None:
    assert inside(client, lab, "ue0", "id", "-u") == (0, "65532\n")
    _, status = inside(client, lab, "ue0", "cat", "/proc/1/status")
    capabilities = {line.split()[0]: int(line.split()[1], 16) for line in status.splitlines() if line.startswith("Cap")}
    assert capabilities == dict.fromkeys(("CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"), 0)
    assert "NoNewPrivs:\t1" in status


def test_its_root_is_read_only_and_its_tmp_is_not(client: docker.DockerClient, lab: DockerRuntime) -> None:
    for path in ("/x", "/opt/testbed/x", "/etc/x"):
        code, output = inside(client, lab, "ue0", "touch", path)
        assert code != 0
        assert "Read-only file system" in output
    assert inside(client, lab, "ue0", "touch", "/tmp/x")[0] == 0


def test_it_sees_of_the_lab_what_is_its_own_and_can_write_none_of_it(
    client: docker.DockerClient, lab: DockerRuntime
) -> None:
    directory = lab.lab_directory
    (directory / "ipc" / "edge" / "control").touch()
    _, seen = inside(client, lab, "ue0", "find", str(directory), "-type", "d")
    assert set(seen.split()) == {
        str(directory / path) for path in ("", "shared", "orders", "orders/ue0", "ipc", "ipc/ue0")
    }
    for folder in ("", "shared", "orders/ue0", "ipc", "ipc/ue0"):
        code, output = inside(client, lab, "ue0", "touch", f"{directory / folder}/x")
        assert code != 0
        assert "Read-only file system" in output


def test_host_and_containers_can_connect_to_each_others_sockets(client: docker.DockerClient, start: Start) -> None:
    lab = start([UE, RECORDER], {"recorder": "tb_test_unix_server"})
    path = lab.lab_directory / "ipc" / "ue0" / "records"
    wait_until(path.exists)
    assert path.stat().st_uid == 0
    answer = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r}); print(s.recv(10).decode())"
    assert inside(client, lab, "ue0", "python3", "-c", answer) == (0, "served\n")


def test_it_reaches_its_wire_and_nothing_else(client: docker.DockerClient, lab: DockerRuntime) -> None:
    assert inside(client, lab, "ue0", "ls", "/sys/class/net") == (0, "lo\n")
    ue, edge = lab.netns_name("ue0"), lab.netns_name("edge")
    run("ip", "-n", ue, "link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns", edge)
    for namespace, address in ((ue, "10.123.0.1/30"), (edge, "10.123.0.2/30")):
        run("ip", "-n", namespace, "address", "add", address, "dev", "eth1")
        run("ip", "-n", namespace, "link", "set", "eth1", "up")
    answer = "import socket; print(socket.create_connection(('10.123.0.2', 5555), 5).recv(10).decode())"
    assert inside(client, lab, "ue0", "python3", "-c", answer) == (0, "served\n")
    for outside in ("172.17.0.1", "192.0.2.1"):  # the engine's own bridge, and the rest of the world
        code, output = inside(client, lab, "ue0", "python3", "-c", answer.replace("10.123.0.2", outside))
        assert code != 0
        assert "Network is unreachable" in output


def test_a_stage_thread_becomes_fifo_from_outside(start: Start) -> None:
    lab = start([UE], {"ue0": "tb_test_threads"})
    told = Path(f"/proc/{pid_of(lab, 'ue0')}/root/tmp/tid")
    wait_until(lambda: told.exists() and told.read_text() != "")
    tid = int(told.read_text())
    number = host_tid(ContainerCgroup(pid_of(lab, "ue0")), tid)
    assert os.sched_getscheduler(number) == os.SCHED_OTHER
    if not lab.make_realtime("ue0", tid, 5):
        pytest.skip("needs a host that allows real-time priority to containers")
    assert os.sched_getscheduler(number) == os.SCHED_FIFO
    assert os.sched_getparam(number).sched_priority == 5
    assert os.sched_getscheduler(pid_of(lab, "ue0")) == os.SCHED_OTHER


def pid_of(lab: DockerRuntime, node: str) -> int:
    return next(status.pid for status in lab.processes() if status.node == node)


def quota_of(cgroup: ContainerCgroup) -> int:
    if cgroup.version == "v1":
        return int((cgroup.directory / "cpu.cfs_quota_us").read_text())
    quota = (cgroup.directory / "cpu.max").read_text().split()[0]
    return -1 if quota == "max" else int(quota)


def run(*command: str) -> None:
    assert Path("/run/netns").is_dir()
    subprocess.run(command, check=True)


def test_engines_that_remap_users_or_label_files_take_what_we_ask_for(
    start: Start, client: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This engine does neither, and must take the options that those need; what runs is seen to be on this host."""
    monkeypatch.setattr(docker_services, "security_options", lambda _: frozenset({"userns", "selinux"}))
    lab = start([UE], {"ue0": "tb_test_sleeper"})
    [found] = docker_nodes.find(client, lab.lab)
    assert found.attrs["HostConfig"]["UsernsMode"] == "host"
    assert "label=disable" in found.attrs["HostConfig"]["SecurityOpt"]
    assert docker_nodes.check_here(found, lab.lab_directory)
    with pytest.raises(HostError, match="do not see this machine's folders"):
        docker_nodes.check_here(found, Path("/usr"))


def test_containers_read_their_files_whatever_the_umask(start: Start) -> None:
    before = os.umask(0o077)
    try:
        lab = start([UE], {"ue0": "tb_test_sleeper"})
        wait_until(lambda: "hello from" in str(lab.logs("ue0")))
    finally:
        os.umask(before)

"""Containers come, die and go: found by label, removed completely, and never somebody else's."""

from __future__ import annotations

from pathlib import Path

import docker
import pytest

from testbed.errors import HostError, InputError, TestbedError
from testbed.runtime.docker.docker_nodes import container_name, find, list_owned
from testbed.runtime.docker.docker_runtime import DockerRuntime
from testbed.runtime.docker.engine_gpu import device_request, wanted_device
from testbed.runtime.docker.images import node_tag
from testbed.runtime.host import namespaces

from .conftest import EDGE, RADIO, UE, Start, wait_until

pytestmark = [pytest.mark.docker, pytest.mark.root]


def names(client: docker.DockerClient, lab: DockerRuntime) -> list[str]:
    return [owned.name for owned in list_owned(client, lab.lab)]


def again(lab: DockerRuntime) -> DockerRuntime:
    """The same lab as another command would see it."""
    return DockerRuntime(lab.lab, lab.lab_directory, "")


def test_everything_of_a_lab_goes_and_going_twice_is_fine(client: docker.DockerClient, start: Start) -> None:
    lab = start([RADIO, UE, EDGE], {"ue0": "tb_test_sleeper", "edge": "tb_test_sleeper"})
    assert names(client, lab) == [container_name(lab.lab, node) for node in ("edge", "ue0")]
    assert namespaces.names(f"tb.{lab.lab}.") == [lab.netns_name(node) for node in ("edge", "radio", "ue0")]
    for _ in range(2):
        again(lab).remove()
        assert names(client, lab) == []
        assert namespaces.names(f"tb.{lab.lab}.") == []
        assert not lab.lab_directory.exists()


def test_two_labs_do_not_meet(client: docker.DockerClient, start: Start) -> None:
    first = start([UE, EDGE], {"ue0": "tb_test_sleeper"})
    second = start([UE, EDGE], {"ue0": "tb_test_sleeper"})
    first.remove()
    assert names(client, first) == []
    assert names(client, second) == [container_name(second.lab, node) for node in ("edge", "ue0")]
    assert all(status.running for status in second.processes())


def test_a_container_of_somebody_else_stays(client: docker.DockerClient, start: Start) -> None:
    lab = start([UE], {"ue0": "tb_test_sleeper"})
    for name, labels in (
        ("tb-not-ours", {}),
        ("tb-other-owner", {"testbed.lab": lab.lab, "testbed.owner": "4711", "testbed.node": "ue0"}),
    ):
        client.containers.run(
            node_tag("cpu"), ["sleep", "300"], name=f"{name}-{lab.lab}", labels=labels, detach=True, network_mode="none"
        )
    try:
        lab.remove()
        left = {container.name for container in client.containers.list(all=True)}
        assert {f"tb-not-ours-{lab.lab}", f"tb-other-owner-{lab.lab}"} <= left
    finally:
        for name in ("tb-not-ours", "tb-other-owner"):
            client.containers.get(f"{name}-{lab.lab}").remove(force=True)


def test_a_killed_container_is_seen_and_made_again(client: docker.DockerClient, start: Start) -> None:
    """What a restart of the engine leaves, too: containers that have ended, and names of namespaces without them."""
    lab = start([UE, EDGE], {"ue0": "tb_test_sleeper", "edge": "tb_test_sleeper"})
    client.containers.get(container_name(lab.lab, "ue0")).kill()
    wait_until(lambda: not all(status.running for status in lab.processes()))
    dead = {status.node: status.exit_code for status in lab.processes() if not status.running}
    assert dead == {"ue0": 137}
    repaired = again(lab)
    repaired.create([UE, EDGE])
    assert {status.node: status.running for status in repaired.processes()} == {"ue0": True, "edge": True}
    status = next(status for status in repaired.processes() if status.node == "ue0")
    named = namespaces.NETNS_DIRECTORY / lab.netns_name("ue0")
    assert named.stat().st_ino == Path(f"/proc/{status.pid}/ns/net").stat().st_ino


def test_removal_after_every_container_has_died(client: docker.DockerClient, start: Start) -> None:
    lab = start([UE, EDGE], {"ue0": "tb_test_sleeper"})
    for container in find(client, lab.lab):
        container.kill()
    again(lab).remove()
    assert names(client, lab) == []
    assert namespaces.names(f"tb.{lab.lab}.") == []


def test_creating_what_exists_changes_nothing(client: docker.DockerClient, start: Start) -> None:
    lab = start([UE, EDGE], {"ue0": "tb_test_sleeper"})
    before = {container.id for container in find(client, lab.lab)}
    again(lab).create([UE, EDGE])
    assert {container.id for container in find(client, lab.lab)} == before


def test_a_program_that_fails_is_told_with_its_code_and_log(start: Start) -> None:
    lab = start([UE], {"ue0": "tb_test_failer"})
    wait_until(lambda: not lab.processes()[0].running)
    (status,) = lab.processes()
    assert (status.program, status.exit_code) == ("tb_test_failer", 7)
    assert "about to fail" in str(lab.logs("ue0"))


def test_a_container_that_wants_more_memory_than_it_may_have_is_told(start: Start) -> None:
    lab = start([UE], {"ue0": "tb_test_filler"})
    wait_until(lambda: not lab.processes()[0].running, 60.0)
    (status,) = lab.processes()
    assert status.out_of_memory
    assert "used up its node's memory" in status.how_it_ended


def test_an_import_that_fails_is_an_error_that_says_so(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    from testbed.runtime.docker import docker_runtime

    monkeypatch.setattr(docker_runtime, "IMPORTS", {"ue": ("no_such_module",)})
    with pytest.raises(TestbedError, match="no_such_module"):
        start([UE], {"ue0": "tb_test_sleeper"})


def test_logs_and_exec(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    lab = start([RADIO, UE], {"ue0": "tb_test_sleeper"})
    wait_until(lambda: "hello from" in str(lab.logs("ue0")))
    assert lab.exec("ue0", ["sh", "-c", "hostname; exit 5"]) == 5
    assert "ue0" in capfd.readouterr().out
    assert lab.exec("radio", ["true"]) == 0  # a node of the host
    assert lab.exec("ue0", ["ip", "-o", "link"]) == 0  # the host's: the image has none
    links = capfd.readouterr().out.splitlines()
    assert [line.split()[1] for line in links if "LOOPBACK" not in line] == []  # the container's network: no wire yet
    assert lab.exec("ue0", ["no-such-program"]) == 127
    with pytest.raises(InputError, match="no such node"):
        lab.exec("nobody", ["true"])


def test_a_required_gpu_is_refused_where_there_is_none(client: docker.DockerClient) -> None:
    assert wanted_device(client, "off") is None
    if device_request(client.info()) is not None:
        assert wanted_device(client, "required") is not None
        return
    assert wanted_device(client, "auto") is None
    with pytest.raises(HostError, match="gpu: required") as refusal:
        wanted_device(client, "required")
    assert refusal.value.exit_code == 3

"""``testbed verify`` on containers, and cores of their own for them."""

from __future__ import annotations

import json

import pytest

from testbed.runtime.docker.presence import list_containers
from testbed.runtime.host.facts import facts
from testbed.runtime.processes.discovery import list_owned
from tests.emulation.conftest import LABS, Bench

pytestmark = [pytest.mark.docker, pytest.mark.root]


@pytest.mark.quiet
def test_wires_and_containers_are_tried_and_removed(docker_bench: Bench) -> None:
    name = docker_bench.name()
    split = ("--set", "host.cpusets=split") if facts().cpusets and facts().cores > 1 else ()
    arguments = ("--name", name, "--runtime", "docker", "--duration", "4 s", "--json", *split)
    answer = docker_bench.call("verify", str(LABS / "tiny.yaml"), *arguments, code=None)
    assert answer.returncode in (0, 4), answer.stderr
    found = json.loads(answer.stdout)
    assert found["runtime"] == "docker"
    assert found["ok"] == (answer.returncode == 0)
    figures = {(check["subject"], check["what"]): check for check in found["checks"]}
    for way in ("ue1 uplink", "ue1 downlink", "ue2 uplink", "ue2 downlink"):
        assert figures[way, "loss"]["achieved"] == 0
        assert figures[way, "rate"]["error"] < 0.05
        assert figures[way, "delay"]["achieved"] < 0.005
    # really paced, each at its speed: the kernel alone takes a fifth of a UE's stage, or less
    for node in ("edge", "ue1", "ue2"):
        assert figures[node, "stage"]["error"] < 0.05
    assert not list_owned(name)
    assert not list_containers(name)

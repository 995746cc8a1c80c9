"""Exporter and Prometheus beside a lab, brought up by either runtime."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from controller.policies.examples import example_scenario
from testbed.errors import HostError
from testbed.monitoring.bringup import Monitoring, start_monitoring, stop_monitoring
from testbed.protocol.configs import write_scenario
from testbed.runtime.docker.docker_nodes import container_name
from testbed.runtime.docker.docker_runtime import DockerRuntime
from testbed.runtime.docker.images import GRAFANA_REFERENCE, has_image
from testbed.runtime.host.state import state_root
from testbed.runtime.netns.netns_runtime import NetnsRuntime

from .conftest import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.root]

Runtime = DockerRuntime | NetnsRuntime


@pytest.fixture(params=["docker", "netns"])
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    lab = f"dm{os.getpid()}-{request.param}"
    directory = state_root() / lab
    made: Runtime = (DockerRuntime if request.param == "docker" else NetnsRuntime)(lab, directory, "run-1")
    made.create([])
    write_scenario(example_scenario(), directory / "config" / "scenario.json")
    yield made
    stop_monitoring(made, settle_seconds=0.0)
    made.remove()


def begin(runtime: Runtime, run_directory: Path, grafana: str = "off") -> Monitoring:
    # a run directory is readable, pytest's are not
    for folder in (run_directory, *run_directory.parents):
        if folder == Path("/tmp"):
            break
        folder.chmod(folder.stat().st_mode | 0o055)
    return start_monitoring(
        runtime,
        run_id="run-1",
        policy="lymdo",
        lab_directory=runtime.lab_directory,
        run_directory=run_directory,
        scenario_path=runtime.lab_directory / "config" / "scenario.json",
        grafana=grafana,  # type: ignore[arg-type]
    )


def test_prometheus_scrapes_the_lab_and_keeps_its_data_with_the_run(runtime: Runtime, tmp_path: Path) -> None:
    monitoring = begin(runtime, tmp_path)
    query = f"{monitoring.urls['prometheus']}/api/v1/query?query=testbed_slot_seconds"

    def labels() -> dict[str, str]:
        with urllib.request.urlopen(query, timeout=5) as answer:
            found = json.load(answer)["data"]["result"]
        return dict(found[0]["metric"]) if found else {}

    wait_until(lambda: bool(labels()), seconds=20)
    assert {name: labels()[name] for name in ("lab", "run", "policy")} == {
        "lab": runtime.lab,
        "run": "run-1",
        "policy": "lymdo",
    }
    stop_monitoring(runtime, settle_seconds=0.0)
    assert not [status for status in runtime.processes() if status.node == "prometheus" and status.running]
    assert any((tmp_path / "prometheus" / "wal").iterdir())


def test_everything_listens_on_loopback_only(runtime: Runtime, tmp_path: Path) -> None:
    begin(runtime, tmp_path)
    pids = {status.pid for status in runtime.processes() if status.running}
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = [line.split()[3] for line in listening if any(f"pid={pid}," in line for pid in pids)]
    assert ours
    assert all(address.startswith("127.0.0.1:") for address in ours)


def test_grafana_comes_up_or_says_in_one_line_why_not(
    runtime: Runtime, client: docker.DockerClient, tmp_path: Path
) -> None:
    monitoring = begin(runtime, tmp_path, grafana="auto")
    if "grafana" not in monitoring.urls:
        (note,) = monitoring.notes
        assert GRAFANA_REFERENCE in note
        assert "\n" not in note
        with pytest.raises(HostError, match="Grafana") as refusal:
            begin(runtime, tmp_path, grafana="required")
        assert refusal.value.exit_code == 3
        pytest.skip("needs Grafana's image: not on this engine and no registry answers")
    assert has_image(client, GRAFANA_REFERENCE)
    for uid in ("testbed-lab", "testbed-controller", "testbed-fidelity"):
        address = f"{monitoring.urls['grafana']}/api/dashboards/uid/{uid}"
        wait_until(lambda address=address: _answers(address), seconds=60)  # type: ignore[misc]
    with urllib.request.urlopen(f"{monitoring.urls['grafana']}/api/search?type=dash-db", timeout=5) as answer:
        assert {found["folderTitle"] for found in json.load(answer)} == {"Testbed"}


def test_prometheus_in_a_container_has_no_rights(client: docker.DockerClient, tmp_path: Path) -> None:
    lab = f"dm{os.getpid()}-rights"
    made = DockerRuntime(lab, state_root() / lab, "run-1")
    made.create([])
    write_scenario(example_scenario(), made.lab_directory / "config" / "scenario.json")
    try:
        begin(made, tmp_path)
        host = client.containers.get(container_name(lab, "prometheus")).attrs
        assert host["HostConfig"]["CapDrop"] == ["ALL"]
        assert host["HostConfig"]["ReadonlyRootfs"] is True
        assert host["Config"]["User"] == "65532:65532"
        assert not host["HostConfig"]["PortBindings"]
    finally:
        made.remove()
    assert not [one for one in client.containers.list(all=True) if one.name == container_name(lab, "prometheus")]


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False

"""Prometheus beside a lab of root: an unprivileged user, also where the run lies in folders that are closed to it."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from pathlib import Path

import pytest

from controller.policies.examples import example_scenario
from testbed.monitoring.bringup import start_monitoring, stop_monitoring
from testbed.protocol.configs import write_scenario
from testbed.runtime.host import executables
from testbed.runtime.host.state import state_root
from testbed.runtime.netns.netns_runtime import NetnsRuntime
from testbed.runtime.processes import discovery
from testbed.runtime.processes.identity import CONTAINER_UID

pytestmark = pytest.mark.root


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_prometheus_of_root_is_an_ordinary_user(tmp_path: Path, umask: int) -> None:
    if executables.find("prometheus") is None:
        pytest.skip("needs Prometheus: apt-get install prometheus")
    lab = f"um{os.getpid()}"
    runtime = NetnsRuntime(lab, state_root() / lab, "run-1")
    closed = tmp_path / "closed"
    run = closed / "run"
    run.mkdir(parents=True)
    closed.chmod(0o700)
    before = os.umask(umask)
    try:
        runtime.create([])
        scenario = runtime.lab_directory / "config" / "scenario.json"
        write_scenario(example_scenario(), scenario)
        monitoring = start_monitoring(
            runtime,
            run_id="run-1",
            policy="lymdo",
            lab_directory=runtime.lab_directory,
            run_directory=run,
            scenario_path=scenario,
            grafana="off",
        )
        url = f"{monitoring.urls['prometheus']}/api/v1/query?query=testbed_slot_seconds"
        assert eventually_answers(url)
        [watching] = [status for status in runtime.processes() if status.node == "prometheus" and status.running]
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{watching.pid}/status").read_text().splitlines() if ":" in line
        )
        assert status["Uid"].split() == status["Gid"].split() == [str(CONTAINER_UID)] * 4
        assert status["Groups"].split() == []
        assert int(status["CapEff"], 16) == 0
        assert {watching.pid} <= set(discovery.processes(lab))
    finally:
        os.umask(before)
        stop_monitoring(runtime, settle_seconds=0.0)
        runtime.remove()
    assert any((run / "prometheus" / "wal").iterdir())
    assert not discovery.processes(lab)


def eventually_answers(url: str) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if json.load(answer)["data"]["result"]:
                    return True
        except OSError:
            pass
        time.sleep(0.1)
    return False

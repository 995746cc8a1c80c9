"""A real exporter and Prometheus that watch an imagined run."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zmq
from imagined_run import records_of_slot

from controller.contract import Scenario
from controller.policies.examples import example_scenario
from controller.service.protocol import encode
from testbed.monitoring.bringup import free_port, prometheus_arguments
from testbed.protocol.configs import write_config, write_scenario
from testbed.protocol.monitoring import ExporterConfig
from testbed.protocol.sockets import live_endpoint, make_folder

ROOT = Path(__file__).parents[3]


@dataclass
class Watched:
    """A real Prometheus that scrapes a real exporter."""

    url: str
    scenario: Scenario
    records: zmq.Socket[bytes]
    exporter_url: str

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Instant query. Raises urllib.error.HTTPError for a query that Prometheus does not understand."""
        address = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(address, timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def play(self, seconds: float) -> None:
        """Slots of half a second, in real time: rates need it."""
        begin = time.monotonic()
        slot = 0
        while time.monotonic() - begin < seconds:
            for record in records_of_slot(self.scenario, slot):
                self.records.send(encode(record))
            slot += 1
            time.sleep(max(0.0, begin + slot * 0.5 - time.monotonic()))

    def await_data(self, query: str, seconds: float = 15.0) -> list[dict[str, Any]]:
        deadline = time.monotonic() + seconds
        while not (found := self.ask(query)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Half a minute of an imagined run, seen through exporter and Prometheus."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("needs Prometheus: apt-get install prometheus")
    folder = tmp_path_factory.mktemp("watched")
    (folder / "ipc").mkdir()
    for name in ("prometheus.yml", "rules.yml"):
        shutil.copy(ROOT / "grafana" / name, folder / name)
    scenario = example_scenario()
    scenario_path = folder / "scenario.json"
    write_scenario(scenario, scenario_path)
    targets = folder / "targets.json"
    config = ExporterConfig(
        lab="mon-test",
        run_id="run-1",
        node="exporter",
        lab_directory=str(folder),
        policy="lymdo",
        scenario_path=str(scenario_path),
        targets_path=str(targets),
    )
    write_config(config, folder / "exporter.json")
    port = free_port()
    with zmq.Context() as context, context.socket(zmq.PUB) as records:
        make_folder(live_endpoint(folder))
        records.bind(live_endpoint(folder))
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "testbed.programs.exporter.exporter", str(folder / "exporter.json")]
            ),
            subprocess.Popen([program, *prometheus_arguments(folder, folder / "data", port)]),
        ]
        try:
            deadline = time.monotonic() + 15
            while not targets.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            address = json.loads(targets.read_text())[0]["targets"][0]
            seen = Watched(f"http://127.0.0.1:{port}", scenario, records, f"http://{address}/metrics")
            deadline = time.monotonic() + 15
            while time.monotonic() < deadline:
                try:
                    if seen.ask("up"):
                        break
                except OSError:
                    pass
                time.sleep(0.1)
            seen.play(12)
            yield seen
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                process.wait(timeout=10)

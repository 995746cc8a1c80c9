"""The process that turns a lab's live records into metrics and serves them to Prometheus, on loopback only."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path

import msgspec
import zmq
from prometheus_client import start_http_server

from controller.contract import Scenario
from testbed.folders import open_to_others
from testbed.node.last_words import accounted
from testbed.programs.exporter.metrics import Metrics
from testbed.protocol.configs import read_config, read_scenario
from testbed.protocol.monitoring import ExporterConfig
from testbed.protocol.records import decode_record
from testbed.protocol.sockets import live_endpoint

GULP_SECONDS = 0.1

log = logging.getLogger("exporter")


def write_targets(config: ExporterConfig, port: int) -> None:
    """Tell Prometheus where to ask, and with which labels (file_sd; by rename, it may look at any moment)."""
    labels = {"lab": config.lab, "run": config.run_id, "policy": config.policy}
    path = Path(config.targets_path)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps([{"targets": [f"127.0.0.1:{port}"], "labels": labels}]))
    open_to_others(partial)  # Prometheus is another user
    partial.rename(path)


def export(config: ExporterConfig, scenario: Scenario) -> None:
    """Serve until SIGTERM. Raises OSError when the port is taken."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    metrics = Metrics(scenario, config.policy)
    with zmq.Context() as context, context.socket(zmq.SUB) as records:
        records.set_hwm(100_000)  # a burst waits here while a scrape holds the interpreter
        records.setsockopt(zmq.SUBSCRIBE, b"")
        records.connect(live_endpoint(config.lab_directory))
        server, thread = start_http_server(config.port, addr="127.0.0.1", registry=metrics.registry)
        write_targets(config, server.server_port)
        log.info("exporting on 127.0.0.1:%d", server.server_port)
        while signal.sigtimedwait({signal.SIGTERM}, GULP_SECONDS) is None:
            while records.poll(0):
                try:
                    metrics.take(decode_record(records.recv()))
                except (msgspec.DecodeError, ValueError) as error:  # ValueError: no series takes its numbers
                    metrics.take_unreadable()
                    log.warning("unreadable record: %s", error)
        server.shutdown()
        thread.join()


def main(config_path: str | Path) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(10)
    config = read_config(Path(config_path), ExporterConfig)
    with accounted(config.node, config.lab_directory):
        export(config, read_scenario(Path(config.scenario_path)))


if __name__ == "__main__":
    main(sys.argv[1])

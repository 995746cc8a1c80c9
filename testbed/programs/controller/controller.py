"""The controller's program: reads its file, and serves a :class:`controller.service.server.ControllerServer`."""

from __future__ import annotations

import json
import logging
import signal
import time
from contextlib import closing
from pathlib import Path

import zmq

from controller.policies import registry
from controller.service.engine import ClosedSlot
from controller.service.protocol import encode
from controller.service.server import ControllerServer, Settings
from testbed.node.last_words import accounted
from testbed.programs.controller.slot_records import slot_records
from testbed.protocol.configs import ControllerConfig, read_config, read_scenario
from testbed.protocol.records import Event, SlotRecord
from testbed.protocol.roles import CONTROLLER
from testbed.protocol.sockets import records_endpoint, socket_path
from testbed.runtime.base import OPERATOR

logger = logging.getLogger("testbed.controller")

_RECORDS_HIGH_WATER_MARK = 10_000
_LINGER_MILLISECONDS = 1000


def main(config_path: str) -> None:
    """Serve until Stop, StopLab or SIGTERM. Raises what a missing or malformed config or scenario raises."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    config = read_config(Path(config_path), ControllerConfig)
    scenario = read_scenario(Path(config.scenario_path))
    with accounted(CONTROLLER, config.lab_directory), closing(RecorderLink(config.lab_directory)) as recorder:
        server = ControllerServer(settings_of(config), scenario, registry.create, recorder)
        signal.signal(signal.SIGTERM, lambda *_: server.request_stop("SIGTERM"))
        signal.signal(signal.SIGINT, lambda *_: server.request_stop("SIGINT"))
        with closing(server):
            server.serve()


def settings_of(config: ControllerConfig) -> Settings:
    """What the controller is told, with the sockets of a lab's directory."""
    return Settings(
        lab=config.lab,
        run_id=config.run_id,
        nodes={node: socket_path(config.lab_directory, node, "control") for node in config.expected},
        operator=socket_path(config.lab_directory, OPERATOR, "control"),
        policy=config.policy,
        options=json.loads(config.policy_options_json or "{}"),
        seed=config.seed,
        decide_deadline_seconds=config.decide_deadline_seconds,
    )


class RecorderLink:
    """A PUSH to the recorder, which may bind later: what it has not taken beyond the last ten thousand is dropped."""

    def __init__(self, lab_directory: str) -> None:
        self._dropped = 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, _RECORDS_HIGH_WATER_MARK)
        self._socket.setsockopt(zmq.LINGER, _LINGER_MILLISECONDS)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 100)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self._socket.connect(records_endpoint(lab_directory, CONTROLLER))

    def event(self, node: str, kind: str, text: str) -> None:
        """Record something worth a line in the log."""
        self._push(Event(monotonic_seconds=time.monotonic(), node=node, kind=kind, text=text))

    def slot(self, closed: ClosedSlot, start_seconds: float) -> None:
        """Record a slot that is over, a row for each UE."""
        for row in slot_records(closed, start_seconds):
            self._push(row)

    def close(self) -> None:
        """Close the socket; what was sent still arrives, for as long as LINGER says."""
        if self._dropped:
            logger.warning("%d records were dropped: the recorder did not take them", self._dropped)
        self._socket.close()
        self._context.term()

    def _push(self, record: Event | SlotRecord) -> None:
        try:
            self._socket.send(encode(record), zmq.NOBLOCK)
        except zmq.Again:
            self._dropped += 1

"""What the receiver, the service and the parts of an edge's program share, and what such a part is."""

from __future__ import annotations

import math

import zmq

from controller.service import protocol
from testbed.node.control import ControlLink, DecisionBox
from testbed.node.pacing import DeadlineThread
from testbed.node.threads import AgentThread, Inbox, Wakeup
from testbed.node.ue_sockets import UeSockets
from testbed.protocol.configs import EdgeConfig

_LARGEST_PART_BYTES = 1 << 20  # agents send chunks of 64 kB, and what a model consists of
_HIGH_WATER = 10_000  # results and acknowledgements for one UE whose downlink is in an outage
_MOST_UNSENT_BYTES = 64 << 20  # of these, whatever the size of an answer


class Lateness:
    """How late the receiver wakes up, p99 over a slot: of answers that wait for it, and of a probe every 100 ms."""

    def __init__(self) -> None:
        self._samples: list[float] = []

    def add(self, seconds: float) -> None:
        self._samples.append(seconds)

    def take_p99(self) -> float:
        samples, self._samples = sorted(self._samples), []
        return samples[math.ceil(0.99 * len(samples)) - 1] if samples else 0.0


class EdgeNode:
    """An edge's sockets and decisions. Opened by the program, and closed with it."""

    def __init__(self, config: EdgeConfig, largest_result_bytes: int) -> None:
        self.config = config
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.control = ControlLink(self.context, config.node, config.lab_directory)
        self.decisions = DecisionBox()
        self.deadlines = DeadlineThread("deadlines")
        self.inbox = Inbox(Wakeup())  # of the receiver
        self.lateness = Lateness()
        self.undelivered = 0
        self.wires = UeSockets(
            self.context,
            {ue.name: (f"tcp://{ue.address}:{config.port}", ue.round_trip_seconds) for ue in config.ues},
            part_bytes=_LARGEST_PART_BYTES,
            send_high_water=min(_HIGH_WATER, max(64, _MOST_UNSENT_BYTES // max(largest_result_bytes, 1))),
        )

    def send(self, ue: str, frames: list[bytes | memoryview]) -> None:
        """A message for a UE; counted where it cannot be delivered."""
        self.undelivered += not self.wires.send(ue, frames)

    def close(self) -> None:
        self.wires.close()
        self.control.close()
        self.context.term()


class EdgePart:
    """What a mechanism adds to an edge's program; what it does not override does nothing. Called by the receiver."""

    threads: tuple[AgentThread, ...] = ()  # of its own

    def begin(self, start: protocol.Start) -> None:
        """The run has a clock."""

    def take_cuts(self) -> list[tuple[str, str]]:
        """Which UEs it cut off since the last call, and why."""
        return []

    @property
    def malformed(self) -> int:
        """Messages that it could not read, since the start."""
        return 0

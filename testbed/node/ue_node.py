"""What the device, the link and the parts of a UE's program share, and what such a part is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zmq
from torch import Tensor

from controller.contract import Cut, UeDecision
from controller.service import protocol
from testbed.inference.profiles import read_profile
from testbed.node.backend import CpuBackend
from testbed.node.control import ControlLink, DecisionBox
from testbed.node.ledger import Books, Task
from testbed.node.pacing import DeadlineThread
from testbed.node.sight import Sight, Silences
from testbed.node.threads import AgentThread, Inbox, Wakeup
from testbed.protocol.configs import UeConfig


class UeNode:
    """One UE's model, sockets to the lab, decisions and books. Opened by the program, and closed with it."""

    def __init__(self, config: UeConfig) -> None:
        """Raises what a missing or malformed profile or model raises."""
        self.config = config
        profile = read_profile(Path(config.profile_path))
        self.backend = CpuBackend(config.model, config.seed, profile, config.lab_folder, config.weights)
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.control = ControlLink(self.context, config.node, config.lab_directory)
        self.decisions = DecisionBox()
        self.deadlines = DeadlineThread("deadlines")
        self.inbox = Inbox(Wakeup())  # of the I/O thread
        self.books = Books(config.node, self.control.record)
        self.silences = Silences(self.sight())

    def sight(self) -> Sight:
        """Of the UE's channel, for one thread; whoever opens one closes it."""
        return Sight(self.context, self.config.node, self.config.lab_directory)

    def lost(self, task: Task) -> None:
        """A task that was given up. From any thread."""
        self.inbox.post(lambda: self.books.lost(task, task.failure))

    def close(self) -> None:
        self.silences.close()
        self.control.close()
        self.context.term()


def compute_watts(config: UeConfig, speed: float) -> float:
    """Drawn while the device computes at ``speed``, as :func:`controller.model.energy.compute_watts` has it."""
    return config.compute_watts * (speed / config.max_speed) ** 3


@dataclass(frozen=True)
class Stopped:
    """Where a head stopped, with the tensors of that cut; () of one that has still to be computed."""

    cut: Cut
    values: tuple[Tensor, ...] = ()
    compute_seconds: float = 0.0  # real, without waiting


class UePart:
    """What a mechanism adds to a UE's program; what it does not override does nothing.

    Called by the I/O thread, but for :meth:`fit` and :meth:`head`.
    """

    name = ""  # its field of UeParts; empty: it reports nothing
    threads: tuple[AgentThread, ...] = ()  # of its own
    sockets: tuple[zmq.Socket[bytes], ...] = ()  # that wake the I/O thread up, for :meth:`turn`

    def check(self, own: UeDecision) -> None:
        """Prepare for a decision. Raises ValueError for one that cannot be carried out."""

    def decided(self, apply: protocol.Apply, own: UeDecision) -> None:
        """A decision has come."""

    def heard(self, message: protocol.Control) -> bool:
        """A message of the controller that is no UE's own; whether it was for this part."""
        return False

    def turn(self, now_seconds: float) -> None:
        """Once in each turn of the I/O thread, before tasks are sent."""

    def fit(self, task: Task, own: UeDecision) -> UeDecision:
        """The decision as the device carries it out for this task. From the stage thread, before a head."""
        return own

    def head(self, task: Task, own: UeDecision, image: Tensor, wait_until: Callable[[float], None]) -> Stopped | None:
        """The task's head, if this part computes it. From the stage thread; ``wait_until`` a CLOCK_MONOTONIC time."""
        return None

    def report(self) -> msgspec.Struct | None:
        """What it has to say at the end of a slot."""
        return None

    def close(self) -> None:
        """All threads of the program but the I/O's have ended."""

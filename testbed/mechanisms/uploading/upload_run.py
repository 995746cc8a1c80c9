"""One task of a UE whose edge starts without the model: sites, values, and what crosses. Shared by two threads.

The stage thread computes the device's nodes; the I/O thread brings values from the edge, takes values to it, and moves
nodes to the device that the edge cannot run. Dicts are only added to, one key at a time, so neither needs a lock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from controller.contract import GraphNode, UeDecision
from controller.model.cuts import consumers
from controller.model.uploading import is_serial
from testbed.mechanisms.uploading.timeline import Awaited, Timeline
from testbed.mechanisms.uploading.upload_frames import Segment
from testbed.node.ledger import Task


class Flow:
    """Who reads what in a graph: the same for every task of a model."""

    def __init__(self, nodes: Sequence[GraphNode]) -> None:
        self.order = tuple(node.name for node in nodes[1:])
        self.inputs = {node.name: node.inputs for node in nodes[1:]}
        self.consumers = consumers(nodes)
        self.answer = nodes[-1].name

    def goes_up(self, name: str, on_edge: frozenset[str]) -> bool:
        """Whether the edge needs a value of the device's."""
        return name not in on_edge and not on_edge.isdisjoint(self.consumers[name])

    def goes_down(self, name: str, on_edge: frozenset[str]) -> bool:
        """Whether the device needs a value of the edge's."""
        if name not in on_edge:
            return False
        return name == self.answer or any(reader not in on_edge for reader in self.consumers[name])


@dataclass(frozen=True)
class Crossing:
    """A value that the device made and the edge needs, encoded."""

    name: str
    header: bytes
    buffers: list[memoryview]
    released_seconds: float


@dataclass(frozen=True)
class Arrival:
    """A value that the edge made."""

    name: str
    released_seconds: float  # when its node ended at the edge
    received_seconds: float


@dataclass(eq=False)
class Run:
    """A task under way. ``wake`` tells the stage thread that something came."""

    task: Task
    own: UeDecision
    flow: Flow
    on_edge: frozenset[str]  # shrinks when the edge refuses a node
    uploads: tuple[str, ...]
    wake: Callable[[], None]
    timeline: Timeline
    values: dict[str, Tensor] = field(default_factory=dict)  # that the device has
    arrivals: dict[str, Arrival] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)  # of the device's nodes
    edge_segments: dict[int, Segment] = field(default_factory=dict)
    end_seconds: float = math.nan  # when the answer was there
    failure: str = ""
    over: bool = False

    @property
    def serial(self) -> bool:
        return is_serial(self.own)

    def next_node(self) -> str | None:
        """The device's next node, in the graph's order."""
        return next((name for name in self.flow.order if name not in self.on_edge and name not in self.done), None)

    def awaited(self, name: str) -> Awaited | None:
        """The edge's value that a node of the device waited for last; None while one is missing."""
        last = Awaited()
        for read in self.flow.inputs[name]:
            if read not in self.values:
                return None
            arrival = self.arrivals.get(read)
            if arrival is not None:
                last = last.after(Awaited(read, arrival.received_seconds))
        return last

    def edge_has(self) -> tuple[str, ...]:
        """Values of the edge's that need not come again."""
        return tuple(self.arrivals)

    def moves(self, node: str) -> None:
        """The device runs a node that the edge cannot."""
        self.on_edge = self.on_edge - {node}
        self.wake()

    def deliver(self, arrival: Arrival, value: Tensor, segments: Sequence[Segment]) -> None:
        for segment in segments:
            self.edge_segments[segment.number] = segment
        self.arrivals[arrival.name] = arrival
        if arrival.name == self.flow.answer:
            self.end_seconds = arrival.received_seconds
        self.values[arrival.name] = value
        self.wake()

    def finish(self, failure: str = "") -> None:
        self.failure = failure
        self.over = True
        self.wake()

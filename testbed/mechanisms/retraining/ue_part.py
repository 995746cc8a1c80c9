"""A model that moves, as a part of a UE's program."""

from __future__ import annotations

from controller.contract import UeDecision
from controller.service import protocol
from testbed.mechanisms.retraining.model_updates import DeviceWeights, ModelUpdates
from testbed.node.ledger import Task
from testbed.node.ue_node import UeNode, UePart


class Retraining(UePart):
    """Fetches the layers that decisions want of each version; a head takes the newest version that is whole."""

    name = "retraining"

    def __init__(self, node: UeNode) -> None:
        config, split = node.config, node.backend.split
        self._node = node
        self._weights = DeviceWeights(split)
        self._updates = ModelUpdates(
            node.context,
            config.node,
            config.updates_endpoint,
            self._weights,
            split,
            config.receive_watts,
            node.inbox.wake,
        )
        self.threads = (self._updates,)

    def decided(self, apply: protocol.Apply, own: UeDecision) -> None:
        self._updates.want(own)
        self._updates.rate_bits_per_second = apply.rates_down_bits_per_second.get(self._node.config.node, 10e6)

    def turn(self, now_seconds: float) -> None:
        while self._updates.records:
            self._node.control.record(self._updates.records.popleft())

    def fit(self, task: Task, own: UeDecision) -> UeDecision:
        self._weights.adopt()
        task.model_version = self._weights.placed.version
        return self._weights.fit(own)

    def report(self) -> protocol.RetrainingReport:
        placed = self._weights.placed
        return protocol.RetrainingReport(placed.version, len(placed.nodes), self._updates.fetched_bytes)

    def close(self) -> None:
        self.turn(0.0)

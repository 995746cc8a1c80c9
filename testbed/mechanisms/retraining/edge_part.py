"""Models that move, as a part of an edge's program."""

from __future__ import annotations

from collections.abc import Mapping

from controller.service import protocol
from testbed.inference.partition import SplitModel
from testbed.mechanisms.retraining.model_store import ModelStore
from testbed.node.edge_node import EdgeNode, EdgePart


class Retraining(EdgePart):
    """Makes versions of the UEs' models, ``splits``, and hands them out."""

    def __init__(self, node: EdgeNode, splits: Mapping[str, SplitModel]) -> None:
        config = node.config
        self._store = ModelStore(
            node.context,
            splits,
            {ue.name: f"tcp://{ue.address}:{config.port + 1}" for ue in config.ues},
            seed=config.seed,
            interval_seconds=config.retraining_interval_seconds,
            perturbation=config.retraining_perturbation,
            hold_seconds=config.version_hold_seconds,
        )
        self.threads = (self._store,)

    def begin(self, start: protocol.Start) -> None:
        self._store.begin(start.origin_seconds)

    def take_cuts(self) -> list[tuple[str, str]]:
        return self._store.take_cuts()

    @property
    def malformed(self) -> int:
        return self._store.malformed

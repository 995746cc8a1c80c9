"""What a UE's model consists of, as it goes up."""

from __future__ import annotations

from collections.abc import Iterable

from testbed.inference.partition import SplitModel
from testbed.inference.weights import contents_of
from testbed.mechanisms.uploading.upload_frames import Layer, Model


class Layers:
    """What a model consists of, ready to be sent: by node, checksum and memory. A module that several nodes share
    belongs to the first."""

    def __init__(self, split: SplitModel) -> None:
        weights = split.weights
        nodes = split.graph.nodes
        table = weights.tensors(weights.active, weights.layers)
        self.blocks = {
            node: contents_of({name: table[name] for name in names}) for node, names in weights.layers.items()
        }
        self._of = {node.name: weights.layers_of(node.name) for node in nodes[1:]}
        self.version = weights.active

    def of(self, nodes: Iterable[str]) -> tuple[str, ...]:
        """The nodes whose parameters these read, each once."""
        return tuple(dict.fromkeys(owner for node in nodes for owner in self._of[node]))

    def manifest(self) -> Model:
        return Model(tuple(Layer(node, contents) for node, (contents, _) in self.blocks.items()), self.version)

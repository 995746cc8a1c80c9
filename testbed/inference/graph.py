"""The graph of a model: its values, and the operations that make them.

The traced operations fall in two kinds. *Values* are tensors that depend on the input: they are the nodes of the graph,
and each can cross the wire. Everything else - sizes, tuples, parameters read directly, constants - stays with whoever
uses it: such *helpers* are evaluated again on the side that needs them (they are views and look-ups), or were plain
numbers while tracing and have become constants, since the shape of the input never changes.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from controller.contract import Cut, GraphNode
from testbed.inference.models import LoadedModel

INPUT = "input"


@dataclass(frozen=True)
class ModelGraph:
    """A traced model whose nodes can be divided between device and edge."""

    model: LoadedModel
    nodes: tuple[GraphNode, ...]  # the values, in topological order; the first is "input", the last is the answer
    chain_cuts: tuple[Cut, ...]
    root: nn.Module = field(repr=False)  # holds all submodules and parameters that the operations refer to
    operations: dict[str, fx.Node] = field(repr=False)  # by the name of the value (without "input") or helper
    order: tuple[str, ...] = field(repr=False)  # all operations, topological
    device: str = "cpu"  # of the parameters, and of what operations make of nothing

    @property
    def answer(self) -> str:
        """Name of the value that is the model's answer."""
        return self.nodes[-1].name

    def on(self, device: str) -> ModelGraph:
        """A copy of which parameters, constants, and what operations make of nothing, are on ``device``."""
        return dataclasses.replace(self, root=copy.deepcopy(self.root).to(device), device=device)

    def compile(self, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> fx.GraphModule:
        """A module that computes the values ``outputs`` (a tuple of tensors) from the values ``inputs``.

        It holds exactly the submodules and parameters on the way, shared with :attr:`root`, not copied.
        Raises ValueError if ``outputs`` cannot be reached from ``inputs`` alone.
        """
        needed = set(outputs).difference(inputs)
        for key in reversed(self.order):
            if key in needed:
                needed.update(found for found in self._reads(key) if found not in inputs)
        if INPUT in needed:
            raise ValueError(f"values {tuple(inputs)} do not determine {tuple(outputs)}")
        graph = fx.Graph()
        made = {value: graph.placeholder(value) for value in inputs}
        for key in self.order:
            if key in needed:
                made[key] = graph.node_copy(self.operations[key], lambda node: made[node.name])
                self._place(made[key])
        graph.output(tuple(made[value] for value in outputs))
        module = fx.GraphModule(self.root, graph, class_name=name)
        return module.eval()

    def _place(self, node: fx.Node) -> None:
        """An operation that was traced with the CPU as an argument gets :attr:`device`."""

        def moved(leaf: Any) -> Any:
            return torch.device(self.device) if isinstance(leaf, torch.device) else leaf

        node.args = fx.node.map_aggregate(node.args, moved)
        node.kwargs = fx.node.map_aggregate(node.kwargs, moved)

    def _reads(self, key: str) -> Iterator[str]:
        return (node.name for node in self.operations[key].all_input_nodes)

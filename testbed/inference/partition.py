"""A model divided in two: the head, which runs on the device, and the tail, which runs on the edge."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, fx

from controller.contract import ALL_ON_DEVICE, Cut, ModelProfile
from controller.model.cuts import canonical_cut, check_cut, device_set
from testbed.errors import InputError
from testbed.inference.graph import INPUT, ModelGraph
from testbed.inference.models import LoadedModel, load_model
from testbed.inference.tracing import trace
from testbed.inference.weight_files import RANDOM_WEIGHTS, Weights
from testbed.inference.weights import VersionedWeights

#: Live values of a tail between two of its segments, by name.
State = dict[str, Tensor]


@dataclass(frozen=True)
class Segment:
    """A few whole graph nodes of a tail. Called in order on one :data:`State`, which it changes."""

    nodes: tuple[str, ...]
    seconds: float  # expected, in the unit of the node_seconds that it was made from
    module: fx.GraphModule = field(repr=False)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dead: tuple[str, ...]  # values that nobody reads afterwards

    def __call__(self, state: State) -> None:
        with torch.inference_mode():
            results = self.module(*[state[name] for name in self.inputs])
        state.update(zip(self.outputs, results, strict=True))
        for name in self.dead:
            del state[name]


class Partition:
    """Head and tail of one cut. Modules are built when first used, and share their parameters with the graph.

    Raises ValueError for a cut that is not canonical (:func:`controller.model.cuts.check_cut`).
    """

    def __init__(self, graph: ModelGraph, cut: Cut) -> None:
        check_cut(graph.nodes, cut)
        self.graph = graph
        self.cut = cut
        self._segments: dict[tuple[float, tuple[float, ...]], tuple[Segment, ...]] = {}

    @functools.cached_property
    def head_module(self) -> fx.GraphModule:
        """From the image to the tensors of the cut (to the answer for ``()``)."""
        return self.graph.compile("Head", (INPUT,), self.cut or (self.graph.answer,))

    @functools.cached_property
    def tail_module(self) -> fx.GraphModule | None:
        """From the tensors of the cut to the answer; None for ``()``. Holds no parameter of the head's."""
        if self.cut == ALL_ON_DEVICE:
            return None
        return self.graph.compile("Tail", self.cut, (self.graph.answer,))

    def head(self, image: Tensor) -> tuple[Tensor, ...]:
        """The tensors that cross the wire, in the order of the cut; for ``()`` the answer alone.

        ``image`` is a task's input, as one value; with the cut ``("input",)`` it is what crosses.
        """
        with torch.inference_mode():
            return self.head_module(image)  # type: ignore[no-any-return]

    def tail(self, tensors: Sequence[Tensor]) -> Tensor:
        """The answer, as one value. Raises ValueError for the cut ``()``, which has no tail."""
        if self.tail_module is None:
            raise ValueError("the cut () leaves nothing for the edge")
        with torch.inference_mode():
            (answer,) = self.tail_module(*tensors)
        return answer  # type: ignore[no-any-return]

    def start(self, tensors: Sequence[Tensor]) -> State:
        """The state that the first segment takes. After the last one it holds only ``graph.answer``."""
        return dict(zip(self.cut, tensors, strict=True))

    def tail_segments(self, target_seconds: float, node_seconds: Sequence[float]) -> tuple[Segment, ...]:
        """The tail in runs of whole nodes of about ``target_seconds`` each; same bits as :meth:`tail`.

        ``node_seconds`` is aligned with ``graph.nodes``. A node longer than the target is a segment of its own.
        The result is cached.
        """
        key = (target_seconds, tuple(node_seconds))
        if key not in self._segments:
            groups = _group(self._tail_nodes(), target_seconds, self._seconds_by_name(node_seconds))
            self._segments[key] = self._build(groups)
        return self._segments[key]

    def node_segments(self) -> tuple[Segment, ...]:
        """The tail with every node a segment of its own, for measuring."""
        return self._build([((name,), 0.0) for name in self._tail_nodes()])

    def _tail_nodes(self) -> list[str]:
        on_device = device_set(self.graph.nodes, self.cut)
        return [node.name for node in self.graph.nodes if node.name not in on_device]

    def _seconds_by_name(self, node_seconds: Sequence[float]) -> dict[str, float]:
        return {node.name: seconds for node, seconds in zip(self.graph.nodes, node_seconds, strict=True)}

    def _build(self, groups: Sequence[tuple[tuple[str, ...], float]]) -> tuple[Segment, ...]:
        nodes = self.graph.nodes
        done = set(device_set(nodes, self.cut))
        live = self.cut
        segments: list[Segment] = []
        for names, seconds in groups:
            done.update(names)
            after = canonical_cut(nodes, done) or (self.graph.answer,)
            members = set(names)
            inputs = tuple(value for value in live if any(value in self._inputs[name] for name in names))
            outputs = tuple(value for value in after if value in members)
            dead = tuple(value for value in live if value not in after)
            module = self.graph.compile("Segment", inputs, outputs)
            segments.append(Segment(names, seconds, module, inputs, outputs, dead))
            live = after
        return tuple(segments)

    @functools.cached_property
    def _inputs(self) -> dict[str, tuple[str, ...]]:
        return {node.name: node.inputs for node in self.graph.nodes}


def _group(
    names: Sequence[str], target_seconds: float, seconds: dict[str, float]
) -> list[tuple[tuple[str, ...], float]]:
    groups: list[tuple[tuple[str, ...], float]] = []
    current: list[str] = []
    spent = 0.0
    for name in names:
        if current and spent + seconds[name] > target_seconds:
            groups.append((tuple(current), spent))
            current, spent = [], 0.0
        current.append(name)
        spent += seconds[name]
    if current:
        groups.append((tuple(current), spent))
    return groups


class SplitModel:
    """A traced model with all its partitions, each built once.

    Make it in the process that later forks: call :meth:`prepare` with the cuts that will be needed, and the children
    share what was built.
    """

    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self._partitions: dict[Cut, Partition] = {}
        self._between: dict[tuple[Cut, Cut], fx.GraphModule] = {}
        self._nodes: dict[str, fx.GraphModule] = {}

    @property
    def model(self) -> LoadedModel:
        return self.graph.model

    @functools.cached_property
    def weights(self) -> VersionedWeights:
        """The versions of this model's weights; all partitions compute with the one in force."""
        return VersionedWeights(self.graph)

    def partition(self, cut: Cut) -> Partition:
        """The partition of ``cut``. Raises ValueError for a cut that is not canonical."""
        if cut not in self._partitions:
            self._partitions[cut] = Partition(self.graph, cut)
        return self._partitions[cut]

    def segment(self, first: Cut, last: Cut) -> fx.GraphModule:
        """What lies between two cuts of a head: from the values of ``first`` to those of ``last`` (for ``()``: the
        answer), as a tuple. Built once. Raises ValueError if ``last`` does not follow from ``first``."""
        key = (first, last)
        if key not in self._between:
            self._between[key] = self.graph.compile("Segment", first, last or (self.graph.answer,))
        return self._between[key]

    def node(self, name: str) -> fx.GraphModule:
        """One node alone: from its inputs, in their order, to its value (a tuple of one). Built once."""
        if name not in self._nodes:
            self._nodes[name] = self.graph.compile("Node", self._inputs[name], (name,))
        return self._nodes[name]

    def run_node(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        """The value of a node from those that it reads; same bits as in the whole model."""
        with torch.inference_mode():
            (value,) = self.node(name)(*[values[read] for read in self._inputs[name]])
        return value  # type: ignore[no-any-return]

    @functools.cached_property
    def _inputs(self) -> dict[str, tuple[str, ...]]:
        return {node.name: node.inputs for node in self.graph.nodes}

    def check_profile(self, profile: ModelProfile, where: str) -> None:
        """Raise InputError unless ``profile`` (read from ``where``) describes this graph, node for node."""
        theirs, ours = [
            [(node.name, () if node.varies else node.output_shape, node.dtype) for node in nodes]
            for nodes in (profile.nodes, self.graph.nodes)
        ]
        if theirs == ours:
            return
        differs = next((node[0] for node, mine in zip(theirs, ours, strict=False) if node != mine), "their number")
        raise InputError(
            f"the profile describes another graph of {self.model.name} (first difference: {differs})",
            where=where,
            value=f"{len(theirs)} nodes, torch {profile.reference_core.torch_version}",
            allowed=f"the {len(ours)} nodes that torch {torch.__version__} traces",
            fix="Measure the model again with `testbed profile MODEL --out FILE`.",
        )

    def prepare(self, cuts: Sequence[Cut]) -> None:
        """Build heads and tails now (3-30 ms each) instead of at the first task that uses them."""
        for cut in cuts:
            partition = self.partition(cut)
            _ = partition.head_module, partition.tail_module


def load_split_model(
    name: str, seed: int, python_path: Sequence[Path] = (), weights: Weights = RANDOM_WEIGHTS
) -> SplitModel:
    """Load and trace a model by name (see :func:`testbed.inference.models.load_model`)."""
    return SplitModel(trace(load_model(name, seed, python_path, weights)))

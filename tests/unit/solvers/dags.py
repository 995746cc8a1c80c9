"""Random graphs and costs for the tests of cuts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from controller.contract import GraphNode
from controller.solvers.dag.mincut import Bools, CutCosts


def node(name: str, *inputs: str) -> GraphNode:
    return GraphNode(name=name, inputs=inputs, output_shape=(1, 2), output_bytes=8, macs=1, parameter_bytes=0)


def chain(length: int) -> tuple[GraphNode, ...]:
    return (node("input"), *(node(f"n{i}", "input" if i == 1 else f"n{i - 1}") for i in range(1, length)))


def random_graph(rng: np.random.Generator, size: int, reach: int = 12) -> tuple[GraphNode, ...]:
    """In topological order; a node reads up to three of the ``reach`` before it, the last whatever nobody read."""
    nodes = [node("input")]
    for index in range(1, size):
        first = max(0, index - reach)
        count = min(index - first, int(rng.integers(1, 4)))
        chosen = {nodes[i].name for i in rng.choice(np.arange(first, index), size=count, replace=False)}
        if index == size - 1:
            chosen |= {found.name for found in nodes} - {name for found in nodes for name in found.inputs}
        order = {found.name: place for place, found in enumerate(nodes)}
        nodes.append(node(f"n{index}", *sorted(chosen, key=order.__getitem__)))
    return tuple(nodes)


def random_blocks(rng: np.random.Generator, count: int) -> tuple[GraphNode, ...]:
    """As models are built: chains, skip connections, parallel branches, dense blocks, and skips over several."""
    nodes = [node("input")]
    ends = ["input"]

    def add(*inputs: str, length: int = 1) -> str:
        """Nodes one after another, the first of which reads ``inputs``."""
        for _ in range(length):
            nodes.append(node(f"n{len(nodes)}", *inputs))
            inputs = (nodes[-1].name,)
        return inputs[0]

    for kind in rng.choice(["chain", "skip", "branches", "dense", "far"], size=count):
        last = ends[-1]
        if kind == "skip":
            last = add(last, add(last, length=int(rng.integers(1, 4))))
        elif kind == "branches":
            last = add(*[add(last, length=int(rng.integers(1, 4))) for _ in range(rng.integers(2, 5))])
        elif kind == "dense":
            features = [last]
            for _ in range(rng.integers(2, 5)):
                features.append(add(*features, length=2))
            last = add(*features)
        elif kind == "far" and len(ends) > 2:
            last = add(ends[rng.integers(len(ends) - 1)], last)
        else:
            last = add(last, length=int(rng.integers(1, 4)))
        ends.append(last)
    return tuple(nodes)


def random_costs(rng: np.random.Generator, size: int, edge_speed: float) -> CutCosts:
    """Device times around 1, the edge ``edge_speed`` times as fast in the mean (but not at every node)."""
    device = rng.exponential(size=size)
    edge = rng.exponential(size=size) / edge_speed
    device[0] = edge[0] = 0.0
    return CutCosts(device, edge, rng.exponential(size=size) * rng.choice([0.2, 1.0, 3.0]), float(rng.exponential(0.2)))


def device_sets(nodes: Sequence[GraphNode]) -> Iterator[Bools]:
    """Every set that holds the input and, with each node, all that it reads."""
    position = {found.name: index for index, found in enumerate(nodes)}
    reads = [[position[name] for name in found.inputs] for found in nodes]

    def extend(inside: list[bool]) -> Iterator[list[bool]]:
        index = len(inside)
        if index == len(nodes):
            yield inside
            return
        yield from extend([*inside, False])
        if all(inside[i] for i in reads[index]):
            yield from extend([*inside, True])

    for inside in extend([True]):
        yield np.array(inside)

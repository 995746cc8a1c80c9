"""The best cut of a model's graph at given stage times: a minimum cut. After DADS (Hu et al., INFOCOM 2019) and DDS.

Terminals are the device and the edge; every value of the model's graph is a vertex; what is cut is paid:

- device -> v: the edge's time of v (v runs on the edge); v -> edge: the device's time of v (v runs on the device);
- v -> reader: the time to carry v across. A value with several readers gets a helper, v -> helper -> readers with
  infinite edges behind it, so that its transfer is paid once;
- reader -> v, infinite: data never returns to the device. [reconstructed: published forms of the construction lack
  these edges, and then the minimum can be a cut that no head and tail can carry out];
- device -> input, infinite: the raw input is on the device. It is a value like any other, with its own bytes.

A cost that any offloading pays once (propagation, the result's way back) belongs to device -> answer: whatever leaves
a node to the edge leaves the answer to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from controller.contract import Cut, GraphNode

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

#: scipy's flows are int32. An infinite edge, and twice a flow, stay below 2^31 together.
_INFINITE = 1 << 30
_LARGEST_FLOW = 1 << 29


@dataclass(frozen=True)
class CutCosts:
    """What a cut may cost; arrays are aligned with the graph's nodes.

    Times are seconds, or any other unit of cost that all of them share. A transfer may be infinite (an outage).
    """

    device: Floats  # of each node on the device; 0 for "input"
    edge: Floats  # of each node on the edge; 0 for "input"
    transfer: Floats  # of carrying each node's value across
    remote: float = 0.0  # once, unless everything is on the device

    @classmethod
    def of(cls, device: ArrayLike, edge: ArrayLike, transfer: ArrayLike, remote: float = 0.0) -> CutCosts:
        """From anything array-like."""
        return cls(
            np.asarray(device, dtype=np.float64),
            np.asarray(edge, dtype=np.float64),
            np.asarray(transfer, dtype=np.float64),
            float(remote),
        )


class MinimumCut(NamedTuple):
    cost: float  # exact: summed from the costs, not from the integers of the flow
    on_device: Bools  # (nodes,)
    cut: Cut


class CutGraph:
    """The structure of one model's graph, made once; :meth:`solve` fills in the costs.

    ``nodes`` in topological order, the input first, the answer last, as in a ModelProfile. Raises ValueError if not.
    """

    def __init__(self, nodes: Sequence[GraphNode]) -> None:
        names = [node.name for node in nodes]
        position = {name: index for index, name in enumerate(names)}
        if len(nodes) < 2 or nodes[0].inputs:
            raise ValueError("a graph needs the input, which reads nothing, as its first node, and an answer")
        self.names = tuple(names)
        readers: list[list[int]] = [[] for _ in nodes]
        for index, node in enumerate(nodes):
            for name in node.inputs:
                if position.get(name, index) >= index:
                    raise ValueError(f"node {node.name!r} reads {name!r}, which is not before it")
                readers[position[name]].append(index)
        self._pairs = np.array(
            [(value, reader) for value, found in enumerate(readers) for reader in found], dtype=np.int64
        ).reshape(-1, 2)
        self._build(readers)

    def _build(self, readers: Sequence[Sequence[int]]) -> None:
        count = len(readers)
        device, edge, first = 0, 1, 2
        helpers = first + count
        edges: dict[tuple[int, int], tuple[int, int]] = {}  # (from, to) -> (kind, node)
        for node in range(count):
            if node:
                edges[device, first + node] = (_EDGE_TIME, node)
                edges[first + node, edge] = (_DEVICE_TIME, node)
            else:
                edges[device, first] = (_FOREVER, 0)
            source = first + node
            if len(readers[node]) > 1:
                edges[source, helpers] = (_TRANSFER, node)
                source, helpers = helpers, helpers + 1
            for reader in readers[node]:
                edges[source, first + reader] = (_TRANSFER if len(readers[node]) == 1 else _FOREVER, node)
                edges[first + reader, first + node] = (_FOREVER, 0)
        for start, end in list(edges):  # scipy wants every edge both ways: it adds what is missing, at each call
            edges.setdefault((end, start), (_NOTHING, 0))
        ordered = sorted(edges)
        rows = np.array([start for start, _ in ordered])
        kinds = np.array([edges[key][0] for key in ordered])
        columns = np.array([end for _, end in ordered], dtype=np.int32)
        starts = np.searchsorted(rows, np.arange(helpers + 1)).astype(np.int32)
        self._matrix = csr_array((np.zeros_like(columns), columns, starts), shape=(helpers, helpers))
        #: where each edge's capacity is found in (edge times, device times, transfers, forever, nothing)
        offsets = np.array([0, count, 2 * count, 3 * count, 3 * count + 1])
        nodes = np.array([edges[key][1] for key in ordered])
        self._from = offsets[kinds] + np.where(kinds < _FOREVER, nodes, 0)

    def cost(self, costs: CutCosts, on_device: Bools) -> float:
        """What a device set costs; it must hold the input and everything that its nodes read."""
        total = float(costs.device[on_device].sum() + costs.edge[~on_device].sum())
        crossing = self.crossing(on_device)
        if crossing.size:
            total += float(costs.transfer[crossing].sum()) + costs.remote
        return total

    def cut(self, on_device: Bools) -> Cut:
        """The canonical cut of a device set; ``()`` for all nodes."""
        return tuple(self.names[index] for index in self.crossing(on_device))

    def crossing(self, on_device: Bools) -> NDArray[np.int64]:
        """Indices of the values that cross, in the order of the nodes; none if everything is on the device."""
        values, readers = self._pairs[:, 0], self._pairs[:, 1]
        return np.unique(values[on_device[values] & ~on_device[readers]])

    def solve(self, costs: CutCosts, unit: float | None = None) -> MinimumCut:
        """The cheapest cut; of several, the one with the smallest device set.

        Costs are rounded to multiples of ``unit``; None takes the finest that fits, about 2e-9 of the cost of the
        better of "all on the device" and "all on the edge", which no minimum exceeds. Raises OverflowError where that
        cost does not fit ``unit`` in 32 bits, and ValueError for costs that are negative or not a number, or if
        neither of the two is finite.
        """
        count = len(self.names)
        table = np.concatenate([costs.edge, costs.device, costs.transfer, (np.inf, 0.0)])
        if table.size != 3 * count + 2:
            raise ValueError(f"costs need one entry for each of the {count} nodes")
        if not (table.min() >= 0 and costs.remote >= 0):
            raise ValueError("costs of a cut must be numbers that are not negative")
        table[count - 1] += costs.remote
        bound = float(min(table[count : 2 * count].sum(), table[:count].sum() + costs.transfer[0]))
        if bound == np.inf:
            raise ValueError("neither everything on the device nor everything on the edge has a finite cost")
        if bound == 0.0:
            on_device = np.full(len(self.names), costs.device.sum() == 0.0)
            on_device[0] = True
            return MinimumCut(0.0, on_device, self.cut(on_device))
        if unit is None:
            unit = bound / _LARGEST_FLOW
        elif bound / unit > _LARGEST_FLOW:
            raise OverflowError(
                f"a cut of cost {bound:g} in units of {unit:g} needs {bound / unit:.3g} steps; "
                f"at most {_LARGEST_FLOW} fit: take a unit of {bound / _LARGEST_FLOW:.3g} or more"
            )
        # No minimum pays for an edge above the bound, so that capping it there changes nothing.
        scaled = np.minimum(np.rint(table / unit), _LARGEST_FLOW + 1)
        scaled[-2] = _INFINITE
        capacity = scaled.astype(np.int32)[self._from]
        self._matrix.data = capacity
        flow = maximum_flow(self._matrix, 0, 1, method="dinic").flow.data
        on_device = self._reached(capacity - flow > 0)[2 : 2 + count]
        return MinimumCut(self.cost(costs, on_device), on_device, self.cut(on_device))

    def _reached(self, open_edges: Bools) -> Bools:
        """Which vertices the device's terminal reaches over edges that the flow has not filled."""
        ends = np.zeros(open_edges.size + 1, dtype=np.int32)
        np.cumsum(open_edges, out=ends[1:])
        columns = self._matrix.indices[open_edges]
        shape = self._matrix.shape
        graph = csr_array((np.ones(columns.size), columns, ends[self._matrix.indptr]), shape=shape)
        reached = np.zeros(shape[0], dtype=bool)
        reached[breadth_first_order(graph, 0, return_predecessors=False)] = True
        return reached


_EDGE_TIME, _DEVICE_TIME, _TRANSFER, _FOREVER, _NOTHING = range(5)

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

Where nodes follow one another they share two vertices (:mod:`controller.solvers.dag.runs`): ResNet-50's 177 nodes make
a flow of 32 vertices, DenseNet-121's 433 one of 4. The cuts are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from controller.compiled import compiled
from controller.contract import Cut, GraphNode
from controller.solvers.dag.runs import Runs

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
        for index, node in enumerate(nodes):
            for name in node.inputs:
                if position.get(name, index) >= index:
                    raise ValueError(f"node {node.name!r} reads {name!r}, which is not before it")
        inputs = [[position[name] for name in node.inputs] for node in nodes]
        self._readers = np.repeat(np.arange(len(nodes)), [len(read) for read in inputs])
        self._values = np.array([value for read in inputs for value in read], dtype=np.int64)
        self._runs = Runs.of(inputs)
        #: No minimum exceeds the bound that _LARGEST_FLOW stands for by more than the rounding of each node's costs, so
        #: that capping costs here changes nothing. Sums of whole numbers of this size are exact in float64.
        self._most = float(_LARGEST_FLOW + 3 * len(nodes))
        self._lay_out()
        self._build()

    def _lay_out(self) -> None:
        """Nodes run by run: what :meth:`_table` needs to sum along runs."""
        runs, last_readers, run_of = self._runs.runs, self._runs.last_readers, self._runs.run_of
        count = len(self.names)
        self._order = np.concatenate([np.array(run, dtype=np.int64) for run in runs])
        place = np.empty(count, dtype=np.int64)
        place[self._order] = np.arange(count)
        lengths = np.array([len(run) for run in runs])
        ends = np.cumsum(lengths)  # one past each run
        self._starts = ends - lengths
        self._run_at = np.repeat(np.arange(len(runs)), lengths)  # of each place
        self._inner = np.flatnonzero(lengths > 1)  # runs that can be cut inside
        #: a value is under way from its own place to its reader's, or past its run's end if that reads it no more
        until = np.repeat(ends, lengths)
        leaving: dict[tuple[int, tuple[int, ...]], list[int]] = {}  # (run, runs that read) -> places of values
        for value, readers in enumerate(last_readers):
            if len(readers) == 1 and run_of[readers[0]] == run_of[value]:
                until[place[value]] = place[readers[0]]
            elif readers:
                aims = tuple(sorted(run_of[reader] for reader in readers))
                leaving.setdefault((run_of[value], aims), []).append(int(place[value]))
        self._leaving = tuple(leaving)
        sent = list(leaving.values())
        self._sent = np.array([one for group in sent for one in group], dtype=np.int64)
        self._sent_starts = np.cumsum([0, *(len(group) for group in sent)])[:-1]
        by_end = np.argsort(until, kind="stable")
        self._arrived = np.searchsorted(until[by_end], np.arange(count), side="right")  # values read by each place
        #: rows of (device times, edge times, transfers, transfers by their end) in the costs one after another
        order = self._order
        self._rows = np.stack([count + order, order, 2 * count + order, 2 * count + order[by_end]])
        #: pairs of (a run's first place, its last), which reduceat takes the least of, the last one left out
        self._inside = np.stack([self._starts, ends - 1], axis=1)[self._inner].ravel()
        self._last = ends - 1

    def _build(self) -> None:
        runs = len(self._runs.runs)
        inner = {int(run): number for number, run in enumerate(self._inner)}
        device, edge, first = 0, 1, 2
        tails = {run: first + runs + number for run, number in inner.items()}  # else a run's first node is its last
        self._tails = np.array([tails.get(run, first + run) for run in range(runs)])
        helpers = first + runs + len(inner)
        edges: dict[tuple[int, int], tuple[int, int]] = {}  # (from, to) -> (kind, number within it)
        for run in range(runs):
            head, tail = first + run, int(self._tails[run])
            edges[device, head] = (_EDGE_TIME, run) if run else (_FOREVER, 0)
            edges[tail, edge] = (_DEVICE_TIME, run)
            if run in inner:
                edges[head, tail] = (_INSIDE, inner[run])
                edges[tail, head] = (_FOREVER, 0)
        for later, earlier in self._runs.after:
            edges[first + later, int(self._tails[earlier])] = (_FOREVER, 0)
        for number, (run, aims) in enumerate(self._leaving):
            source = int(self._tails[run])
            if len(aims) > 1:
                edges[source, helpers] = (_TRANSFER, number)
                source, helpers = helpers, helpers + 1
            for aim in aims:
                edges[source, first + aim] = (_TRANSFER, number) if len(aims) == 1 else (_FOREVER, 0)
        for start, end in list(edges):  # scipy wants every edge both ways: it adds what is missing, at each call
            edges.setdefault((end, start), (_NOTHING, 0))
        ordered = sorted(edges)
        rows = np.array([start for start, _ in ordered])
        kinds = np.array([edges[key][0] for key in ordered])
        columns = np.array([end for _, end in ordered], dtype=np.int32)
        starts = np.searchsorted(rows, np.arange(helpers + 1)).astype(np.int32)
        self._matrix = csr_array((np.zeros_like(columns), columns, starts), shape=(helpers, helpers))
        #: where each edge's capacity is found in (edge times, device times, inside, transfers, forever, nothing)
        sizes = [0, runs, runs, len(inner), len(self._leaving), 1]
        self._from = np.cumsum(sizes)[kinds] + np.array([edges[key][1] for key in ordered])

    def cost(self, costs: CutCosts, on_device: Bools) -> float:
        """What a device set costs; it must hold the input and everything that its nodes read."""
        return self._priced(costs, on_device, self.crossing(on_device))

    def _priced(self, costs: CutCosts, on_device: Bools, crossing: NDArray[np.int64]) -> float:
        total = float(costs.device[on_device].sum() + costs.edge[~on_device].sum())
        if crossing.size:
            total += float(costs.transfer[crossing].sum()) + costs.remote
        return total

    def cut(self, on_device: Bools) -> Cut:
        """The canonical cut of a device set; ``()`` for all nodes."""
        return tuple(self.names[index] for index in self.crossing(on_device))

    def crossing(self, on_device: Bools) -> NDArray[np.int64]:
        """Indices of the values that cross, in the order of the nodes; none if everything is on the device."""
        read_at_edge = np.zeros(on_device.size, dtype=bool)
        read_at_edge[self._values[~on_device[self._readers]]] = True
        return np.flatnonzero(read_at_edge & on_device)

    def solve(self, costs: CutCosts, unit: float | None = None) -> MinimumCut:
        """The cheapest cut; of several, the one with the smallest device set.

        Costs are rounded to multiples of ``unit``; None takes the finest that fits, about 2e-9 of the cost of the
        better of "all on the device" and "all on the edge", which no minimum exceeds. Raises OverflowError where that
        cost does not fit ``unit`` in 32 bits, and ValueError for costs that are negative or not a number, or if
        neither of the two is finite.
        """
        count = len(self.names)
        table = np.concatenate([costs.edge, costs.device, costs.transfer])
        if table.size != 3 * count:
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
        table /= unit
        np.rint(table, out=table)
        np.minimum(table, self._most, out=table)
        capacity, inside = self._capacities(table)
        self._matrix.data = capacity
        flow = maximum_flow(self._matrix, 0, 1, method="dinic").flow.data
        reached = _reached(self._matrix.indptr, self._matrix.indices, (capacity - flow) > 0)
        on_device = self._unfolded(reached, inside)
        crossing = self.crossing(on_device)
        cut = tuple(self.names[index] for index in crossing)
        return MinimumCut(self._priced(costs, on_device, crossing), on_device, cut)

    def _capacities(self, table: Floats) -> tuple[NDArray[np.int32], Floats]:
        """Of all edges, and what a cut behind each place costs within the place's run."""
        count = len(self.names)
        sums = np.zeros((4, count + 1))
        np.cumsum(table[self._rows], axis=1, out=sums[:, 1:])
        device, edge, transfer, read = sums
        begins, ends = self._starts, self._last + 1
        device_times, edge_times = device[ends] - device[begins], edge[ends] - edge[begins]
        under_way = transfer[1:] - read[self._arrived]
        inside = device[1:] - edge[1:] + under_way + (edge[ends] - device[begins])[self._run_at]
        least = np.minimum.reduceat(inside, self._inside)[::2] if self._inside.size else inside[:0]
        sent = table[2 * count + self._order[self._sent]]
        leaving = np.add.reduceat(sent, self._sent_starts) if sent.size else sent
        every = np.concatenate([edge_times, device_times, least, leaving, _CONSTANTS])
        np.minimum(every, self._most, out=every)
        every[-2] = _INFINITE
        return every.astype(np.int32)[self._from], inside

    def _unfolded(self, reached: Bools, inside: Floats) -> Bools:
        """The device set, by node, of the vertices on the device's side."""
        runs = self._last.size
        heads, tails = reached[2 : 2 + runs], reached[self._tails]
        last = np.where(tails, self._last, self._starts - 1)
        for run in np.flatnonzero(heads & ~tails):
            begin = self._starts[run]
            last[run] = begin + int(inside[begin : self._last[run]].argmin())
        on_device = np.empty(len(self.names), dtype=bool)
        on_device[self._order] = np.arange(len(self.names)) <= last[self._run_at]
        return on_device


@compiled
def _reached(starts: NDArray[np.int32], ends: NDArray[np.int32], open_edges: Bools) -> Bools:
    """Which vertices the first one reaches over edges that the flow has not filled.

    (scipy's search wants a matrix made of those edges, which takes ten times as long as the search.)
    """
    reached = np.zeros(starts.size - 1, dtype=np.bool_)
    reached[0] = True
    waiting = [0]
    while waiting:
        vertex = waiting.pop()
        for number in range(starts[vertex], starts[vertex + 1]):
            if open_edges[number] and not reached[ends[number]]:
                reached[ends[number]] = True
                waiting.append(ends[number])
    return reached


_EDGE_TIME, _DEVICE_TIME, _INSIDE, _TRANSFER, _FOREVER, _NOTHING = range(6)
_CONSTANTS = np.array([0.0, 0.0])  # forever, which is put in later, and nothing

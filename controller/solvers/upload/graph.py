"""Uploading for models that are no chain: a schedule of a graph's vertices on device, edge and both links.

After MJOA-MU (see :mod:`controller.solvers.upload.plan`), our reconstruction [ours]. Device and edge work through their
vertices in topological order. Each output crosses a link at most once per direction, from the moment at which it is
there, first come first served; the parameters of the edge's vertices go up in topological order on what the outputs
leave of the link. That is what UE and edge do (:mod:`testbed.mechanisms.uploading.upload_sender`), and
:func:`graph_seconds` follows it from event to event.

No recursion over the vertices gives it: a later vertex of the device may be ready before an earlier one's parameters
are through, and takes the link from them. The search for a plan therefore goes by a recursion for an uplink that always
serves what the earliest vertex of the edge still lacks, and the plans that it leaves are compared by what they take.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controller.solvers.upload.plan import UploadPlan

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class UploadGraph:
    """One query. Vertices are in topological order; the last makes the answer. Arrays are (vertices,).

    ``inputs`` of a vertex are numbers of earlier vertices; -1 is the raw input, which is on the device.
    """

    inputs: tuple[tuple[int, ...], ...]
    device_seconds: Floats
    edge_seconds: Floats
    output_bits: Floats
    parameter_bits: Floats
    input_bits: float
    up_bits_per_second: float
    down_bits_per_second: float
    up_delay_seconds: float = 0.0  # of propagation
    down_delay_seconds: float = 0.0

    def __post_init__(self) -> None:
        for number, sources in enumerate(self.inputs):
            if not sources or not all(-1 <= source < number for source in sources):
                raise ValueError(f"vertex {number} reads {sources}; it needs inputs among -1 to {number - 1}")

    def bits(self, source: int) -> float:
        return self.input_bits if source < 0 else float(self.output_bits[source])


class _State(NamedTuple):
    """After some vertices, by the recursion. ``ready`` of what a later vertex reads: when it was finished."""

    device_free: float
    edge_free: float
    uplink: float  # all of its work so far
    features_up: float  # when the last feature is over
    features_down: float
    ready: tuple[float, ...]


class _Key(NamedTuple):
    """What two states must share to be compared; by live value: its side, and whether the other side has it too."""

    sides: tuple[int, ...]
    copied: tuple[bool, ...]


_START = (_Key((0,), (False,)), _State(0.0, 0.0, 0.0, 0.0, 0.0, (0.0,)))


@dataclass
class _Uplink:
    """Outputs first come, first served; parameters, in order, on what they leave. Times are when bits have left."""

    lacking: deque[tuple[int, float]]  # vertices, and seconds of their parameters that are left
    free: float = 0.0  # of outputs
    reached: float = 0.0  # until when parameters were sent
    sent: dict[int, float] = field(default_factory=dict)

    def output(self, ready: float, seconds: float) -> float:
        """When one that is ready now, later than all before it, is through."""
        now = max(self.reached, self.free)
        while self.lacking and now + self.lacking[0][1] <= ready:
            vertex, left = self.lacking.popleft()
            now = self.sent[vertex] = now + left
        if self.lacking and now < ready:
            vertex, left = self.lacking[0]
            self.lacking[0] = vertex, left - (ready - now)
            now = ready
        self.reached = now
        self.free = max(self.free, ready) + seconds
        return self.free

    def parameters(self, vertex: int) -> float:
        """When the edge's vertex has its own, unless more outputs come before."""
        now = max(self.reached, self.free)
        for number, left in self.lacking:
            if number > vertex:
                break
            now += left
            if number == vertex:
                return now
        return self.sent.get(vertex, 0.0)


def graph_seconds(graph: UploadGraph, sites: ArrayLike) -> float:
    """Latency of a plan (0: device, 1: edge, by vertex), as UE and edge carry it out."""
    side_of = np.asarray(sites, dtype=np.int64).tolist()
    last = len(side_of) - 1
    reads = zip(side_of, graph.inputs, strict=True)
    crossing = {(last, 0), *((source, side) for side, sources in reads for source in sources)}
    loads = graph.parameter_bits / graph.up_bits_per_second
    uplink = _Uplink(deque((v, float(loads[v])) for v, side in enumerate(side_of) if side and loads[v] > 0))
    downlink = 0.0
    there: tuple[dict[int, float], dict[int, float]] = {}, {}  # by side: outputs, and since when
    seconds = (graph.device_seconds.tolist(), graph.edge_seconds.tolist())
    queues = tuple(deque(v for v, side in enumerate(side_of) if side == at) for at in (0, 1))
    free = [0.0, 0.0]

    def made(value: int, side: int, moment: float) -> None:
        nonlocal downlink
        there[side][value] = moment
        if (value, 1 - side) not in crossing:
            return
        if side == 0:
            sent = uplink.output(moment, graph.bits(value) / graph.up_bits_per_second)
            there[1][value] = sent + graph.up_delay_seconds
        else:
            downlink = max(downlink, moment) + graph.bits(value) / graph.down_bits_per_second
            there[0][value] = downlink + graph.down_delay_seconds

    def ends(side: int) -> float:
        """When the next vertex of a side is over; inf while it waits for one of the other side."""
        if not queues[side]:
            return math.inf
        vertex = queues[side][0]
        start = max(free[side], *(there[side].get(source, math.inf) for source in graph.inputs[vertex]))
        if side == 1 and loads[vertex] > 0:
            start = max(start, uplink.parameters(vertex) + graph.up_delay_seconds)
        return float(start + seconds[side][vertex])

    made(-1, 0, 0.0)
    while last not in there[0]:
        both = ends(0), ends(1)
        side = int(both[1] < both[0])
        free[side] = both[side]
        made(queues[side].popleft(), side, both[side])
    return there[0][last]


def plan_graph_upload(graph: UploadGraph, beam: int = 64) -> UploadPlan:
    """A plan of little :func:`graph_seconds`: the best of those that a search by the recursion leaves.

    States that agree on where every live value is are compared; one is dropped if another is no later in every number.
    ``beam``: so many are kept, spread along the uplink's work; 0: all.
    """
    count, lives = len(graph.inputs), _lives(graph)
    rest = np.concatenate([np.cumsum(np.minimum(graph.device_seconds, graph.edge_seconds)[::-1])[::-1], [0.0]])
    all_device, all_edge = (np.full(count, site, dtype=np.int64) for site in (0, 1))
    best = min((graph_seconds(graph, sites), tuple(sites.tolist())) for sites in (all_device, all_edge))
    level: dict[_Key, list[tuple[_State, tuple[int, ...]]]] = {_START[0]: [(_START[1], ())]}
    labels = 0
    for vertex in range(count):
        following: dict[_Key, list[tuple[_State, tuple[int, ...]]]] = {}
        for key, states in level.items():
            for state, sites in states:
                for site in (0, 1):
                    labels += 1
                    next_key, reached = _step(graph, lives, vertex, site, key, state)
                    if _bound(reached, rest[vertex + 1]) < best[0]:
                        following.setdefault(next_key, []).append((reached, (*sites, site)))
        level = {key: _undominated(states) for key, states in following.items()}
        if beam and sum(map(len, level.values())) > beam:
            level = _narrowed(level, beam)
    for states in level.values():
        for _, sites in states:
            best = min(best, (graph_seconds(graph, sites), sites))
    return UploadPlan(np.array(best[1], dtype=np.int64), best[0], labels)


def _lives(graph: UploadGraph) -> list[tuple[int, ...]]:
    """Before each vertex and at the end, the values that it or a later one reads (the answer included), in order."""
    count = len(graph.inputs)
    last = {count - 1: count}
    for vertex, sources in enumerate(graph.inputs):
        last.update(dict.fromkeys(sources, vertex))
    last[count - 1] = count
    return [tuple(v for v in range(-1, vertex) if last.get(v, -2) >= vertex) for vertex in range(count + 1)]


def _step(
    graph: UploadGraph, lives: Sequence[tuple[int, ...]], vertex: int, site: int, key: _Key, state: _State
) -> tuple[_Key, _State]:
    live = lives[vertex]
    place = {value: index for index, value in enumerate(live)}
    copied = list(key.copied)
    device_free, edge_free, uplink, features_up, features_down, ready = state
    for source in graph.inputs[vertex]:
        at = place[source]
        if key.sides[at] == site or copied[at]:
            continue
        copied[at] = True
        if site == 1:
            seconds = graph.bits(source) / graph.up_bits_per_second
            features_up = max(features_up, ready[at]) + seconds
            uplink += seconds
        else:
            features_down = max(features_down, ready[at]) + graph.bits(source) / graph.down_bits_per_second
    if site == 1:
        uplink += float(graph.parameter_bits[vertex]) / graph.up_bits_per_second
        arrived = max(features_up, uplink) + graph.up_delay_seconds
        edge_free = finish = max(edge_free, arrived) + float(graph.edge_seconds[vertex])
    else:
        arrived = features_down + graph.down_delay_seconds if features_down > 0.0 else 0.0
        device_free = finish = max(device_free, arrived) + float(graph.device_seconds[vertex])
    kept = [index for index, value in enumerate(live) if value in lives[vertex + 1]]
    sides = [key.sides[index] for index in kept]
    flags = [copied[index] for index in kept]
    # of what both sides have the time no longer matters
    times = [0.0 if copied[index] else ready[index] for index in kept]
    if vertex in lives[vertex + 1]:
        sides.append(site)
        flags.append(False)
        times.append(finish)
    return (
        _Key(tuple(sides), tuple(flags)),
        _State(device_free, edge_free, uplink, features_up, features_down, tuple(times)),
    )


def _bound(state: _State, rest_seconds: float) -> float:
    """No plan ends earlier: what is left shares two processors that are free from some time on."""
    return max(state.device_free, state.edge_free, (state.device_free + state.edge_free + rest_seconds) / 2)


def _undominated(states: list[tuple[_State, tuple[int, ...]]]) -> list[tuple[_State, tuple[int, ...]]]:
    numbers = np.array([(*state[:5], *state.ready) for state, _ in states])
    kept: list[int] = []
    for index in np.lexsort(numbers.T[::-1]):
        if not kept or not np.any(np.all(numbers[kept] <= numbers[index], axis=1)):
            kept.append(int(index))
    return [states[index] for index in kept]


def _narrowed(
    level: dict[_Key, list[tuple[_State, tuple[int, ...]]]], beam: int
) -> dict[_Key, list[tuple[_State, tuple[int, ...]]]]:
    """The states that end first in each of ``beam`` parts of the range of uplink work: spread along the front."""
    every = [(state, sites, key) for key, states in level.items() for state, sites in states]
    every.sort(key=lambda one: (one[0].uplink, one[1]))
    result: dict[_Key, list[tuple[_State, tuple[int, ...]]]] = {}
    for part in np.array_split(np.arange(len(every)), beam):
        state, sites, key = min(
            (every[index] for index in part), key=lambda one: (max(one[0].device_free, one[0].edge_free), one[1])
        )
        result.setdefault(key, []).append((state, sites))
    return result

"""Which layers of a chain an edge should run that has to be sent their parameters first, while inference goes on.

After H. Yang et al., "MJOA-MU: End-to-edge collaborative computation for DNN inference based on model uploading"
(Computer Networks 2023); the recursion, the pruning and the parameters are our reconstruction [ours].

The parameters of all layers that the edge will run leave the device from time 0 on, in the order of the layers; what a
layer needs as input goes before parameters. Device, edge, uplink and downlink each do one thing at a time. A plan is a
site per layer, 0: device, 1: edge; it may change sides several times.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controller.compiled import compiled

Floats = NDArray[np.float64]
Sites = NDArray[np.int64]

#: Of a chain whose plans can all be tried: 0.1 s.
MOST_LAYERS = 20
#: Labels that are kept per level and side when no beam is asked for; the chains of real models need some dozens.
MOST_LABELS = 2048


@dataclass(frozen=True)
class UploadChain:
    """One query. Arrays are (layers,), ``output_bits`` (layers + 1,) with the input's first."""

    device_seconds: Floats
    edge_seconds: Floats
    output_bits: Floats
    parameter_bits: Floats  # 0: the edge has them already
    up_bits_per_second: float
    down_bits_per_second: float
    up_delay_seconds: float = 0.0  # of propagation
    down_delay_seconds: float = 0.0

    def __post_init__(self) -> None:
        layers = len(self.device_seconds)
        if len(self.edge_seconds) != layers or len(self.parameter_bits) != layers or layers < 1:
            raise ValueError("device, edge and parameters need one value per layer, and a layer")
        if len(self.output_bits) != layers + 1:
            raise ValueError("output_bits needs the input and one value per layer")
        if not (self.up_bits_per_second > 0 and self.down_bits_per_second > 0):
            raise ValueError("rates must be above 0")

    def cached(self, there: ArrayLike) -> UploadChain:
        """The query of a model of which the edge has some layers (a bool per layer)."""
        return replace(self, parameter_bits=np.where(np.asarray(there, dtype=bool), 0.0, self.parameter_bits))

    @property
    def parts(self) -> tuple[Floats, Floats, Floats, Floats, Floats, float, float]:
        """Seconds: device, edge, data up, data down until it is there (layers + 1 each), parameters; delay up, down."""
        up, down = self.up_bits_per_second, self.down_bits_per_second
        return (
            np.ascontiguousarray(self.device_seconds, dtype=np.float64),
            np.ascontiguousarray(self.edge_seconds, dtype=np.float64),
            np.ascontiguousarray(self.output_bits / up, dtype=np.float64),
            np.ascontiguousarray(self.output_bits / down + self.down_delay_seconds, dtype=np.float64),
            np.ascontiguousarray(self.parameter_bits / up, dtype=np.float64),
            float(self.up_delay_seconds),
            float(self.down_delay_seconds),
        )


@dataclass(frozen=True)
class UploadPlan:
    """Sites by layer and the latency of the query, in seconds."""

    sites: Sites
    seconds: float
    labels: int = 0  # that were expanded


def pipelined_seconds(chain: UploadChain, sites: ArrayLike) -> float:
    """Latency of a plan while parameters upload behind the data: what an event simulation gives, in closed form."""
    return float(_pipelined(*chain.parts, np.asarray(sites, dtype=np.int64)))


def serial_seconds(chain: UploadChain, sites: ArrayLike) -> float:
    """Latency of a plan that sends each layer's parameters only when its turn has come.

    The device learns so from the edge, and parameters go back: two delays for every layer behind one of the edge.
    """
    return float(_serial(*chain.parts, np.asarray(sites, dtype=np.int64)))


def serial_optimum(chain: UploadChain) -> UploadPlan:
    """The plan of least :func:`serial_seconds`: a shortest path over two states."""
    sites = _serial_optimum(*chain.parts)
    return UploadPlan(sites, serial_seconds(chain, sites))


def single_cut(chain: UploadChain) -> UploadPlan:
    """Neurosurgeon with upload: the best single cut, served serially."""
    layers = len(chain.device_seconds)
    plans = [(np.arange(layers) >= cut).astype(np.int64) for cut in range(layers + 1)]
    best = min(plans, key=lambda sites: serial_seconds(chain, sites))
    return UploadPlan(best, serial_seconds(chain, best))


def exhaustive(chain: UploadChain) -> UploadPlan:
    """The plan of least :func:`pipelined_seconds`, by trying all. Raises ValueError above MOST_LAYERS layers."""
    layers = len(chain.device_seconds)
    if layers > MOST_LAYERS:
        raise ValueError(f"2 ** {layers} plans are too many to try; allowed: up to {MOST_LAYERS} layers")
    sites = _exhaustive(*chain.parts)
    return UploadPlan(sites, pipelined_seconds(chain, sites), 2**layers)


def ionn_plans(chain: UploadChain, base: float = 0.8) -> list[Sites]:
    """IONN (Jeong et al., SoCC 2018): the plans whose layers go up one after the other, each better for more queries.

    Plan j is the serial optimum with parameters at ``base ** j`` of their price, the last at none; no repeats.
    """
    plans: list[Sites] = []
    price = 1.0
    while True:
        cheap = replace(chain, parameter_bits=price * chain.parameter_bits)
        sites = serial_optimum(cheap).sites
        if sites.any() and not (plans and np.array_equal(plans[-1], sites)):
            plans.append(sites)
        if price == 0.0:
            return plans
        price = price * base if price * base > 1e-3 else 0.0


def plan_upload(chain: UploadChain, beam: int = 0) -> UploadPlan:
    """PBT-DP: the plan of least :func:`pipelined_seconds`, by dynamic programming over a pruned binary tree.

    A label after layer l is (finish time, uplink work so far, side). It is dropped if another on its side is no worse
    in both (exact: the recursion grows in both), and if even the faster side for all that follows cannot beat the best
    plan known. ``beam`` above 0 keeps that many labels per side, spread along the Pareto front: near-optimal.
    """
    parts = chain.parts
    layers = len(chain.device_seconds)
    known = [np.zeros(layers, dtype=np.int64), np.ones(layers, dtype=np.int64), _serial_optimum(*parts)]
    start = min(known, key=lambda sites: _pipelined(*parts, sites))
    incumbent = float(_pipelined(*parts, start))
    seconds, sites, labels = _search(*parts, incumbent, beam if beam > 0 else MOST_LABELS)
    if seconds >= incumbent:
        return UploadPlan(start, incumbent, int(labels))
    return UploadPlan(sites, float(seconds), int(labels))


@compiled
def _pipelined(device, edge, up, down, parameters, lag_up, lag_down, sites):  # type: ignore[no-untyped-def]
    now, uplink, side = 0.0, lag_up, 0  # ``uplink``: when the edge has all of its work so far
    for layer in range(sites.shape[0]):
        if sites[layer] == 0:
            if side == 1:
                now += down[layer]
            now += device[layer]
        else:
            uplink += parameters[layer]
            if side == 0:
                uplink += up[layer]
                now += up[layer] + lag_up
            now = max(now, uplink) + edge[layer]
        side = sites[layer]
    return now + down[sites.shape[0]] if side == 1 else now


@compiled
def _exhaustive(device, edge, up, down, parameters, lag_up, lag_down):  # type: ignore[no-untyped-def]
    layers = device.shape[0]
    sites, best = np.zeros(layers, dtype=np.int64), np.zeros(layers, dtype=np.int64)
    least = np.inf
    for plan in range(1 << layers):
        for layer in range(layers):
            sites[layer] = (plan >> layer) & 1
        seconds = _pipelined(device, edge, up, down, parameters, lag_up, lag_down, sites)
        if seconds < least:
            least = seconds
            best[:] = sites
    return best


@compiled
def _serial(device, edge, up, down, parameters, lag_up, lag_down, sites):  # type: ignore[no-untyped-def]
    now, side = 0.0, 0
    for layer in range(sites.shape[0]):
        if sites[layer] == 0:
            if side == 1:
                now += down[layer]
            now += device[layer]
        else:
            if side == 0:
                now += up[layer] + lag_up
            elif parameters[layer] > 0.0:
                now += lag_down + lag_up
            now += parameters[layer] + edge[layer]
        side = sites[layer]
    return now + down[sites.shape[0]] if side == 1 else now


@compiled
def _serial_optimum(device, edge, up, down, parameters, lag_up, lag_down):  # type: ignore[no-untyped-def]
    layers = device.shape[0]
    came = np.zeros((layers, 2), dtype=np.int64)  # side before each layer
    at_device, at_edge = 0.0, np.inf
    for layer in range(layers):
        stay, back = at_device, at_edge + down[layer]
        came[layer, 0] = 1 if back < stay else 0
        over, on = at_device + up[layer] + lag_up, at_edge
        if parameters[layer] > 0.0:
            on += lag_down + lag_up
        came[layer, 1] = 0 if over < on else 1
        at_device = min(stay, back) + device[layer]
        at_edge = min(over, on) + parameters[layer] + edge[layer]
    sites = np.empty(layers, dtype=np.int64)
    side = 1 if at_edge + down[layers] < at_device else 0
    for layer in range(layers - 1, -1, -1):
        sites[layer] = side
        side = came[layer, side]
    return sites


@compiled
def _search(device, edge, up, down, parameters, lag_up, lag_down, incumbent, width):  # type: ignore[no-untyped-def]
    layers = device.shape[0]
    rest = np.zeros(layers + 1)
    for layer in range(layers - 1, -1, -1):
        rest[layer] = rest[layer + 1] + min(device[layer], edge[layer])
    parents = [np.zeros(1, dtype=np.int64)]
    marks = [np.zeros(1, dtype=np.int64)]
    now, uplink, side = np.zeros(1), np.full(1, lag_up), np.zeros(1, dtype=np.int64)
    expanded = 0
    for layer in range(layers):
        count = now.shape[0]
        expanded += 2 * count
        next_now, next_uplink = np.empty((2, count)), np.empty((2, count))
        for label in range(count):
            back = down[layer] if side[label] == 1 else 0.0
            next_now[0, label] = now[label] + back + device[layer]
            next_uplink[0, label] = uplink[label]
            over = up[layer] if side[label] == 0 else 0.0
            work = uplink[label] + parameters[layer] + over
            lag = lag_up if side[label] == 0 else 0.0
            next_now[1, label] = max(now[label] + over + lag, work) + edge[layer]
            next_uplink[1, label] = work
        kept_from, kept_site = np.empty(2 * count, dtype=np.int64), np.empty(2 * count, dtype=np.int64)
        kept = 0
        for site in range(2):
            order = np.argsort(next_now[site])
            least, first = np.inf, kept
            for label in order:
                bound = next_now[site, label] + rest[layer + 1]
                if next_uplink[site, label] < least and bound < incumbent:
                    least = next_uplink[site, label]
                    kept_from[kept], kept_site[kept] = label, site
                    kept += 1
            found = kept - first
            if found > width:  # spread along the front, both ends included
                for index in range(width):
                    source = first + (index * (found - 1)) // max(width - 1, 1)
                    kept_from[first + index], kept_site[first + index] = kept_from[source], kept_site[source]
                kept = first + width
        if kept == 0:
            return np.inf, np.zeros(layers, dtype=np.int64), expanded
        parents.append(kept_from[:kept].copy())
        marks.append(kept_site[:kept].copy())
        now, uplink, side = np.empty(kept), np.empty(kept), kept_site[:kept].copy()
        for label in range(kept):
            now[label] = next_now[kept_site[label], kept_from[label]]
            uplink[label] = next_uplink[kept_site[label], kept_from[label]]
    best, seconds = 0, np.inf
    for label in range(now.shape[0]):
        total = now[label] + down[layers] if side[label] == 1 else now[label]
        if total < seconds:
            best, seconds = label, total
    sites = np.empty(layers, dtype=np.int64)
    for layer in range(layers, 0, -1):
        sites[layer - 1] = marks[layer][best]
        best = parents[layer][best]
    return seconds, sites, expanded

"""Uplink bandwidth and edge compute among UEs that upload their models: the alternating part of MJOA-MU, "ARA".

Our reading of the paper's asynchronous resource allocation [ours]: one pair of UEs exchanges one resource at a time,
and their plans are made anew at once. The latency of all never rises from move to move.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from controller.solvers.upload.plan import UploadChain, plan_upload, serial_optimum

Floats = NDArray[np.float64]
Objective = Literal["mean", "max"]
Planner = Callable[[UploadChain], float]

#: Parts of an equal share that a move takes, from coarse to fine [ours].
STEPS = (0.25, 0.12, 0.06, 0.03, 0.015)
#: A move must gain this part of the mean latency: less is rounding.
_LEAST_GAIN_RATIO = 1e-9
_BANDWIDTH, _COMPUTE = 0, 1


@dataclass(frozen=True)
class UploadUe:
    """A UE's query; layers as in :class:`UploadChain`."""

    device_seconds: Floats
    edge_work: Floats  # in the unit of the edge's capacity times seconds
    output_bits: Floats
    parameter_bits: Floats
    bits_per_second_per_hz: float
    down_bits_per_second: float
    up_delay_seconds: float = 0.0  # of propagation
    down_delay_seconds: float = 0.0
    #: received power over noise density: the rate is then Shannon's, and ``bits_per_second_per_hz`` what is typical
    quality_hz: float | None = None

    def up_bits_per_second(self, bandwidth_hz: float) -> float:
        if self.quality_hz is None:
            return bandwidth_hz * self.bits_per_second_per_hz
        return bandwidth_hz * math.log2(1.0 + self.quality_hz / bandwidth_hz)

    @property
    def local_seconds(self) -> float:
        return float(self.device_seconds.sum())

    def chain(self, bandwidth_hz: float, capacity: float) -> UploadChain:
        """With these shares, both above 0."""
        return UploadChain(
            device_seconds=self.device_seconds,
            edge_seconds=self.edge_work / capacity,
            output_bits=self.output_bits,
            parameter_bits=self.parameter_bits,
            up_bits_per_second=self.up_bits_per_second(bandwidth_hz),
            down_bits_per_second=self.down_bits_per_second,
            up_delay_seconds=self.up_delay_seconds,
            down_delay_seconds=self.down_delay_seconds,
        )


@dataclass(frozen=True)
class Shares:
    """Arrays are (UEs,)."""

    bandwidth_hz: Floats
    capacity: Floats
    seconds: Floats  # latency of each UE's plan
    moves: int

    def value(self, objective: Objective) -> float:
        return float(self.seconds.mean() if objective == "mean" else self.seconds.max())


def pipelined(chain: UploadChain) -> float:
    """Latency of PBT-DP's plan."""
    return plan_upload(chain).seconds


def serial(chain: UploadChain) -> float:
    """Latency of the best plan without pipelining."""
    return serial_optimum(chain).seconds


class _Latencies:
    """Each UE's latency by its shares; every plan is made once."""

    def __init__(self, ues: Sequence[UploadUe], planner: Planner) -> None:
        self._ues, self._planner = ues, planner
        self._known: dict[tuple[int, float, float], float] = {}

    def one(self, ue: int, bandwidth_hz: float, capacity: float) -> float:
        if bandwidth_hz <= 0 or capacity <= 0:
            return self._ues[ue].local_seconds
        key = (ue, bandwidth_hz, capacity)
        if key not in self._known:
            self._known[key] = self._planner(self._ues[ue].chain(bandwidth_hz, capacity))
        return self._known[key]

    def all(self, shares: Floats) -> Floats:
        return np.array([self.one(ue, *shares[:, ue]) for ue in range(shares.shape[1])])


def equal_shares(ues: Sequence[UploadUe], bandwidth_hz: float, capacity: float, planner: Planner = pipelined) -> Shares:
    """Everybody has the same."""
    totals = np.array([[bandwidth_hz], [capacity]])
    return _shares(_Latencies(ues, planner), np.repeat(totals / len(ues), len(ues), axis=1), 0)


def proportional_shares(
    ues: Sequence[UploadUe], bandwidth_hz: float, capacity: float, planner: Planner = pipelined
) -> Shares:
    """Shares in proportion to the square root of the work: the optimum where everything runs on the edge in turn."""
    return _shares(_Latencies(ues, planner), _by_work(ues, bandwidth_hz, capacity), 0)


def allocate_shares(
    ues: Sequence[UploadUe],
    bandwidth_hz: float,
    capacity: float,
    *,
    objective: Objective = "mean",
    planner: Planner = pipelined,
    starts: Iterable[Shares] = (),
    least_ratio: float = 0.0,
) -> Shares:
    """ARA from the best of: shares by work, equal shares for the k UEs that gain most from them (every k), ``starts``.

    The k-subsets leave the corner in which equal shares are too thin for anybody to offload. Nobody gets less than
    ``least_ratio`` of a total, whatever it does with it. Raises ValueError where that is more than there is.
    """
    if not 0 <= least_ratio * len(ues) <= 1 + _LEAST_GAIN_RATIO:
        raise ValueError(f"{len(ues)} UEs cannot have {least_ratio:g} of everything each")
    latencies = _Latencies(ues, planner)
    first = [np.stack([one.bandwidth_hz, one.capacity]) for one in starts]
    first += [_by_work(ues, bandwidth_hz, capacity), *_subsets(ues, bandwidth_hz, capacity, latencies)]
    least = least_ratio * np.array([[bandwidth_hz], [capacity]])
    first = [_raised(shares, least) for shares in first]

    def value(shares: Floats) -> float:
        seconds = latencies.all(shares)
        return float(seconds.mean() if objective == "mean" else seconds.max())

    shares = min(first, key=value).copy()
    moves = 0
    totals = (bandwidth_hz, capacity)
    for part in STEPS:
        while True:
            moved = 0
            for resource in (_BANDWIDTH, _COMPUTE):
                step = part * totals[resource] / len(ues)
                moved += _move(latencies, shares, resource, step, float(least[resource, 0]), objective)
            moves += moved
            if not moved:
                break
    return _shares(latencies, shares, moves)


def _raised(shares: Floats, least: Floats) -> Floats:
    """With nobody under ``least`` (2, 1); what that takes comes from what the others have above it."""
    above = np.maximum(shares - least, 0.0)
    total = shares.sum(axis=1, keepdims=True) - least * shares.shape[1]
    return np.asarray(least + above * (total / np.maximum(above.sum(axis=1, keepdims=True), 1e-300)))


def _move(latencies: _Latencies, shares: Floats, resource: int, step: float, least: float, objective: Objective) -> int:
    """Take one step of a resource from one UE to another if that is better for all. Changes ``shares``; 1 if it did."""
    now = latencies.all(shares)
    more, less = shares.copy(), shares.copy()
    more[resource] += step
    less[resource] -= step
    with_more = latencies.all(more)
    may_give = (less[resource] > 0) & (less[resource] >= least * (1 - _LEAST_GAIN_RATIO))
    with_less = np.where(may_give, latencies.all(less), np.inf)
    rounding = _LEAST_GAIN_RATIO * float(now.mean())
    if objective == "mean":
        gain, loss = now - with_more, with_less - now
        taker = int(np.argmax(gain))
        loss[taker] = np.inf
        giver = int(np.argmin(loss))
        better = gain[taker] > loss[giver] + rounding
    else:
        taker = int(np.argmax(now))
        with_less[taker] = np.inf
        giver = int(np.argmin(with_less))
        others = np.delete(now, [taker, giver]).max(initial=0.0)
        better = max(with_more[taker], with_less[giver], others) < now.max() - rounding
    if better:
        shares[resource, taker] += step
        shares[resource, giver] -= step
    return int(better)


def _subsets(ues: Sequence[UploadUe], bandwidth_hz: float, capacity: float, latencies: _Latencies) -> list[Floats]:
    """Equal shares for the k UEs that gain most from them, nothing for the others, for every k."""
    found = []
    local = np.array([ue.local_seconds for ue in ues])
    for count in range(1, len(ues) + 1):
        share = np.array([[bandwidth_hz / count], [capacity / count]])
        gain = local - latencies.all(np.repeat(share, len(ues), axis=1))
        chosen = np.argsort(-gain, kind="stable")[:count]
        shares = np.zeros((2, len(ues)))
        shares[:, chosen] = share
        found.append(shares)
    return found


def _by_work(ues: Sequence[UploadUe], bandwidth_hz: float, capacity: float) -> Floats:
    sent = np.array([np.sqrt((ue.output_bits[0] + ue.parameter_bits.sum()) / ue.bits_per_second_per_hz) for ue in ues])
    work = np.array([np.sqrt(ue.edge_work.sum()) for ue in ues])
    return np.stack([bandwidth_hz * sent / sent.sum(), capacity * work / work.sum()])


def _shares(latencies: _Latencies, shares: Floats, moves: int) -> Shares:
    return Shares(shares[_BANDWIDTH], shares[_COMPUTE], latencies.all(shares), moves)

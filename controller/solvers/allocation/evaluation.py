"""What given speeds and shares bring, by the formulas: no optimisation, any solver's result or any policy's choice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.model.queueing import tandem_delay_seconds
from controller.solvers.allocation.problem import (
    Allocation,
    AllocationModel,
    Demands,
    FloatArray,
    Limits,
    UeConstants,
    link_rate,
)
from controller.solvers.allocation.shares import LEAST_ARRIVAL_RATE, SMALLEST_PRICE


def evaluate(
    allocation: Allocation, demands: Demands, ues: UeConstants, limits: Limits, model: AllocationModel
) -> Allocation:
    """The same shares with delay, energy, cost and load recomputed from the formulas; infeasible slots
    keep ``inf``, and those that these shares overload get it."""
    rate = np.maximum(demands.arrival_rate_per_second, LEAST_ARRIVAL_RATE)
    sends, tail = demands.wire_bits > 0, demands.tail_seconds > 0
    bits_per_second = link_rate(ues, np.where(sends, allocation.spectrum_hz, 1.0), demands.link_quality)
    with np.errstate(divide="ignore"):  # a dead link takes for ever
        transfer = np.divide(demands.wire_bits, bits_per_second, out=np.zeros(rate.shape), where=sends)
    at_edge = np.divide(demands.tail_seconds, allocation.edge_share, out=np.zeros(rate.shape), where=tail)
    service = np.stack([demands.head_seconds / allocation.device_speed, transfer, at_edge], axis=-1)
    together = (ues.station[:, np.newaxis] == ues.station).astype(np.float64)
    download = demands.download_seconds * (sends @ together)  # the downlink is shared evenly by who offloads
    delay = tandem_delay_seconds(rate, service, model, ues.variability) + demands.constant_seconds + download
    busy = np.minimum(rate[..., np.newaxis] * service, 1.0)
    energy = limits.slot_seconds * (
        ues.kappa * allocation.device_speed**3 * busy[..., 0] + ues.transmit_watts * busy[..., 1]
    )
    price = np.maximum(limits.v * demands.weight, SMALLEST_PRICE)  # of an overload that nobody minds, too
    cost = np.sum(price * delay + demands.queue_joules * energy, axis=1)
    cost += limits.edge_square_price * np.sum(allocation.edge_share**3 * busy[..., 2], axis=1)
    load = np.max(rate[..., np.newaxis] * service, axis=(1, 2))
    feasible = allocation.feasible & (load < 1.0)
    return allocation._replace(
        delay_seconds=delay,
        energy_joules=energy,
        cost=np.where(feasible, cost, np.inf),
        feasible=feasible,
        largest_load=load,
    )


def equal_shares(demands: Demands, ues: UeConstants, limits: Limits) -> tuple[FloatArray, FloatArray]:
    """(spectrum, edge share), each (environments, ues): evenly among the UEs that have work there."""
    even = np.ones(demands.wire_bits.shape)
    return (
        shares_by_weight(even, demands.wire_bits, limits.spectrum_hz, ues.station),
        shares_by_weight(even, demands.tail_seconds, limits.edge_cpus),
    )


def shares_by_weight(
    weight: FloatArray, work: FloatArray, total: float, station: NDArray[np.int64] | None = None
) -> FloatArray:
    """``total`` in proportion to the weights of the UEs that have work, 0 for the others; (environments, ues) each.

    With ``station`` (ues,) the total is there at each access point, for its own UEs.
    """
    weights = np.where(work > 0, weight, 0.0)
    if station is None or not station.any():
        sums = weights.sum(axis=1, keepdims=True)
    else:
        sums = weights @ (station[:, np.newaxis] == station).astype(np.float64)
    return np.asarray(total * weights / np.where(sums > 0, sums, 1.0))

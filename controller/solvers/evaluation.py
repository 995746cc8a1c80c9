"""What given speeds and shares bring, by the formulas: no optimisation, any solver's result or any policy's choice."""

from __future__ import annotations

import numpy as np

from controller.model.queueing import tandem_delay_seconds
from controller.solvers.allocation import LEAST_ARRIVAL_RATE
from controller.solvers.problem import Allocation, AllocationModel, Demands, FloatArray, Limits, UeConstants, link_rate


def evaluate(
    allocation: Allocation, demands: Demands, ues: UeConstants, limits: Limits, model: AllocationModel
) -> Allocation:
    """The same shares with delay, energy, cost and load recomputed from the formulas; infeasible slots keep ``inf``."""
    rate = np.maximum(demands.arrival_rate_per_second, LEAST_ARRIVAL_RATE)
    bits_per_second = link_rate(ues, allocation.spectrum_hz, demands.link_quality)
    transfer = np.divide(demands.wire_bits, bits_per_second, out=np.zeros(rate.shape), where=demands.wire_bits > 0)
    service = np.stack(
        [demands.head_seconds / allocation.device_speed, transfer, demands.tail_seconds / allocation.edge_share],
        axis=-1,
    )
    idle = np.sum(demands.wire_bits <= 0, axis=1, keepdims=True)
    download = demands.download_seconds * (rate.shape[1] - idle) * (1 + limits.residual_share * idle)
    delay = tandem_delay_seconds(rate, service, model, ues.variability) + demands.constant_seconds + download
    busy = np.minimum(rate[..., np.newaxis] * service, 1.0)
    energy = limits.slot_seconds * (
        ues.kappa * allocation.device_speed**3 * busy[..., 0] + ues.transmit_watts * busy[..., 1]
    )
    cost = np.sum(limits.v * demands.weight * delay + demands.queue_joules * energy, axis=1)
    cost += limits.edge_square_price * np.sum(allocation.edge_share**3 * busy[..., 2], axis=1)
    return allocation._replace(
        delay_seconds=delay,
        energy_joules=energy,
        cost=np.where(allocation.feasible, cost, np.inf),
        largest_load=np.max(rate[..., np.newaxis] * service, axis=(1, 2)),
    )


def equal_shares(demands: Demands, limits: Limits) -> tuple[FloatArray, FloatArray]:
    """(spectrum, edge share), each (environments, ues): evenly among the UEs that have work there."""
    even = np.ones(demands.wire_bits.shape)
    return (
        shares_by_weight(even, demands.wire_bits, limits.spectrum_hz, limits.residual_share),
        shares_by_weight(even, demands.tail_seconds, limits.edge_cpus, limits.residual_share),
    )


def shares_by_weight(weight: FloatArray, work: FloatArray, total: float, residual_share: float) -> FloatArray:
    """``total`` in proportion to the weights of the UEs that have work; the others keep the residual share.

    All arrays are (environments, ues). Where nobody has work, everybody gets the same.
    """
    active = work > 0
    weights = np.where(active, weight, 0.0)
    sums = weights.sum(axis=1, keepdims=True)
    some = sums > 0
    relative = np.where(active, weights / np.where(some, sums, 1.0), residual_share)
    relative = np.where(some, relative, 1.0)
    return np.asarray(total * relative / relative.sum(axis=1, keepdims=True))

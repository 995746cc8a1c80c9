"""A lower bound on a slot's least cost that no solver is trusted for: weak duality.

With prices mu >= 0 of spectrum and nu >= 0 of edge, and weights theta >= 0 of the stages that sum to 1 for each UE,

    cost >= sum_n min_f [.] + min_b [. + mu b] + min_e [. + nu e] - mu B - nu F,

as the slowest stage's wait is at least any weighted mean of the stages' waits. Each minimum is of a convex function of
one variable. For *every* choice of mu, nu and theta this is a bound; those that fit a solution best make it tight.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from controller.solvers.allocation.problem import Allocation, AllocationModel, Demands, Limits, UeConstants

#: Loads this near to a UE's highest count as tied.
TIE = 1e-5


class _Slot:
    """One slot in the order (head, link, edge); arrays are (3, ues)."""

    def __init__(self, e: int, found: Allocation, demands: Demands, ues: UeConstants, limits: Limits) -> None:
        self.rate = demands.arrival_rate_per_second[e]
        self.work = np.stack([demands.head_seconds[e], demands.wire_bits[e], demands.tail_seconds[e]])
        self.active = self.work > 0
        self.quality, self.linear = demands.link_quality[e], ues.linear
        self.variability = ues.variability
        self.price = limits.v * demands.weight[e]
        queue = demands.queue_joules[e] * self.rate * limits.slot_seconds
        self.service_price = np.stack([self.price, self.price + queue * ues.transmit_watts, self.price])
        self.square = np.stack([queue * ues.kappa * self.work[0], 0 * self.rate, 0 * self.rate])
        self.totals = np.array([0.0, limits.spectrum_hz, limits.edge_cpus])
        self.most = np.stack([ues.max_speed, 0 * self.rate + self.totals[1], 0 * self.rate + self.totals[2]])
        # what idle UEs hold, nothing, is divided by before it is left out
        self.share = np.stack([found.device_speed[e], found.spectrum_hz[e], found.edge_share[e]])
        self.share = np.where(self.active, self.share, 1.0)
        download = demands.download_seconds[e] * self.active[1].sum()
        self.constant = float(self.price @ (demands.constant_seconds[e] + download))

    def service(self, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Service times and their derivatives with respect to the shares."""
        fraction = self.quality / share[1]
        shannon = share[1] * np.log2(1 + fraction), (np.log1p(fraction) - fraction / (1 + fraction)) / np.log(2)
        rate = np.where(self.linear, share[1] * self.quality, shannon[0])
        slope = np.where(self.linear, self.quality, shannon[1])
        capacity = np.stack([share[0], rate, share[2]])
        service = self.work / capacity
        return service, -service / capacity * np.stack([np.ones_like(rate), slope, np.ones_like(rate)])

    def value(self, share: np.ndarray, theta: np.ndarray, prices: np.ndarray) -> np.ndarray:
        service, _ = self.service(share)
        load = self.rate * service
        wait = self.variability * np.where(load < 1, load * service / 2 / np.where(load < 1, 1 - load, 1), np.inf)
        total = self.service_price * service + self.square * share**2 + prices[:, np.newaxis] * share
        return np.where(self.active, total + np.where(theta > 0, theta * self.price * wait, 0.0), 0.0)

    def slopes(self, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives of the cost with respect to the shares: without waits, and of the waits at theta = 1."""
        service, slope = self.service(share)
        load = self.rate * service
        wait = self.variability * np.where(load < 1, 0.5 * (1 / np.where(load < 1, 1 - load, 1) ** 2 - 1), np.inf)
        steep = np.where(self.active, self.price * wait, 0.0) * np.where(self.active, slope, -1.0)
        return self.service_price * slope + 2 * self.square * share, steep


def _prices(slot: _Slot, model: AllocationModel) -> tuple[np.ndarray, np.ndarray]:
    """(theta (3, ues), prices (3,)) that come closest to making the solution stationary."""
    plain, wait = slot.slopes(slot.share)
    load = np.where(slot.active, slot.rate * slot.service(slot.share)[0], 0.0)
    count = slot.rate.size
    tied = slot.active & (load >= load.max(axis=0) - TIE) if model == "exact" else slot.active
    free = np.flatnonzero(tied.ravel()) if model == "exact" else np.array([], dtype=int)
    rows, sides = [], []
    for stage, n in np.argwhere(slot.active):
        if stage == 0 and slot.share[0, n] >= slot.most[0, n] * (1 - 1e-7):
            continue  # at full speed the slope may be anything below 0
        row = np.zeros(free.size + 2)
        position = np.flatnonzero(free == stage * count + n)
        known = plain[stage, n] + (wait[stage, n] if model == "indep" else 0.0)
        row[position] = wait[stage, n]
        if stage:
            row[free.size + stage - 1] = 1.0
        scale = abs(plain[stage, n]) + (abs(wait[stage, n]) if tied[stage, n] else 0.0)
        rows.append(row / scale)
        sides.append(-known / scale)
    for n in range(count) if model == "exact" else ():
        members = np.flatnonzero(free % count == n)
        if members.size:
            row = np.zeros(free.size + 2)
            row[members] = 1e3
            rows.append(row)
            sides.append(1e3)
    matrix = np.array(rows).reshape(-1, free.size + 2)
    columns = np.maximum(np.linalg.norm(matrix, axis=0), 1e-300)
    solved = nnls(matrix / columns, np.array(sides))[0] / columns if rows else np.zeros(2)
    theta = np.where(slot.active, 1.0, 0.0) if model == "indep" else np.zeros((3, count))
    if model == "exact":
        theta.ravel()[free] = solved[: free.size]
        sums = theta.sum(axis=0)
        theta = theta / np.where(sums > 0, sums, 1.0)
    return theta, np.array([0.0, solved[-2], solved[-1]])


def lower_bound(
    found: Allocation, demands: Demands, ues: UeConstants, limits: Limits, model: AllocationModel
) -> np.ndarray:
    """(environments,) below the least cost of each slot; tight where ``found`` is the optimum."""
    bounds = np.empty(found.cost.size)
    for e in range(bounds.size):
        slot = _Slot(e, found, demands, ues, limits)
        theta, prices = _prices(slot, model)
        low, high = np.log(slot.most * 1e-9), np.log(slot.most)
        for _ in range(80):  # the slope of a convex function changes its sign once
            middle = np.exp(0.5 * (low + high))
            plain, wait = slot.slopes(middle)
            waits = np.where(theta > 0, np.where(theta > 0, theta, 1.0) * wait, 0.0)
            slope = plain + waits + prices[:, np.newaxis]
            rising = slope > 0
            low, high = np.where(rising, low, 0.5 * (low + high)), np.where(rising, 0.5 * (low + high), high)
        least = np.minimum(slot.value(np.exp(high), theta, prices), slot.value(np.exp(low), theta, prices))
        bounds[e] = least.sum() - prices @ slot.totals + slot.constant
    return bounds

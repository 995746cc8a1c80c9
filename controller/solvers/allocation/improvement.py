"""Single improvements of joint cuts, the most promising first: what a decision can afford of coordinate descent.

At the optimal shares of a joint choice the spectrum and the edge have prices: what one unit more would save. By weak
duality a UE's change of cut brings at most the fall of its own cost with resources at these prices, so that a change
which does not pay there pays nowhere; where no UE's change does, the joint choice is optimal. The others are tried by
the convex step in the order of what they promise, a bounded number of them [ours].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller.compiled import compiled
from controller.solvers.allocation.chain import ChainTables, CutArray, SlotState
from controller.solvers.allocation.cuts import gather_cuts, gather_ue, state_arrays
from controller.solvers.allocation.newton import EDGE, SPECTRUM, device_speed, service_derivatives
from controller.solvers.allocation.problem import MAXIMUM_LOAD, Allocation, AllocationModel, FloatArray, Limits
from controller.solvers.allocation.shares import SCRATCH_ROWS, SMALLEST_PRICE, allocate_slot, prepare_ue, share_slot

#: A change has to promise this part of the slot's cost.
LEAST_GAIN_RATIO = 1e-6
#: Prices are found anew once one UE in so many has changed its cut: with many UEs, finding them is what takes time.
REPRICED_PART = 10
_ROOT_STEPS = 40
_ROOT_TOLERANCE = 1e-3


@compiled
def device_costs(rates, queue, price, variability, head, counts, max_speed, kappa, slot, out):  # type: ignore[no-untyped-def]
    """Fill out (ues, candidates): delay and energy of each head at its best speed; inf where the device is overloaded.

    It depends on no other UE: the speed is the UE's own.
    """
    for i in range(rates.shape[0]):
        rate = rates[i]
        for k in range(head.shape[1]):
            if k >= counts[i] or rate * head[i, k] >= MAXIMUM_LOAD * max_speed[i]:
                out[i, k] = np.inf
                continue
            speed = device_speed(rate, head[i, k], max_speed[i], kappa[i], slot, queue[i], price[i], variability[i])
            service = head[i, k] / speed
            load = rate * service
            out[i, k] = price[i] * service * (1.0 + 0.5 * variability[i] * load / (1.0 - load))
            out[i, k] += queue[i] * slot * kappa[i] * speed**3 * load


@compiled
def _marginal(kind, share, work, quality, linear, rate, price, variability, energy_price):  # type: ignore[no-untyped-def]
    """Of a stage at a share: (cost, what one unit more of the resource saves, how fast that falls); inf if unstable."""
    service, slope, curvature = service_derivatives(kind, share, work, quality, linear)
    load = rate * service
    if load >= 1.0:
        return np.inf, np.inf, 0.0
    spare = 1.0 / (1.0 - load)
    factor = price * (1.0 + 0.5 * variability * (spare * spare - 1.0)) + energy_price
    cost = price * (service + 0.5 * variability * load * service * spare) + energy_price * service
    return cost, -factor * slope, price * variability * rate * spare**3 * slope * slope + factor * curvature


@compiled
def _priced_stage(kind, total, unit_price, work, quality, linear, rate, price, variability, energy_price):  # type: ignore[no-untyped-def]  # fmt: skip
    """The least of a stage's cost plus what its share costs at ``unit_price``, over shares up to ``total``."""
    cost, saved, falls = _marginal(kind, total, work, quality, linear, rate, price, variability, energy_price)
    if unit_price <= 0.0 or saved >= unit_price or not cost < np.inf:
        return cost + unit_price * total
    low, high = 0.0, total
    # without waits, and with a rate that is linear in the share
    share = np.sqrt((price + energy_price) * total * service_derivatives(kind, total, work, quality, linear)[0] / unit_price)  # fmt: skip  # noqa: E501
    for _ in range(_ROOT_STEPS):
        if not low < share < high:
            share = 0.5 * (low + high)
        cost, saved, falls = _marginal(kind, share, work, quality, linear, rate, price, variability, energy_price)
        if saved > unit_price:
            low = share
        else:
            high = share
        if not cost < np.inf:
            share = 0.5 * (low + high)
            continue
        # Newton for log(saved): nearly straight in log(share)
        step = share * np.log(saved / unit_price) * saved / (falls * share)
        if abs(step) <= _ROOT_TOLERANCE * share:
            break
        share += step
    return cost + unit_price * share


@compiled
def _priced_cut(i, k, own, rates, quality, linear, downlink, price, variability, energy_price, bits, tail, constant, down_bits, spectrum, cpus, hz_price, cpu_price, links, enough):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """A UE's cost with a cut and resources at their prices; or, where that suffices, a bound above ``enough``."""
    total = own[i, k]
    if not total < np.inf:
        return total
    if bits[i, k] > 0.0:
        total += price[i] * (constant[i, k] + down_bits[i, k] / max(downlink[i], 1.0) * max(links, 1))
    # nothing costs less than all of the resource for nothing
    least = total
    if bits[i, k] > 0.0:
        least += _marginal(SPECTRUM, spectrum, bits[i, k], quality[i], linear[i], rates[i], price[i], variability[i], energy_price[i])[0]  # fmt: skip  # noqa: E501
    if tail[i, k] > 0.0:
        least += _marginal(EDGE, cpus, tail[i, k], quality[i], linear[i], rates[i], price[i], variability[i], 0.0)[0]
    if least >= enough:
        return least
    if bits[i, k] > 0.0:
        total += _priced_stage(SPECTRUM, spectrum, hz_price, bits[i, k], quality[i], linear[i], rates[i], price[i], variability[i], energy_price[i])  # fmt: skip  # noqa: E501
    if tail[i, k] > 0.0:
        total += _priced_stage(EDGE, cpus, cpu_price, tail[i, k], quality[i], linear[i], rates[i], price[i], variability[i], 0.0)  # fmt: skip  # noqa: E501
    return total


@compiled
def _promises(cuts, own, rates, quality, linear, downlink, price, variability, energy_price, bits, tail, constant, down_bits, counts, station, spectrum, cpus, shares_hz, shares_cpu, thorough, out):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Fill out (ues, candidates): by how much at least the slot's cost changes as one UE takes that cut."""
    n = cuts.shape[0]
    hz_price = np.zeros(station.max() + 1)
    links = np.zeros(station.max() + 1, dtype=np.int64)
    cpu_price = 0.0
    for i in range(n):
        k = cuts[i]
        if bits[i, k] > 0.0:
            links[station[i]] += 1
            hz_price[station[i]] = max(hz_price[station[i]], _marginal(SPECTRUM, shares_hz[i], bits[i, k], quality[i], linear[i], rates[i], price[i], variability[i], energy_price[i])[1])  # fmt: skip  # noqa: E501
        if tail[i, k] > 0.0:
            cpu_price = max(cpu_price, _marginal(EDGE, shares_cpu[i], tail[i, k], quality[i], linear[i], rates[i], price[i], variability[i], 0.0)[1])  # fmt: skip  # noqa: E501
    for i in range(n):
        own_cost = _priced_cut(i, cuts[i], own, rates, quality, linear, downlink, price, variability, energy_price, bits, tail, constant, down_bits, spectrum, cpus, hz_price[station[i]], cpu_price, links[station[i]], np.inf)  # fmt: skip  # noqa: E501
        for k in range(bits.shape[1]):
            if k >= counts[i]:
                out[i, k] = np.inf
            elif k == cuts[i]:
                out[i, k] = 0.0
            else:
                out[i, k] = _priced_cut(i, k, own, rates, quality, linear, downlink, price, variability, energy_price, bits, tail, constant, down_bits, spectrum, cpus, hz_price[station[i]], cpu_price, links[station[i]], np.inf if thorough else own_cost) - own_cost  # fmt: skip  # noqa: E501


@compiled
def _improve(cuts, rates, quality, downlink, queue, head, bits, tail, constant, down_bits, counts, max_speed, kappa, watts, linear, variability, price, station, spectrum, cpus, slot, edge_square_price, exact, most, thorough, own, promise, best, cost_out, load_out, moved):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    environments, n = cuts.shape
    work = np.empty((5, n))
    scratch = np.empty((SCRATCH_ROWS, n))
    result = np.empty((5, n))
    active = np.empty(n, dtype=np.bool_)
    energy_price = np.empty(n)
    for e in range(environments):
        gather_cuts(cuts[e], rates[e], downlink[e], head, bits, tail, constant, down_bits, work)
        cost_out[e], _, load_out[e] = allocate_slot(
            exact, rates[e], work[0], work[1], work[2], quality[e], queue[e], work[3], work[4], max_speed, kappa,
            watts, linear, variability, price[e], station, spectrum, cpus, slot, edge_square_price, best[0, e],
            best[1, e], best[2, e], best[3, e], best[4, e], scratch, active,
        )  # fmt: skip
        if not cost_out[e] < np.inf:
            continue
        device_costs(rates[e], queue[e], price[e], variability, head, counts, max_speed, kappa, slot, own[e])
        for i in range(n):
            energy_price[i] = queue[e, i] * watts[i] * rates[e, i] * slot
        changed = n  # UEs, since the prices were found
        for _ in range(most):
            if changed * REPRICED_PART >= n:
                _promises(cuts[e], own[e], rates[e], quality[e], linear, downlink[e], price[e], variability, energy_price, bits, tail, constant, down_bits, counts, station, spectrum, cpus, best[1, e], best[2, e], thorough, promise[e])  # fmt: skip  # noqa: E501
                changed = 0
            least = -LEAST_GAIN_RATIO * cost_out[e]
            ue = -1
            cut = -1
            for i in range(n):
                for k in range(counts[i]):
                    if promise[e, i, k] < least:
                        least = promise[e, i, k]
                        ue = i
                        cut = k
            if ue < 0:
                if changed == 0:
                    break
                changed = n
                continue
            gather_ue(ue, cut, downlink[e], head, bits, tail, constant, down_bits, work)
            prepare_ue(ue, rates[e], work[0], queue[e], max_speed, kappa, watts, variability, price[e], slot, scratch)
            cost, _, load = share_slot(
                exact, rates[e], work[0], work[1], work[2], quality[e], queue[e], work[3], work[4], max_speed, kappa,
                watts, linear, variability, price[e], station, spectrum, cpus, slot, edge_square_price, result[0],
                result[1], result[2], result[3], result[4], scratch, active,
            )  # fmt: skip
            if cost < cost_out[e] * (1.0 - 1e-12):
                cuts[e, ue] = cut
                cost_out[e], load_out[e] = cost, load
                moved[e] += 1
                best[:, e] = result
                changed += 1
                promise[e, ue, :] = np.inf
            else:
                gather_ue(ue, cuts[e, ue], downlink[e], head, bits, tail, constant, down_bits, work)
                prepare_ue(
                    ue, rates[e], work[0], queue[e], max_speed, kappa, watts, variability, price[e], slot, scratch
                )
                promise[e, ue, cut] = np.inf


class Improved(NamedTuple):
    """Arrays are (environments, ues), (environments,) or, for ``promise``, (environments, ues, candidates)."""

    cuts: CutArray
    allocation: Allocation  # of these cuts; infeasible where the start was
    moves: NDArray[np.int64]  # changes that were taken
    #: at the last prices, by how much at least the slot's cost changes with one UE's other cut; inf for one that was
    #: tried in vain
    promise: FloatArray

    @property
    def cost(self) -> FloatArray:
        return self.allocation.cost


def improve(
    tables: ChainTables,
    start: CutArray,
    state: SlotState,
    limits: Limits,
    most: int,
    model: AllocationModel = "indep",
    *,
    thorough: bool = False,
) -> Improved:
    """Change one UE's cut at a time, the most promising first, in at most ``most`` trials per environment.

    ``start`` (environments, ues) is taken as it is: project it first. Where it is infeasible nothing is tried.
    ``thorough``: promises are exact also where a looser bound, above 0, says that a change does not pay. The price of
    the edge's energy is no part of them.
    """
    cuts = np.array(start, dtype=np.int64)
    environments = cuts.shape[0]
    rates, quality, downlink, queue = state_arrays(tables, state, environments)
    ues = tables.ues
    price = np.maximum(limits.v * tables.weights(rates), SMALLEST_PRICE)
    own, promise = (np.zeros((environments, *tables.head_seconds.shape)) for _ in range(2))
    best = np.empty((5, *cuts.shape))
    cost, load = np.empty(environments), np.empty(environments)
    moves = np.zeros(environments, dtype=np.int64)
    _improve(
        cuts, rates, quality, downlink, queue, tables.head_seconds, tables.wire_bits, tables.tail_seconds,
        tables.constant_seconds, tables.down_bits, tables.counts, ues.max_speed, ues.kappa, ues.transmit_watts,
        ues.linear, ues.variability, price, ues.station, limits.spectrum_hz, limits.edge_cpus, limits.slot_seconds,
        limits.edge_square_price, model == "exact", most, thorough, own, promise, best, cost, load, moves,
    )  # fmt: skip
    return Improved(cuts, Allocation._make((*best, cost, cost < np.inf, load)), moves, promise)

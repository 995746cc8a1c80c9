"""Device speed, spectrum and edge share for cuts that are chosen: the convex step, batched over environments."""

from __future__ import annotations

import numpy as np

from controller.compiled import compiled
from controller.solvers.allocation.interior import solve_exact
from controller.solvers.allocation.newton import EDGE, SPECTRUM, begin_shares, device_speed, edge_wishes, share_resource
from controller.solvers.allocation.newton import service_derivatives as _service
from controller.solvers.allocation.problem import (
    MAXIMUM_LOAD,
    Allocation,
    AllocationModel,
    Demands,
    Limits,
    UeConstants,
)

#: Arrival rates of 0 (a trace of arrivals may pause) are priced as if one task came in a million seconds.
LEAST_ARRIVAL_RATE = 1e-6
SMALLEST_PRICE = 1e-12


#: Rows of an allocation's scratch array, (SCRATCH_ROWS, ues).
SCRATCH_ROWS = 10
_LEAST_SPECTRUM, _LEAST_EDGE, _ENERGY_PRICE, _SPEED, _STEP, _TRIAL, _GRADIENT, _INVERSE, _ZERO, _SQUARE = range(10)


@compiled
def prepare_ue(i, arrival_rate, head, queue, max_speed, kappa, watts, variability, price, slot, scratch):  # type: ignore[no-untyped-def]  # fmt: skip
    """Fill in ``scratch`` what depends on one UE alone: its best speed and its price of sending."""
    scratch[_ENERGY_PRICE, i] = queue[i] * watts[i] * arrival_rate[i] * slot
    scratch[_SPEED, i] = device_speed(
        arrival_rate[i], head[i], max_speed[i], kappa[i], slot, queue[i], price[i], variability[i]
    )


@compiled
def allocate_slot(  # type: ignore[no-untyped-def]
    exact, arrival_rate, head, bits, tail, quality, queue, constant, download,
    max_speed, kappa, watts, linear, variability, price, station,
    spectrum_hz, edge_cpus, slot, edge_square_price,
    speed, spectrum, edge, delay, energy,
    scratch, active,
):  # fmt: skip
    """One slot. All arrays are (ues,) but scratch (SCRATCH_ROWS, ues); fills speed, spectrum, edge, delay, energy.

    Returns (cost, feasible, largest load).
    """
    for i in range(arrival_rate.shape[0]):
        prepare_ue(i, arrival_rate, head, queue, max_speed, kappa, watts, variability, price, slot, scratch)
    return share_slot(
        exact, arrival_rate, head, bits, tail, quality, queue, constant, download, max_speed, kappa, watts, linear,
        variability, price, station, spectrum_hz, edge_cpus, slot, edge_square_price, speed, spectrum, edge, delay,
        energy, scratch, active,
    )  # fmt: skip


@compiled
def share_slot(  # type: ignore[no-untyped-def]
    exact, arrival_rate, head, bits, tail, quality, queue, constant, download,
    max_speed, kappa, watts, linear, variability, price, station,
    spectrum_hz, edge_cpus, slot, edge_square_price,
    speed, spectrum, edge, delay, energy,
    scratch, active,
):  # fmt: skip
    """:func:`allocate_slot` after each UE's :func:`prepare_ue`: a search that changes one UE prepares that one."""
    n = arrival_rate.shape[0]
    least_spectrum, least_edge, energy_price = scratch[_LEAST_SPECTRUM], scratch[_LEAST_EDGE], scratch[_ENERGY_PRICE]
    step, trial, gradient, inverse = scratch[_STEP], scratch[_TRIAL], scratch[_GRADIENT], scratch[_INVERSE]
    zero, square = scratch[_ZERO], scratch[_SQUARE]
    stations = station.max() + 1
    idle_links = 0
    feasible = True
    for i in range(n):
        idle_links += bits[i] <= 0.0
        zero[i] = 0.0
        square[i] = edge_square_price * arrival_rate[i] * tail[i]
        feasible = feasible and arrival_rate[i] * head[i] < MAXIMUM_LOAD * max_speed[i]
        speed[i] = scratch[_SPEED, i]
    if stations > 1:
        feasible = _share_by_station(station, spectrum_hz, n, bits, quality, linear, arrival_rate, price, variability, energy_price, zero, least_spectrum, spectrum, step, trial, gradient, inverse, active) and feasible  # fmt: skip  # noqa: E501
    elif begin_shares(SPECTRUM, spectrum_hz, n, bits, quality, linear, arrival_rate, price, energy_price, least_spectrum, spectrum, step):  # fmt: skip  # noqa: E501
        share_resource(SPECTRUM, n, bits, quality, linear, arrival_rate, price, variability, energy_price, zero, spectrum, step, trial, gradient, inverse, active)  # fmt: skip  # noqa: E501
    else:
        feasible = False
        _in_proportion(n, spectrum_hz, bits, least_spectrum, spectrum)
    if not begin_shares(EDGE, edge_cpus, n, tail, quality, linear, arrival_rate, price, zero, least_edge, edge, step):
        feasible = False
        _in_proportion(n, edge_cpus, tail, least_edge, edge)
    elif not (
        edge_square_price > 0.0
        and edge_wishes(edge_cpus, n, tail, arrival_rate, price, variability, edge_square_price, trial)
    ):
        share_resource(EDGE, n, tail, quality, linear, arrival_rate, price, variability, zero, square, edge, step, trial, gradient, inverse, active)  # fmt: skip  # noqa: E501
    else:
        edge[:] = trial
    if exact and feasible:
        x = np.empty((3, n))
        work = np.empty((3, n))
        kappa_energy = np.empty(n)
        for i in range(n):
            x[0, i], x[1, i], x[2, i] = speed[i], spectrum[i], edge[i]
            work[0, i], work[1, i], work[2, i] = head[i], bits[i], tail[i]
            kappa_energy[i] = queue[i] * arrival_rate[i] * slot * kappa[i] * head[i]
        solve_exact(
            n, x, work, quality, linear, arrival_rate, max_speed, price, variability, energy_price, kappa_energy
        )
        for i in range(n):
            if head[i] > 0.0:
                speed[i] = x[0, i]
            if bits[i] > 0.0:
                spectrum[i] = x[1, i]
            if tail[i] > 0.0:
                edge[i] = x[2, i]
    cost = 0.0
    largest_load = 0.0
    download_slowdown = n - idle_links
    for i in range(n):
        if stations > 1 and bits[i] > 0.0:
            download_slowdown = np.sum((station == station[i]) & (bits > 0.0))
        if bits[i] <= 0.0:
            spectrum[i] = 0.0
        if tail[i] <= 0.0:
            edge[i] = 0.0
        head_seconds = head[i] / speed[i]
        transfer = 0.0
        if bits[i] > 0.0:
            transfer = _service(SPECTRUM, spectrum[i], bits[i], quality[i], linear[i])[0]
        tail_seconds = tail[i] / edge[i] if tail[i] > 0.0 else 0.0
        rate = arrival_rate[i]
        load = rate * max(head_seconds, transfer, tail_seconds)
        largest_load = max(largest_load, load)
        delay[i] = head_seconds + transfer + tail_seconds + constant[i] + download[i] * download_slowdown
        if load >= 1.0:
            delay[i] = np.inf
        elif exact:
            delay[i] += variability[i] * load * load / (2.0 * rate * (1.0 - load))
        else:
            for service in (head_seconds, transfer, tail_seconds):
                delay[i] += variability[i] * rate * service * service / (2.0 * (1.0 - rate * service))
        # under overload a stage is busy all the time, not longer
        busy_device = min(rate * head_seconds, 1.0)
        energy[i] = slot * (kappa[i] * speed[i] ** 3 * busy_device + watts[i] * min(rate * transfer, 1.0))
        cost += price[i] * delay[i] + queue[i] * energy[i]
        cost += edge_square_price * edge[i] * edge[i] * edge[i] * min(rate * tail_seconds, 1.0)
    return cost if feasible else np.inf, feasible, largest_load


@compiled
def _share_by_station(station, total, n, bits, quality, linear, arrival_rate, price, variability, energy_price, zero, least, share, step, trial, gradient, inverse, active):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Each access point's spectrum among its own UEs; whether it is enough everywhere."""
    own = np.empty(n)
    part = np.empty(n)
    share[:] = 0.0
    fits = True
    for number in range(station.max() + 1):
        for i in range(n):
            own[i] = bits[i] if station[i] == number else 0.0
        if not np.any(own > 0.0):
            continue
        if begin_shares(SPECTRUM, total, n, own, quality, linear, arrival_rate, price, energy_price, least, part, step):
            share_resource(SPECTRUM, n, own, quality, linear, arrival_rate, price, variability, energy_price, zero, part, step, trial, gradient, inverse, active)  # fmt: skip  # noqa: E501
        else:
            fits = False
            _in_proportion(n, total, own, least, part)
        for i in range(n):
            if own[i] > 0.0:
                share[i] = part[i]
    return fits


@compiled
def _in_proportion(n, total, work, least, share):  # type: ignore[no-untyped-def]
    """Overload: every UE gets in proportion to its need; one that cannot be served at all counts as half the total."""
    needed = 0.0
    for i in range(n):
        share[i] = 0.0
        if work[i] > 0.0:
            share[i] = least[i] if least[i] < 0.5 * total else 0.5 * total
            share[i] = max(share[i], 1e-3 * total)
            needed += share[i]
    for i in range(n):
        share[i] *= total / needed


@compiled
def _allocate_batch(  # type: ignore[no-untyped-def]
    exact, rates, heads, bits, tails, qualities, queues, constants, downloads, max_speed, kappa, watts, linear,
    variability, price, station, spectrum_hz, edge_cpus, slot, edge_square_price, speed, spectrum, edge, delay, energy,
    cost, feasible, load,
):  # fmt: skip
    environments, n = rates.shape
    scratch = np.empty((SCRATCH_ROWS, n))
    active = np.empty(n, dtype=np.bool_)
    for e in range(environments):
        cost[e], feasible[e], load[e] = allocate_slot(
            exact, rates[e], heads[e], bits[e], tails[e], qualities[e], queues[e], constants[e], downloads[e],
            max_speed, kappa, watts, linear, variability, price[e], station, spectrum_hz, edge_cpus, slot,
            edge_square_price, speed[e], spectrum[e], edge[e], delay[e], energy[e], scratch, active,
        )  # fmt: skip


def allocate(demands: Demands, ues: UeConstants, limits: Limits, model: AllocationModel = "indep") -> Allocation:
    """Minimise each slot's drift-plus-penalty over speed, spectrum and edge share (see :mod:`.problem`).

    ``indep``: the UE's speed is a one-dimensional root, spectrum and edge are primal Newton on one equality; exact to
    rounding. ``exact``: an interior-point Newton from there, within 1e-9 of the optimum; a price of the edge's
    energy it does not know (ValueError; :mod:`.general` does). A slot that no allocation can keep stable comes back
    with ``feasible`` False, cost ``inf`` and shares in proportion to the needs, never NaN.
    """
    if model == "exact" and ues.station.any():
        raise ValueError("the Newton solver of the exact model divides one spectrum: it knows one access point only")
    if model == "exact" and limits.edge_square_price > 0:
        raise ValueError(
            "the Newton solver of the exact model has no price for the edge's energy: use allocate_general"
        )
    rates = np.maximum(demands.arrival_rate_per_second, LEAST_ARRIVAL_RATE)
    shape = rates.shape
    speed, spectrum, edge, delay, energy = (np.empty(shape) for _ in range(5))
    cost, load = np.empty(shape[0]), np.empty(shape[0])
    feasible = np.empty(shape[0], dtype=np.bool_)
    price = np.maximum(limits.v * demands.weight, SMALLEST_PRICE)
    _allocate_batch(
        model == "exact", rates, demands.head_seconds, demands.wire_bits, demands.tail_seconds, demands.link_quality,
        demands.queue_joules, demands.constant_seconds, demands.download_seconds, ues.max_speed, ues.kappa,
        ues.transmit_watts, ues.linear, ues.variability, price, ues.station, limits.spectrum_hz, limits.edge_cpus,
        limits.slot_seconds, limits.edge_square_price, speed, spectrum, edge, delay, energy,
        cost, feasible, load,
    )  # fmt: skip
    return Allocation(speed, spectrum, edge, delay, energy, cost, feasible, load)

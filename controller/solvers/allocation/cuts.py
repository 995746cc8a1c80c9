"""Search over the cuts of all UEs, scored by the convex step: projection, coordinate descent, exhaustive."""

from __future__ import annotations

import itertools

import numpy as np

from controller.compiled import compiled
from controller.solvers.allocation.chain import ChainTables, CutArray, SlotState, spread_out
from controller.solvers.allocation.newton import smallest_shares, smallest_spectrum, station_sum, surely_fit
from controller.solvers.allocation.problem import MAXIMUM_LOAD, AllocationModel, FloatArray, Limits
from controller.solvers.allocation.shares import (
    LEAST_ARRIVAL_RATE,
    SCRATCH_ROWS,
    SMALLEST_PRICE,
    allocate,
    prepare_ue,
    share_slot,
)

MAXIMUM_SWEEPS = 20
#: More joint choices than this are refused by :func:`exhaustive`.
EXHAUSTIVE_LIMIT = 200_000


@compiled
def gather_ue(i, k, downlink, head, bits, tail, constant, down_bits, work):  # type: ignore[no-untyped-def]
    """Fill column i of work (5, n): head, bits, tail, constant, download of one UE's cut."""
    work[0, i] = head[i, k]
    work[1, i] = bits[i, k]
    work[2, i] = tail[i, k]
    work[3, i] = constant[i, k]
    work[4, i] = down_bits[i, k] / max(downlink[i], 1.0)


@compiled
def gather_cuts(cuts, rates, downlink, head, bits, tail, constant, down_bits, work):  # type: ignore[no-untyped-def]
    """Fill work (5, n): head, bits, tail, constant, download for these cuts."""
    for i in range(cuts.shape[0]):
        gather_ue(i, cuts[i], downlink, head, bits, tail, constant, down_bits, work)


@compiled
def project_one(cuts, rates, quality, head, bits, tail, counts, max_speed, linear, station, spectrum, cpus, least_spectrum, least_edge, work):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Move cuts, in place, until each device, the spectrum and the edge can carry them."""
    n = cuts.shape[0]
    for i in range(n):
        if rates[i] * head[i, cuts[i]] < MAXIMUM_LOAD * max_speed[i]:
            continue
        # heads grow along the chain: the nearest cut that the device can carry is an earlier one
        k = cuts[i]
        while k > 0 and rates[i] * head[i, k] >= MAXIMUM_LOAD * max_speed[i]:
            k -= 1
        cuts[i] = k
    for _ in range(n * head.shape[1]):
        for i in range(n):
            work[0, i] = bits[i, cuts[i]]
            work[1, i] = tail[i, cuts[i]]
        if surely_fit(n, station, spectrum, cpus, rates, work[0], work[1], quality, linear):
            return
        hz, share = smallest_shares(
            n, station, spectrum, rates, work[0], work[1], quality, linear, least_spectrum, least_edge
        )
        over_hz = hz >= spectrum
        if not over_hz and share < cpus:
            return
        # the UE that takes most of what is short gives some of it up, if it can
        worst = -1
        largest = 0.0
        better = 0
        for i in range(n):
            need = least_spectrum[i] if over_hz else least_edge[i]
            if need <= largest or (over_hz and station_sum(station[i], least_spectrum, station) < spectrum):
                continue
            for k in range(cuts[i] + 1, counts[i]):
                if rates[i] * head[i, k] >= MAXIMUM_LOAD * max_speed[i]:
                    break
                if (bits[i, k] < bits[i, cuts[i]]) if over_hz else (tail[i, k] < tail[i, cuts[i]]):
                    worst = i
                    better = k
                    largest = need
                    break
        if worst < 0:
            return
        cuts[worst] = better


@compiled
def _project_batch(cuts, rates, quality, head, bits, tail, counts, max_speed, linear, station, spectrum, cpus):  # type: ignore[no-untyped-def]  # fmt: skip
    n = cuts.shape[1]
    scratch = np.empty((2, n))
    work = np.empty((2, n))
    for e in range(cuts.shape[0]):
        project_one(cuts[e], rates[e], quality[e], head, bits, tail, counts, max_speed, linear, station, spectrum, cpus, scratch[0], scratch[1], work)  # fmt: skip  # noqa: E501


@compiled
def _local_mask(rates, quality, head, bits, tail, counts, max_speed, linear, spectrum, cpus):  # type: ignore[no-untyped-def]
    environments, n = rates.shape
    mask = np.zeros((environments, n, head.shape[1]), dtype=np.bool_)
    for e in range(environments):
        for i in range(n):
            for k in range(counts[i]):
                needed = rates[e, i] * bits[i, k] / MAXIMUM_LOAD
                mask[e, i, k] = (
                    rates[e, i] * head[i, k] < MAXIMUM_LOAD * max_speed[i]
                    and rates[e, i] * tail[i, k] < MAXIMUM_LOAD * cpus
                    and smallest_spectrum(needed, quality[e, i], linear[i], spectrum) < spectrum
                )
    return mask


@compiled
def _descend(cuts, rates, quality, downlink, queue, head, bits, tail, constant, down_bits, counts, max_speed, kappa, watts, linear, variability, price, station, spectrum, cpus, slot, edge_square_price, exact, cost_out):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    environments, n = cuts.shape
    work = np.empty((5, n))
    scratch = np.empty((SCRATCH_ROWS, n))
    result = np.empty((5, n))
    active = np.empty(n, dtype=np.bool_)
    sweeps = 0
    for e in range(environments):
        best = np.inf
        gather_cuts(cuts[e], rates[e], downlink[e], head, bits, tail, constant, down_bits, work)
        for i in range(n):
            prepare_ue(i, rates[e], work[0], queue[e], max_speed, kappa, watts, variability, price[e], slot, scratch)
        for _ in range(MAXIMUM_SWEEPS):
            improved = False
            for i in range(n):
                kept = cuts[e, i]
                for k in range(counts[i]):
                    if k == kept and best < np.inf:
                        continue
                    if rates[e, i] * head[i, k] >= MAXIMUM_LOAD * max_speed[i]:
                        continue
                    gather_ue(i, k, downlink[e], head, bits, tail, constant, down_bits, work)
                    prepare_ue(
                        i, rates[e], work[0], queue[e], max_speed, kappa, watts, variability, price[e], slot, scratch
                    )
                    cost, feasible, _ = share_slot(
                        exact, rates[e], work[0], work[1], work[2], quality[e], queue[e], work[3], work[4], max_speed,
                        kappa, watts, linear, variability, price[e], station, spectrum, cpus, slot, edge_square_price,
                        result[0], result[1], result[2], result[3], result[4], scratch, active,
                    )  # fmt: skip
                    if feasible and cost < best * (1.0 - 1e-12):
                        best = cost
                        kept = k
                        improved = True
                cuts[e, i] = kept
                gather_ue(i, kept, downlink[e], head, bits, tail, constant, down_bits, work)
                prepare_ue(
                    i, rates[e], work[0], queue[e], max_speed, kappa, watts, variability, price[e], slot, scratch
                )
            sweeps += 1
            if not improved:
                break
        cost_out[e] = best
    return sweeps


def state_arrays(tables: ChainTables, state: SlotState, environments: int) -> tuple[FloatArray, ...]:
    """Arrival rate, link quality, downlink rate and energy queue, each (environments, ues)."""
    shape = (environments, tables.local.size)
    rates = np.maximum(state.arrival_rate, LEAST_ARRIVAL_RATE)
    fields = (rates, state.link_quality, state.downlink_rate, state.queue_joules)
    return tuple(spread_out(x, shape) for x in fields)


def project(tables: ChainTables, cuts: CutArray, state: SlotState) -> CutArray:
    """The nearest cuts (environments, ues) that can be kept stable together.

    A head that the device cannot carry gives way to an earlier cut; while spectrum or edge is short, the UE that needs
    most of it moves to its next cut that needs less. What cannot be mended comes back as it is.
    """
    projected = np.array(cuts, dtype=np.int64)
    rates, quality, _, _ = state_arrays(tables, state, projected.shape[0])
    limits = tables.limits(1.0)
    _project_batch(
        projected, rates, quality, tables.head_seconds, tables.wire_bits, tables.tail_seconds, tables.counts,
        tables.ues.max_speed, tables.ues.linear, tables.ues.station, limits.spectrum_hz, limits.edge_cpus,
    )  # fmt: skip
    return projected


def feasible_alone(tables: ChainTables, state: SlotState, environments: int) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:  # fmt: skip  # noqa: E501
    """(environments, ues, candidates): cuts that a UE could keep stable with the whole spectrum and edge."""
    rates, quality, _, _ = state_arrays(tables, state, environments)
    limits = tables.limits(1.0)
    mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = _local_mask(
        rates, quality, tables.head_seconds, tables.wire_bits, tables.tail_seconds, tables.counts,
        tables.ues.max_speed, tables.ues.linear, limits.spectrum_hz, limits.edge_cpus,
    )  # fmt: skip
    return mask


def coordinate_descent(
    tables: ChainTables, start: CutArray, state: SlotState, limits: Limits, model: AllocationModel = "indep"
) -> tuple[CutArray, FloatArray]:
    """Change one UE's cut at a time while the cost falls. Returns (cuts (environments, ues), cost (environments,)).

    Starts from the projection of ``start``; ends where no single change helps. Cost is inf where nothing is feasible.
    """
    cuts = project(tables, start, state)
    cost = np.empty(cuts.shape[0])
    rates, quality, downlink, queue = state_arrays(tables, state, cuts.shape[0])
    ues = tables.ues
    _descend(
        cuts, rates, quality, downlink, queue, tables.head_seconds, tables.wire_bits, tables.tail_seconds,
        tables.constant_seconds, tables.down_bits, tables.counts, ues.max_speed, ues.kappa, ues.transmit_watts,
        ues.linear, ues.variability, np.maximum(limits.v * tables.weights(rates), SMALLEST_PRICE), ues.station,
        limits.spectrum_hz,
        limits.edge_cpus, limits.slot_seconds, limits.edge_square_price, model == "exact", cost,
    )  # fmt: skip
    return cuts, cost


def exhaustive(
    tables: ChainTables, state: SlotState, limits: Limits, model: AllocationModel = "indep"
) -> tuple[CutArray, float]:
    """The best of all joint choices of one slot: (cuts (ues,), cost). For three UEs or so.

    Raises ValueError when there are more than EXHAUSTIVE_LIMIT choices.
    """
    choices = int(np.prod(tables.counts))
    if choices > EXHAUSTIVE_LIMIT:
        raise ValueError(f"{choices} joint cuts for {tables.counts.size} UEs; allowed: {EXHAUSTIVE_LIMIT}")
    every = np.array(list(itertools.product(*(range(count) for count in tables.counts))), dtype=np.int64)
    allocation = allocate(tables.demands(every, state), tables.ues, limits, model)
    best = int(np.argmin(allocation.cost))
    return every[best], float(allocation.cost[best])

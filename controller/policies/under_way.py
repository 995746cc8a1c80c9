"""What a decision leaves to tasks that are under way to the edge under an older cut.

A UE that turns to ``local`` may have tasks in its head, on its link and at the edge. With the residual share alone, 5 %
of the edge, their tails take a second where 50 ms were planned: few tasks, but 3 % of the mean delay of a lab whose
cuts change every few slots. The per-slot problem does not know them; it is stationary within the slot. Our choice,
not the paper's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from controller.contract import RESIDUAL_SHARE, Observation
from controller.solvers.allocation import LEAST_ARRIVAL_RATE
from controller.solvers.chain import ChainTables, CutArray, SlotState, in_order
from controller.solvers.problem import MAXIMUM_LOAD, Allocation, BoolArray, FloatArray, link_rate

#: Of what the slot's own tasks do not need of a resource, the most that older tasks are given.
LARGEST_PART = 0.5


class UnderWay(NamedTuple):
    """One resource in one slot. Arrays are (ues,); times are those of one task with all of the resource."""

    older_tasks: FloatArray  # expected, of UEs that turned to ``local``
    older_seconds: FloatArray
    own_tasks: FloatArray  # that the slot brings; 0 for a UE whose cut is ``local``
    own_seconds: FloatArray
    own_load: FloatArray  # with the share that the convex step found


#: What turns a resource's work into the parts (ues,) for older tasks.
Rule = Callable[[UnderWay], FloatArray]


class Decided(NamedTuple):
    """A slot's cuts (ues,) and their allocation (1, ues)."""

    cuts: CutArray
    allocation: Allocation


def parts_under_way(
    tables: ChainTables, observation: Observation, state: SlotState, last: Decided, now: Decided, rule: Rule
) -> tuple[FloatArray, FloatArray]:
    """The parts (ues,) of spectrum and edge for older tasks, by ``rule``, as ``last`` gives way to ``now``."""
    turned = (now.cuts == tables.local) & (last.cuts != tables.local)
    if not turned.any():
        return np.zeros(turned.shape), np.zeros(turned.shape)
    link, edge = under_way(tables, observation, state, last, now, turned)
    return rule(link), rule(edge)


def under_way(
    tables: ChainTables, observation: Observation, state: SlotState, last: Decided, now: Decided, turned: BoolArray
) -> tuple[UnderWay, UnderWay]:
    """Of the spectrum and of the edge, for UEs (ues,) that ``turned`` to local."""
    to_link, to_edge = expected_tasks(tables, observation, last, turned)
    columns = np.arange(now.cuts.size)
    rate = np.maximum(state.arrival_rate, LEAST_ARRIVAL_RATE)
    own_tasks = np.where(now.cuts == tables.local, 0.0, rate * tables.scenario.slot_seconds)

    def resource(older: FloatArray, table: FloatArray, whole: FloatArray | float, granted: FloatArray) -> UnderWay:
        """``table``: each cut's work; ``whole``, ``granted``: work per second with all of it, with a UE's share."""
        before, after = table[columns, last.cuts], table[columns, now.cuts]
        load = np.minimum(rate * after / np.maximum(granted, 1e-9), MAXIMUM_LOAD)
        return UnderWay(older, before / whole, own_tasks, after / whole, load)

    spectrum_hz, edge_cpus = tables.scenario.radio.uplink_hz, tables.scenario.edge.cpus
    all_bits = np.maximum(link_rate(tables.ues, spectrum_hz, state.link_quality), 1.0)
    own_bits = link_rate(tables.ues, np.maximum(now.allocation.spectrum_hz[0], 1e-3), state.link_quality)
    return (
        resource(to_link, tables.wire_bits, all_bits, own_bits),
        resource(to_edge, tables.tail_seconds, edge_cpus, now.allocation.edge_share[0]),
    )


def expected_tasks(
    tables: ChainTables, observation: Observation, last: Decided, turned: BoolArray
) -> tuple[FloatArray, FloatArray]:
    """(ues,) each: tasks of the UEs that ``turned`` to local whose transfer, and whose tail, is to come.

    A task whose head has not started takes the new cut, and a tail that has started keeps its share. What is in flight
    and in no queue is in its head or its tail, as likely as each takes long.
    """
    ues = in_order(tables.scenario, observation)
    on_link, at_edge = (np.array([getattr(ue, key) for ue in ues]) for key in ("tx_queue_tasks", "edge_queue_tasks"))
    working = np.array([ue.in_flight_tasks - ue.device_queue_tasks for ue in ues]) - on_link - at_edge
    columns = np.arange(turned.size)
    head = tables.head_seconds[columns, last.cuts] / np.maximum(last.allocation.device_speed[0], 1e-9)
    tail = tables.tail_seconds[columns, last.cuts] / np.maximum(last.allocation.edge_share[0], 1e-9)
    in_head = np.minimum(np.maximum(working, 0) * head / np.maximum(head + tail, 1e-9), 1.0)
    return np.where(turned, in_head + on_link, 0.0), np.where(turned, in_head + on_link + at_edge, 0.0)


def optimal_parts(work: UnderWay, weight: FloatArray, slot_seconds: float) -> FloatArray:
    """The part of the resource for each UE's older tasks that makes the sum of the slot's delays least; (ues,).

    n older tasks in a row wait ``n (n + 1) / 2`` times one task's seconds over their part x. The slot's own tasks wait
    theirs and, by the ``indep`` queue at load u, lose ``(1 + (1 - u)^-2) / 2`` for every second more of service. With
    costs ``sum a / x`` over ``sum x = 1`` every x is in proportion to ``sqrt(a)``. At most :data:`LARGEST_PART` of what
    the own tasks leave idle is given; everything where there are none; nothing where the residual share is more.
    """
    n = work.older_tasks
    root = np.sqrt(weight * n * (n + 1) / 2 * work.older_seconds)
    if not root.any():
        return np.zeros_like(root)
    slope = 0.5 * (1.0 + (1.0 - work.own_load) ** -2)
    own = np.sqrt(weight * work.own_tasks * work.own_seconds * slope).sum()
    part = root.sum() / (root.sum() + own)
    if own > 0:
        idle = 1.0 - float(np.sum(work.own_tasks * work.own_seconds)) / slot_seconds
        part = min(part, LARGEST_PART * max(idle, 0.0))
    parts = part * root / root.sum()
    residual = RESIDUAL_SHARE / (1.0 + RESIDUAL_SHARE * np.sum(work.own_tasks <= 0))
    return np.where(parts > residual, parts, 0.0)


def equal_parts(work: UnderWay) -> FloatArray:
    """The same part for every UE that has anything to do there, with older or with new tasks; (ues,)."""
    older = work.older_tasks * work.older_seconds > 0
    count = int(older.sum() + np.sum(work.own_tasks * work.own_seconds > 0))
    return np.where(older, 1.0 / max(count, 1), 0.0)

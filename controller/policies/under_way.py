"""What a decision leaves to tasks that are under way to the edge under an older cut.

A UE that turns to ``local`` may have tasks in its head, on its link and at the edge. With the residual share alone, 5 %
of the edge, their tails take a second where 50 ms were planned: few tasks, but 3 % of the mean delay of a lab whose
cuts change every few slots. The per-slot problem does not know them; it is stationary within the slot. Our choice,
not the paper's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from controller.contract import Observation
from controller.solvers.allocation import LEAST_ARRIVAL_RATE
from controller.solvers.chain import ChainTables, CutArray, SlotState
from controller.solvers.problem import FloatArray

#: Of what the slot's own tasks do not need of a resource, the most that older tasks are given.
LARGEST_PART = 0.5


class Work(NamedTuple):
    """Tasks for one resource, and how long one of them takes with all of it. Arrays are (ues,)."""

    tasks: FloatArray
    seconds: FloatArray


class UnderWay(NamedTuple):
    """One resource in one slot: what the older tasks of UEs that turned to ``local`` need, and the slot's own tasks."""

    older: Work
    own: Work


def older_tasks(tables: ChainTables, observation: Observation, before: CutArray, cuts: CutArray) -> FloatArray:
    """(ues,): tasks that UEs have on the way to the edge as their cuts change from ``before`` to local ones.

    A task whose head has not started takes the new cut; every other in flight counts as one with its whole transfer and
    tail before it.
    """
    turned = (cuts == tables.local) & (before != tables.local)
    if not turned.any():
        return np.zeros(cuts.shape)
    by_name = {ue.name: ue for ue in observation.ues}
    ues = [by_name[ue.name] for ue in tables.scenario.ues]
    started = [max(ue.in_flight_tasks - ue.device_queue_tasks, 0) for ue in ues]
    return np.where(turned, started, 0.0)


def under_way(
    tables: ChainTables, state: SlotState, older: FloatArray, before: CutArray, cuts: CutArray
) -> tuple[UnderWay, UnderWay]:
    """Of the spectrum and of the edge, for :func:`older_tasks` of cuts ``before`` and new tasks of ``cuts``, (ues,)."""
    edge_cpus, spectrum = tables.scenario.edge.cpus, tables.scenario.radio.uplink_hz
    arrivals = np.maximum(state.arrival_rate, LEAST_ARRIVAL_RATE) * tables.scenario.slot_seconds
    own = np.where(cuts == tables.local, 0.0, arrivals)
    columns = np.arange(cuts.size)
    quality = state.link_quality
    rate = np.where(tables.ues.linear, spectrum * quality, spectrum * np.log2(1.0 + quality / spectrum))
    per_bit = 1.0 / np.maximum(rate, 1.0)
    link, edge = (
        UnderWay(Work(older, table[columns, before] * scale), Work(own, table[columns, cuts] * scale))
        for table, scale in ((tables.wire_bits, per_bit), (tables.tail_seconds, 1.0 / edge_cpus))
    )
    return link, edge


def optimal_parts(work: UnderWay, weight: FloatArray, slot_seconds: float) -> FloatArray:
    """The part of the resource for each UE's older tasks that makes the sum of the slot's delays least; (ues,).

    n older tasks in a row wait ``n (n + 1) / 2`` times one task's seconds over their part x; the slot's own tasks take
    theirs. The minimum of ``sum a / x`` with ``sum x = 1`` has every x in proportion to ``sqrt(a)``. At most
    :data:`LARGEST_PART` of what the own tasks leave idle is given, and everything where there are none.
    """
    n, seconds = work.older
    root = np.sqrt(weight * n * (n + 1) / 2 * seconds)
    if not root.any():
        return np.zeros_like(root)
    own = np.sqrt(weight * work.own.tasks * work.own.seconds).sum()
    part = root.sum() / (root.sum() + own)
    if own > 0:
        idle = 1.0 - float(np.sum(work.own.tasks * work.own.seconds)) / slot_seconds
        part = min(part, LARGEST_PART * max(idle, 0.0))
    return np.asarray(part * root / root.sum())


def equal_parts(work: UnderWay) -> FloatArray:
    """The same part for every UE that has anything to do there, with older or with new tasks; (ues,)."""
    older = work.older.tasks * work.older.seconds > 0
    count = int(older.sum() + np.sum(work.own.tasks * work.own.seconds > 0))
    return np.where(older, 1.0 / max(count, 1), 0.0)

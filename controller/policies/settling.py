"""Where virtual queues settle in a lab, found from the formulas before its first slot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controller.contract import UeScenario
from controller.seeds import Purpose, generator
from controller.solvers.allocation.chain import ChainTables, CutArray, SlotState
from controller.solvers.allocation.cuts import project
from controller.solvers.allocation.improvement import improve
from controller.solvers.allocation.problem import FloatArray, Limits
from controller.solvers.allocation.shares import allocate

_SLOTS = 300
_COUNTED = 150  # the last so many
_CHANGES = 6  # of cuts per slot, at most


def settled_queues(tables: ChainTables, limits: Limits, seed: int) -> FloatArray:
    """Virtual queues (ues,) in budgets that a run would tend to at mean gains; 0 without a budget.

    The queues run as they do in a lab, in longer steps at first: the first is a tenth of what would make a slot's
    energy as dear as its delay.
    """
    ues = tables.scenario.ues
    rng = generator(seed, Purpose.TRAINING)
    gains = np.array([ue.mean_gain for ue in ues])
    quality, downlink = tables.link_quality(gains), tables.downlink_rate(gains)
    limited = np.isfinite(tables.budget_joules)
    budget = np.where(limited, tables.budget_joules, 1.0)
    queue = np.zeros(len(ues))
    kept: list[FloatArray] = []
    cuts: CutArray = tables.local[np.newaxis].copy()
    longest: FloatArray | None = None
    for slot in range(_SLOTS):
        rates = np.array([rng.choice(ue.arrivals.rates_per_second) for ue in ues])
        state = SlotState(rates, quality, downlink, queue * budget)
        cuts = improve(tables, project(tables, cuts, state), state, limits, _CHANGES).cuts
        found = allocate(tables.demands(cuts, state), tables.ues, limits)
        if longest is None:
            price = limits.v * tables.weights(rates) * np.minimum(found.delay_seconds[0], 10.0)
            longest = price / np.maximum(found.energy_joules[0], 1e-12) / budget / 10.0
        step = np.maximum(longest / (1.0 + slot / 3.0), 1.0)
        spent = found.energy_joules[0] / budget * _tasks(ues, rates * limits.slot_seconds, rng)
        queue = np.where(limited, np.maximum(queue + step * (spent - 1.0), 0.0), 0.0)
        if slot >= _SLOTS - _COUNTED:
            kept.append(queue)
    return np.asarray(np.mean(kept, axis=0))


def _tasks(ues: Sequence[UeScenario], expected: FloatArray, rng: np.random.Generator) -> FloatArray:
    """A slot's tasks over those expected, (ues,): what noise a queue that cannot fall below 0 is lifted by."""
    periodic = np.array([ue.arrivals.process == "periodic" for ue in ues])
    return np.where(periodic, 1.0, rng.poisson(expected) / np.maximum(expected, 1e-9))

"""Where virtual queues settle in a lab, found from the formulas before its first slot."""

from __future__ import annotations

import numpy as np

from controller.seeds import Purpose, generator
from controller.solvers.allocation import allocate
from controller.solvers.chain import ChainTables, CutArray, SlotState
from controller.solvers.cuts import project
from controller.solvers.improvement import improve
from controller.solvers.problem import FloatArray, Limits

_SLOTS = 300
_COUNTED = 150  # the last so many
_CHANGES = 6  # of cuts per slot, at most


def settled_queues(tables: ChainTables, limits: Limits, seed: int) -> FloatArray:
    """Virtual queues (ues,) in budgets that a run would tend to, with mean gains and drawn arrival states; 0 without
    a budget.

    The queues run as they do in a lab, in longer steps at first: the first is what would make a slot's energy as dear
    as its delay, over ten, the rest fall to the step of a slot or a hundredth of that.
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
        step = np.maximum(longest / (1.0 + slot / 3.0), np.minimum(1.0, longest / 10.0))
        queue = np.where(limited, np.maximum(queue + step * (found.energy_joules[0] / budget - 1.0), 0.0), 0.0)
        if slot >= _SLOTS - _COUNTED:
            kept.append(queue)
    return np.asarray(np.mean(kept, axis=0))

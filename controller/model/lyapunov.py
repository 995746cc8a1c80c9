"""Virtual energy queues and drift-plus-penalty: long-term constraints as per-slot problems.

For each UE n with a long-term mean energy budget ``Ebar_n`` per slot the virtual queue is

    Q_n(t+1) = max(Q_n(t) + E_n(t) - Ebar_n, 0)                                   [J]

and minimising, slot by slot, ``J(t) = sum_n V w_n D_n(t) + Q_n(t) (E_n(t) - Ebar_n)`` (V in J^2/s) keeps the budget
in the long run while the delay stays within O(1/V) of the best and Q within O(V) (Neely 2010, "Stochastic Network
Optimization with Application to Communication and Queueing Systems", ch. 4). Summing the recursion,
``mean(E) - Ebar <= (Q(T) - Q(0)) / T``: the excess of a run of T slots can be read off the queue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


@dataclass
class EnergyQueues:
    """The virtual queues of all UEs. A UE whose budget is infinite has a queue that stays 0.

    ``budget_joules`` is (ues,), ``queue_joules`` (ues,) or, batched over environments, (environments, ues).
    """

    budget_joules: FloatArray
    queue_joules: FloatArray

    @classmethod
    def start(cls, budget_joules: ArrayLike, initial_over_budget: ArrayLike = 0.0) -> EnergyQueues:
        """Queues at ``initial_over_budget`` times the budget (0: the textbook start)."""
        budget = np.asarray(budget_joules, dtype=np.float64)
        ratio = np.broadcast_to(np.asarray(initial_over_budget, dtype=np.float64), budget.shape)
        return cls(budget, np.where(np.isfinite(budget), np.where(np.isfinite(budget), budget, 0.0) * ratio, 0.0))

    def update(self, energy_joules: ArrayLike) -> None:
        """Charge one slot's *measured* energy, shape like the queue."""
        energy = np.asarray(energy_joules, dtype=np.float64)
        self.queue_joules = np.maximum(self.queue_joules + energy - self.budget_joules, 0.0)

    def drift_plus_penalty(self, v: float, weighted_delay_seconds: ArrayLike, energy_joules: ArrayLike) -> float:
        """``sum_n V w_n D_n + Q_n (E_n - Ebar_n)`` of one slot, in J^2. UEs without a budget add no drift."""
        limited = np.isfinite(self.budget_joules)
        excess = np.where(limited, np.asarray(energy_joules) - np.where(limited, self.budget_joules, 0.0), 0.0)
        return float(np.sum(v * np.asarray(weighted_delay_seconds) + self.queue_joules * excess))

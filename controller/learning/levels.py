"""What an actor that chooses everything chooses between: levels of speed and of shares, and what they add up to.

Beside its cut a UE chooses a level of its speed and a weight each for spectrum and edge; a share is its weight over the
sum of the weights of all UEs that have work there. Everything is discrete, so that one categorical policy learns it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.solvers.allocation.chain import ChainTables, CutArray, SlotState
from controller.solvers.allocation.evaluation import evaluate, shares_by_weight
from controller.solvers.allocation.problem import Allocation, AllocationModel, Limits

LEVELS = 10
#: of the UE's maximum, 23 % apart
SPEED_RATIOS = np.geomspace(0.15, 1.0, LEVELS)
#: 47 % apart: half a step changes a delay by a few per cent at most, as the optimum is flat
SHARE_WEIGHTS = np.geomspace(1.0, 32.0, LEVELS)


def decided(
    tables: ChainTables,
    limits: Limits,
    cuts: CutArray,
    levels: NDArray[np.int64],
    state: SlotState,
    model: AllocationModel = "indep",
) -> Allocation:
    """Cuts (environments, ues) with levels (environments, ues, 3) of speed, spectrum and edge: what the slot brings.

    ``feasible`` is False, and the cost inf, where a stage is overloaded.
    """
    demands = tables.demands(cuts, state)
    speed, spectrum, edge = levels[..., 0], SHARE_WEIGHTS[levels[..., 1]], SHARE_WEIGHTS[levels[..., 2]]
    chosen = Allocation(
        device_speed=tables.ues.max_speed * SPEED_RATIOS[speed],
        spectrum_hz=shares_by_weight(spectrum, demands.wire_bits, limits.spectrum_hz, tables.ues.station),
        edge_share=shares_by_weight(edge, demands.tail_seconds, limits.edge_cpus),
        delay_seconds=np.zeros(cuts.shape),
        energy_joules=np.zeros(cuts.shape),
        cost=np.zeros(cuts.shape[0]),
        feasible=np.ones(cuts.shape[0], dtype=np.bool_),
        largest_load=np.zeros(cuts.shape[0]),
    )
    return evaluate(chosen, demands, tables.ues, limits, model)

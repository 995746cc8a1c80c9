"""How many tasks a run has, whatever happens to it: arrivals are open loop, by a law and a seed."""

from __future__ import annotations

import math

import numpy as np

from controller.model.arrivals import ArrivalProcess
from testbed.labfile.scenario import arrivals_of
from testbed.labfile.schema import Topology


def expected_tasks(topology: Topology, duration_seconds: float) -> dict[str, int]:
    """Arrivals of each UE in so many seconds. Independent of every program of a lab."""
    slots = math.ceil(duration_seconds / topology.slot)
    counts: dict[str, int] = {}
    for ue in topology.expand():
        arrivals, times = arrivals_of(ue)
        process = ArrivalProcess(arrivals, topology.slot, topology.seed, ue.index, times)
        counts[ue.name] = sum(int(np.sum(process.next_slot() < duration_seconds)) for _ in range(slots))
    return counts

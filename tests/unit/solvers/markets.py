"""Random markets for the tests of the game: devices with models of 8 to 16 nodes, the envelope of each."""

from __future__ import annotations

import functools

import numpy as np
from dags import random_graph

from controller.solvers.dag.envelope import DemandCosts, envelope
from controller.solvers.dag.game import Device, Market
from controller.solvers.dag.mincut import CutGraph


def random_costs(rng: np.random.Generator, size: int) -> DemandCosts:
    """About a second per node on the device and 0.05 s of a whole edge; uplinks from slow to fast."""
    device = rng.uniform(0.5, 1.5, size)
    work = 0.05 * device * rng.uniform(0.5, 1.5, size)
    device[0] = work[0] = 0.0
    transfer = rng.exponential(size=size) * rng.choice([0.1, 0.5, 2.0])
    return DemandCosts(device, transfer, work, 0.02 * transfer * rng.uniform(size=size), float(rng.uniform(0, 0.1)))


def random_device(rng: np.random.Generator, capacity: float) -> Device:
    size = int(rng.integers(8, 17))
    costs = random_costs(rng, size)
    lines = envelope(CutGraph(random_graph(rng, size, 4)), costs, capacity / 1000, capacity)
    return Device.of(lines, float(costs.device.sum()), float(rng.uniform(0.5, 1.5)))


@functools.cache
def random_market(seed: int, count: int, base: float) -> tuple[Market, list[Device]]:
    """Capacity 0.25 per device and slope 10 base / capacity."""
    rng = np.random.default_rng([seed, count])
    capacity = 0.25 * count
    devices = [random_device(rng, capacity) for _ in range(count)]
    return Market(capacity, base, 10 * base / capacity), devices

"""Random slots that can be kept stable, from nearly idle to a load of 0.99: shared by tests and benchmarks."""

from __future__ import annotations

import numpy as np

from controller.solvers.allocation.problem import Demands, Limits, UeConstants


def random_instances(
    environments: int, ues: int, seed: int, *, highest_load: float = 0.99, queue_scale: float = 1.0
) -> tuple[Demands, UeConstants, Limits]:
    """Feasible by construction: loads are drawn for a random split, the work follows from them.

    About a fifth of the UEs run all on the device, a fifth all on the edge, one in ten links is of kind "rate".
    """
    rng = np.random.default_rng(seed)
    shape = (environments, ues)
    local = rng.random(shape) < 0.2
    remote = ~local & (rng.random(shape) < 0.25)
    constants = UeConstants(
        max_speed=rng.uniform(0.2, 1.0, ues),
        kappa=rng.uniform(1.0, 60.0, ues),
        transmit_watts=rng.uniform(0.1, 0.5, ues),
        weight=rng.uniform(0.5, 2.0, ues),
        linear=rng.random(ues) < 0.1,
        variability=np.resize([1.0, 0.1, 1.0, 0.01], ues),
        station=np.zeros(ues, dtype=np.int64),
    )
    limits = Limits(
        spectrum_hz=1e6 * ues,
        edge_cpus=0.2 * ues,
        slot_seconds=2.0,
        v=10 ** rng.uniform(-1.5, 0.5),
    )
    rate = rng.uniform(0.5, 6.0, shape)
    # half of the slots are drawn near saturation
    ceiling = np.where(rng.random((environments, 1)) < 0.5, highest_load, 0.6)

    def split(total: float, idle: np.ndarray) -> np.ndarray:
        weights = np.where(idle, 0.0, rng.uniform(0.2, 1.0, shape))
        sums = weights.sum(axis=1, keepdims=True)
        return np.divide(weights * total, sums, out=np.zeros(shape), where=sums > 0)

    spectrum = split(limits.spectrum_hz, local)
    edge = split(limits.edge_cpus, local)
    quality = np.where(constants.linear, rng.uniform(0.5, 8.0, shape), 10 ** rng.uniform(5.5, 9.0, shape))
    safe = np.where(spectrum > 0, spectrum, 1.0)
    capacity = np.where(constants.linear, spectrum * quality, spectrum * np.log2(1 + quality / safe))
    return (
        Demands(
            arrival_rate_per_second=rate,
            weight=constants.weight * rate / 3.0,
            head_seconds=np.where(remote, 0.0, rng.uniform(0.05, ceiling, shape) * constants.max_speed / rate),
            wire_bits=np.where(local, 0.0, rng.uniform(0.05, ceiling, shape) * capacity / rate),
            tail_seconds=np.where(local, 0.0, rng.uniform(0.05, ceiling, shape) * edge / rate),
            link_quality=quality,
            queue_joules=np.where(rng.random(shape) < 0.2, 0.0, rng.exponential(queue_scale, shape)),
            constant_seconds=np.where(local, 0.0, rng.uniform(0.0, 0.02, shape)),
            download_seconds=np.where(local, 0.0, rng.uniform(0.0, 0.005, shape)),
        ),
        constants,
        limits,
    )

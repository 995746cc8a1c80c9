"""ARA against all shares on a grid and all plans, for two UEs that upload their models."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from controller.solvers.upload.shares import UploadUe, allocate_shares, serial

BANDWIDTH, CAPACITY, GRID = 4e6, 20.0, 16


def one_ue(rng: np.random.Generator, layers: int) -> UploadUe:
    return UploadUe(
        device_seconds=rng.exponential(0.4, layers),
        edge_work=rng.exponential(0.5, layers),
        output_bits=rng.exponential(1e6, layers + 1),
        parameter_bits=rng.exponential(2e6, layers),
        bits_per_second_per_hz=float(rng.uniform(2, 6)),
        down_bits_per_second=50e6,
    )


def least_of_every_plan(ue: UploadUe, bandwidth_hz: float, capacity: float) -> float:
    """Least latency without pipelining: one thing after the other, tried for every site of every layer."""
    best = ue.local_seconds
    if bandwidth_hz <= 0 or capacity <= 0:
        return best
    rate = bandwidth_hz * ue.bits_per_second_per_hz
    for sites in itertools.product((False, True), repeat=len(ue.device_seconds)):
        seconds, at_edge = 0.0, False
        for layer, site in enumerate((*sites, False)):
            if site != at_edge:
                seconds += ue.output_bits[layer] / (rate if site else ue.down_bits_per_second)
                at_edge = site
            if layer < len(sites):
                seconds += ue.parameter_bits[layer] / rate + ue.edge_work[layer] / capacity if site else 0.0
                seconds += 0.0 if site else ue.device_seconds[layer]
        best = min(best, seconds)
    return best


@pytest.mark.parametrize(("objective", "gap"), [("mean", 0.02), ("max", 0.05)])
def test_no_shares_on_a_grid_are_much_better_than_those_that_are_found(objective: str, gap: float) -> None:
    # of the slowest, a move of one resource to a UE that has neither gains nothing: ARA ends there
    rng = np.random.default_rng(12)
    offloaded = 0
    for _ in range(6):
        ues = [one_ue(rng, 3), one_ue(rng, 3)]
        found = allocate_shares(ues, BANDWIDTH, CAPACITY, objective=objective, planner=serial)  # type: ignore[arg-type]
        best = math.inf
        for part, share in itertools.product(np.linspace(0, 1, GRID + 1), repeat=2):
            first = least_of_every_plan(ues[0], part * BANDWIDTH, share * CAPACITY)
            second = least_of_every_plan(ues[1], (1 - part) * BANDWIDTH, (1 - share) * CAPACITY)
            best = min(best, (first + second) / 2 if objective == "mean" else max(first, second))
        for ue, hertz, cpus, seconds in zip(ues, found.bandwidth_hz, found.capacity, found.seconds, strict=True):
            assert seconds == pytest.approx(least_of_every_plan(ue, hertz, cpus), rel=1e-9)
            offloaded += seconds < ue.local_seconds * (1 - 1e-9)
        assert found.value(objective) <= best * (1 + gap)  # type: ignore[arg-type]
    assert offloaded >= 6

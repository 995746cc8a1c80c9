"""What DDS is compared with: policies that cut a model's graph for each UE at equal shares, or for all at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from controller.contract import Cut, Observation, Scenario
from controller.model.radio import LinkRates
from controller.policies.dag import DagPolicy, DagUe, Stages
from controller.seeds import Purpose, generator
from controller.solvers.dag.envelope import Line, best_line
from controller.solvers.dag.game import Device
from controller.solvers.dag.mincut import Bools, CutCosts

Mode = Literal["auto", "light", "heavy"]


class NeurosurgeonDag(DagPolicy):
    """Neurosurgeon (Kang et al., ASPLOS 2017) on a graph that is laid out as a chain in topological order.

    After DADS, which compares with it so: a cut is a prefix of the order, and every tensor that is alive there crosses.
    """

    def reset(self, scenario: Scenario, seed: int) -> None:
        super().reset(scenario, seed)
        sizes = [len(ue.ue.profile.nodes) for ue in self.ues]
        self._prefixes = [[np.arange(size) < length for length in range(1, size + 1)] for size in sizes]

    def plan(self, observation: Observation) -> Sequence[tuple[Cut, float]]:
        plan = []
        for ue, rate, prefixes in zip(self.ues, self.rates(observation), self._prefixes, strict=True):
            lines = [ue.line(rate, prefix) for prefix in prefixes]
            plan.append((best_line(lines, self.equal_share).cut, self.equal_share))
        return plan


class Dads(DagPolicy):
    """DADS (Hu et al., INFOCOM 2019) for each UE by itself, at an equal share of the edge.

    Lightly loaded, the cut of least latency. When its busiest stage would be too slow for the UE's arrivals, the cut
    with the least busy busiest stage (DSH): minimum cuts under weights of the device's and of the edge's part, on a
    coarse grid and then a fine one around its best.

    Options
    -------
    mode : "auto" (by the load), or always "light" (least latency) or "heavy" (least busy).
    """

    def __init__(self, mode: Mode = "auto") -> None:
        if mode not in ("auto", "light", "heavy"):
            raise ValueError(f"mode must be auto, light or heavy, got {mode!r}")
        self._mode = mode

    def reset(self, scenario: Scenario, seed: int) -> None:
        super().reset(scenario, seed)
        self._heavy_cuts: dict[tuple[int, LinkRates], Bools] = {}
        self._heavy = [0.0 for _ in scenario.ues]

    def plan(self, observation: Observation) -> Sequence[tuple[Cut, float]]:
        plan = []
        rates = self.rates(observation)
        for index, (ue, rate, seen) in enumerate(zip(self.ues, rates, observation.ues, strict=True)):
            costs = ue.costs(rate).demand_costs.at(1 / self.equal_share)
            on_device = ue.graph.solve(costs).on_device
            busiest = max(ue.stages(rate, on_device, self.equal_share))
            heavy = self._mode == "heavy" or (
                self._mode == "auto" and busiest * seen.nominal_arrival_rate_per_second > 1
            )
            self._heavy[index] = float(heavy)
            if heavy:
                key = (index, rate)
                if key not in self._heavy_cuts:
                    self._heavy_cuts.setdefault(key, self._least_busy(ue, rate, on_device))
                on_device = self._heavy_cuts[key]
            plan.append((ue.graph.cut(on_device), self.equal_share))
        return plan

    def _least_busy(self, ue: DagUe, rate: LinkRates, light: Bools) -> Bools:
        costs = ue.costs(rate)

        def busy(on_device: Bools) -> tuple[float, float]:
            stages: Stages = ue.stages(rate, on_device, self.equal_share)
            return max(stages), sum(stages)

        def at(alpha: float, gamma: float) -> Bools:
            weighted = CutCosts(
                alpha * costs.device,
                gamma * costs.edge_work / self.equal_share,
                alpha * costs.encode + costs.air + gamma * costs.decode_work / self.equal_share,
            )
            return ue.graph.solve(weighted).on_device

        best, best_at = light, (0.0, 0.0)
        for step, reach in ((2.0, 3), (0.5, 3)):
            grid = [step * k for k in range(-reach, reach + 1)]
            for up, down in itertools.product(grid, grid):
                logs = (best_at[0] + up, best_at[1] + down) if step < 1 else (up, down)
                candidate = at(2.0 ** logs[0], 2.0 ** logs[1])
                if busy(candidate) < busy(best):
                    best, centre = candidate, logs
                    if step > 1:
                        best_at = centre
        return best

    def state(self) -> dict[str, float]:
        return {f"heavy.{ue.name}": value for ue, value in zip(self.scenario.ues, self._heavy, strict=True)}


class JointPolicy(DagPolicy):
    """Cuts and shares of all UEs by one who knows everything: the least weighted sum of latencies."""

    def devices(self, observation: Observation) -> list[Device]:
        rates = self.rates(observation)
        return [ue.device(rate, self.capacity, ue.ue.weight) for ue, rate in zip(self.ues, rates, strict=True)]

    def starts(self, devices: Sequence[Device], observation: Observation) -> list[list[float]]:
        """Shares to begin with."""
        raise NotImplementedError

    def plan(self, observation: Observation) -> Sequence[tuple[Cut, float]]:
        devices = self.devices(observation)
        starts = self.starts(devices, observation)
        found = min((improve(devices, self.capacity, start) for start in starts), key=lambda one: one[0])
        self._weighted_seconds = found[0]
        return [(line.cut, share) if line else ((), 0.0) for line, share in found[1]]

    def reset(self, scenario: Scenario, seed: int) -> None:
        super().reset(scenario, seed)
        self._weighted_seconds = 0.0

    def state(self) -> dict[str, float]:
        return {"weighted_latency_seconds": self._weighted_seconds}


class Iao(JointPolicy):
    """Cuts and shares in turn, from equal shares, until neither changes: like IAO (Tang et al., arXiv 2007.09072).

    [INFER]: of that paper only the abstract was available; the shares here are continuous.
    """

    def starts(self, devices: Sequence[Device], observation: Observation) -> list[list[float]]:
        return [[self.capacity / len(devices)] * len(devices)]


class Optimum(JointPolicy):
    """The same from many starts: the best shares on a grid, equal shares, each UE's absence, and chance.

    Options
    -------
    starts : from how many; the best end is taken.
    """

    def __init__(self, starts: int = 40) -> None:
        if starts < 1:
            raise ValueError(f"starts must be at least 1, got {starts!r}")
        self._starts = starts

    def starts(self, devices: Sequence[Device], observation: Observation) -> list[list[float]]:
        count = len(devices)
        rng = generator(self.seed, Purpose.POLICY, observation.slot)
        equal = [self.capacity / count] * count
        without = [
            [0.0 if i == left else self.capacity / max(count - 1, 1) for i in range(count)] for left in range(count)
        ]
        drawn = rng.dirichlet(np.full(count, 0.7), size=self._starts) * self.capacity
        return [best_on_grid(devices, self.capacity), equal, *without, *drawn.tolist()]


Choice = tuple[Line | None, float]  # None: on the device


def improve(devices: Sequence[Device], capacity: float, shares: Sequence[float]) -> tuple[float, list[Choice]]:
    """Best cuts at these shares, best shares at these cuts, and so on while the sum of latencies falls.

    Shares at given cuts are in proportion to ``sqrt(value work)``. Returns (weighted sum, (line or None, share) each).
    """
    best = math.inf
    choices: list[Choice] = []
    current = list(shares)
    while True:
        lines = [_line_at(device, share) for device, share in zip(devices, current, strict=True)]
        roots = [
            0.0 if line is None else math.sqrt(device.value_per_second * line.work_seconds)
            for device, line in zip(devices, lines, strict=True)
        ]
        total = sum(roots)
        current = [capacity * root / total if total else 0.0 for root in roots]
        seconds = sum(
            device.value_per_second * (device.local_seconds if line is None else line.seconds(share))
            for device, line, share in zip(devices, lines, current, strict=True)
        )
        if not seconds < best * (1 - 1e-12):
            return best, choices
        best, choices = seconds, list(zip(lines, current, strict=True))


def best_on_grid(devices: Sequence[Device], capacity: float, steps: int = 300) -> list[float]:
    """The shares, in whole steps of the capacity, with the least weighted sum of latencies: by dynamic programming."""
    shares = np.arange(steps + 1) * (capacity / steps)
    least = np.zeros(steps + 1)  # of the devices so far, by what they have together
    taken = []
    for device in devices:
        own = np.array([device.value_per_second * device.latency(share) for share in shares])
        sums = np.full((steps + 1, steps + 1), np.inf)  # by what all have, and what this one has
        for mine in range(steps + 1):
            sums[mine:, mine] = least[: steps + 1 - mine] + own[mine]
        taken.append(sums.argmin(axis=1))
        least = sums.min(axis=1)
    left, found = steps, []
    for choice in reversed(taken):
        found.append(float(shares[choice[left]]))
        left -= int(choice[left])
    return found[::-1]


def _line_at(device: Device, share: float) -> Line | None:
    """The best cut at a share; None: on the device."""
    if share <= 0 or not device.lines:
        return None
    line = best_line(device.lines, share)
    return line if line.seconds(share) < device.local_seconds else None

"""Many slots at once by the formula: environments for training, and fixed cut vectors over whole runs (compiled)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller.compiled import compiled
from controller.contract import Scenario
from controller.learning.network import features
from controller.simulator.channels import ChannelStates
from controller.solvers.allocation.chain import ChainTables, CutArray, SlotState
from controller.solvers.allocation.cuts import feasible_alone, gather_cuts, project, project_one
from controller.solvers.allocation.newton import SPECTRUM, service_derivatives
from controller.solvers.allocation.problem import (
    OVERLOAD_DELAY_SECONDS,
    Allocation,
    AllocationModel,
    FloatArray,
    Limits,
)
from controller.solvers.allocation.shares import (
    LEAST_ARRIVAL_RATE,
    SCRATCH_ROWS,
    SMALLEST_PRICE,
    allocate,
    allocate_slot,
)


class BatchStep(NamedTuple):
    """Arrays are (environments,) or (environments, ues)."""

    reward: FloatArray  # -J / (N V), the constant Q Ebar left out
    allocation: Allocation
    cuts: CutArray  # after projection


class SlotBatch:
    """``environments`` copies of a lab, one slot per step, deterministic in ``seed``.

    Every environment walks through the same channel series (one row per slot), each UE from a random place of its own;
    arrival states switch independently; virtual queues are charged with the formula's energy.
    """

    def __init__(
        self,
        scenario: Scenario,
        channel: ChannelStates,
        environments: int,
        v: float,
        seed: int,
        *,
        delay_model: AllocationModel = "indep",
        queue_scale: float = 0.0,
    ) -> None:
        """``queue_scale``: virtual queues at reset are exponential with this mean, in budgets (0: they start at 0).

        Raises ValueError if the channel's rows are not slots or its links not the scenario's UEs.
        """
        if not np.isclose(channel.step_seconds, scenario.slot_seconds) or channel.up.shape[1] != len(scenario.ues):
            raise ValueError("a batch needs one channel row per slot and one column per UE: see ChannelStates.at_slots")
        self.tables = ChainTables.of(scenario)
        self.limits: Limits = self.tables.limits(v)
        self.delay_model: AllocationModel = delay_model
        self.queue_scale = queue_scale
        self._quality, self._downlink = channel.link_states(self.tables)
        self._rng = np.random.default_rng(seed)
        self._shape = (environments, len(scenario.ues))
        self._rates = np.array([(ue.arrivals.rates_per_second * 2)[:2] for ue in scenario.ues])
        self._switch = np.array(
            [ue.arrivals.switch_probability if ue.arrivals.process == "switching" else 0.0 for ue in scenario.ues]
        )
        self._budget = np.where(np.isfinite(self.tables.budget_joules), self.tables.budget_joules, 0.0)
        self.reset()

    @property
    def environments(self) -> int:
        return self._shape[0]

    def reset(self) -> SlotState:
        """New places in the channel, new arrival states, new virtual queues."""
        self._row = self._rng.integers(0, self._quality.shape[0], self._shape)
        self._high = self._rng.integers(0, 2, self._shape)
        self.queue_joules = self._rng.exponential(size=self._shape) * self.queue_scale * self._budget
        return self.state()

    def reset_queues(self, which: NDArray[np.bool_]) -> None:
        """Draw the virtual queues of some environments (environments,) anew: an episode ends."""
        drawn = self._rng.exponential(size=self._shape) * self.queue_scale * self._budget
        self.queue_joules = np.where(which[:, np.newaxis], drawn, self.queue_joules)

    def state(self) -> SlotState:
        columns = np.arange(self._shape[1])
        return SlotState(
            arrival_rate=self._rates[columns, self._high],
            link_quality=self._quality[self._row, columns],
            downlink_rate=self._downlink[self._row, columns],
            queue_joules=self.queue_joules,
        )

    def features(self) -> FloatArray:
        """(environments, ues, FEATURES) of the present slot."""
        return features(self.tables, self.state())

    def mask(self) -> NDArray[np.bool_]:
        """(environments, ues, candidates): cuts that a UE could have on its own in the present slot."""
        return feasible_alone(self.tables, self.state(), self.environments)

    def score(self, cuts: CutArray) -> BatchStep:
        """Project and solve the cuts (environments, ues) of the present slot, without taking a step."""
        state = self.state()
        projected = project(self.tables, cuts, state)
        demands = self.tables.demands(projected, state)
        allocation = allocate(demands, self.tables.ues, self.limits, self.delay_model)
        overload = self.limits.v * demands.weight.sum(axis=1) * OVERLOAD_DELAY_SECONDS
        cost = np.where(allocation.feasible, allocation.cost, overload)
        return BatchStep(-cost / (self._shape[1] * self.limits.v), allocation, projected)

    def step(self, cuts: CutArray) -> BatchStep:
        """Take these cuts, charge the virtual queues, go to the next slot."""
        step = self.score(cuts)
        self.advance(step.allocation.energy_joules)
        return step

    def advance(self, energy_joules: FloatArray) -> None:
        """To the next slot with this energy spent, (environments, ues)."""
        limited = np.isfinite(self.tables.budget_joules)
        self.queue_joules = np.where(limited, np.maximum(self.queue_joules + energy_joules - self._budget, 0.0), 0.0)
        self._row = (self._row + 1) % self._quality.shape[0]
        self._high = np.where(self._rng.random(self._shape) < self._switch, 1 - self._high, self._high)


# ---------------------------------------------------------------------------------------------------- whole runs


@dataclass(frozen=True)
class FixedRuns:
    """Means over the slots after the warm-up, one row per cut vector."""

    cuts: CutArray  # (runs, ues)
    delay_seconds: FloatArray  # (runs,) weighted by arrival rate, as tasks are
    energy_joules: FloatArray  # (runs, ues) per slot
    overloaded_slots: NDArray[np.int64]  # (runs,)


@compiled
def _run_fixed(cuts, queue, quality, downlink, rates, warmup, convex, head, bits, tail, constant, down_bits, counts, max_speed, kappa, watts, linear, variability, price, budget, station, spectrum, cpus, slot, delay_out, energy_out, overloaded):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    runs, n = cuts.shape
    slots = quality.shape[0]
    work = np.empty((5, n))
    scratch = np.empty((SCRATCH_ROWS, n))
    result = np.empty((5, n))
    active = np.empty(n, dtype=np.bool_)
    chosen = np.empty(n, dtype=np.int64)
    pair = np.empty((2, n))
    for e in range(runs):
        weighted = 0.0
        tasks = 0.0
        for t in range(slots):
            chosen[:] = cuts[e]
            if convex:
                project_one(chosen, rates[t], quality[t], head, bits, tail, counts, max_speed, linear, station, spectrum, cpus, scratch[0], scratch[1], pair)  # fmt: skip  # noqa: E501
                gather_cuts(chosen, rates[t], downlink[t], head, bits, tail, constant, down_bits, work)
                feasible = allocate_slot(
                    False, rates[t], work[0], work[1], work[2], quality[t], queue[e], work[3], work[4], max_speed,
                    kappa, watts, linear, variability, price[t], station, spectrum, cpus, slot, 0.0, result[0],
                    result[1], result[2], result[3], result[4], scratch, active,
                )[1]  # fmt: skip
            else:
                feasible = True
                gather_cuts(chosen, rates[t], downlink[t], head, bits, tail, constant, down_bits, work)
                for i in range(n):
                    result[0, i], result[1, i], result[2, i] = max_speed[i], spectrum / n, cpus / n
            overloaded[e] += not feasible
            for i in range(n):
                rate = rates[t, i]
                first = work[0, i] / result[0, i]
                second = 0.0
                extra = work[3, i]
                if work[1, i] > 0.0:
                    second = service_derivatives(SPECTRUM, result[1, i], work[1, i], quality[t, i], linear[i])[0]
                    extra += work[4, i] * n
                third = work[2, i] / result[2, i] if work[2, i] > 0.0 else 0.0
                slowest = max(first, second, third)
                load = rate * slowest
                energy = slot * (
                    kappa[i] * result[0, i] ** 3 * min(rate * first, 1.0) + watts[i] * min(rate * second, 1.0)
                )
                queue[e, i] = max(queue[e, i] + energy - budget[i], 0.0)
                if t >= warmup:
                    total = OVERLOAD_DELAY_SECONDS
                    if load < 1.0:
                        total = first + second + third + extra
                        total += variability[i] * load * slowest / (2.0 * (1.0 - load))
                    weighted += rate * total
                    tasks += rate
                    energy_out[e, i] += energy
        delay_out[e] = weighted / tasks
        for i in range(n):
            energy_out[e, i] /= slots - warmup


def run_fixed_cuts(
    scenario: Scenario,
    channel: ChannelStates,
    arrival_rates: FloatArray,
    cuts: CutArray,
    v: float,
    *,
    convex: bool = True,
    warmup_slots: int = 0,
) -> FixedRuns:
    """Every cut vector (runs, ues) over the same slots, delay by the ``exact`` formula.

    ``convex``: speed, spectrum and share by the convex step under virtual queues, as ``fixed+convex`` decides; else
    full speed and equal shares. ``channel`` has a row per slot, ``arrival_rates`` is (slots, ues).
    """
    if scenario.radio.access_points > 1:
        raise ValueError("runs of fixed cuts know one access point only: use the simulator")
    tables = ChainTables.of(scenario)
    quality, downlink = (np.ascontiguousarray(x) for x in channel.link_states(tables))
    slots = quality.shape[0]
    if arrival_rates.shape != quality.shape:
        raise ValueError(f"arrival_rates is {arrival_rates.shape}, the channel {quality.shape}: both (slots, ues)")
    if not 0 <= warmup_slots < slots:
        raise ValueError(f"warmup_slots must be in [0, {slots}), got {warmup_slots}")
    vectors = np.ascontiguousarray(cuts, dtype=np.int64)
    limits, ues = tables.limits(v), tables.ues
    delay, energy = np.zeros(vectors.shape[0]), np.zeros(vectors.shape)
    overloaded = np.zeros(vectors.shape[0], dtype=np.int64)
    _run_fixed(
        vectors, np.zeros(vectors.shape), quality, downlink, np.maximum(arrival_rates, LEAST_ARRIVAL_RATE),
        warmup_slots, convex, tables.head_seconds, tables.wire_bits, tables.tail_seconds, tables.constant_seconds,
        tables.down_bits, tables.counts, ues.max_speed, ues.kappa, ues.transmit_watts, ues.linear,
        ues.variability, np.maximum(v * tables.weights(arrival_rates), SMALLEST_PRICE), tables.budget_joules,
        ues.station, limits.spectrum_hz, limits.edge_cpus, limits.slot_seconds, delay, energy, overloaded,
    )  # fmt: skip
    return FixedRuns(vectors, delay, energy, overloaded)

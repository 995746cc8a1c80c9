"""Li-GD over NOMA (after X. Yuan et al., arXiv 2312.15850) and what it is compared with: see docs/noma.md."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from controller.contract import ALL_ON_DEVICE, Decision, Observation, Scenario, UeDecision
from controller.model.radio import DIRECTIONS, spread
from controller.policies.base import BasicPolicy
from controller.seeds import Purpose, generator, integer
from controller.solvers.allocation.chain import ChainTables, in_order
from controller.solvers.noma.descent import PER_SLOT
from controller.solvers.noma.li_gd import SplitPlan, evaluate_seats, solve
from controller.solvers.noma.relaxation import DOWN, TABLES, UP, Access, SplitProblem

Floats = NDArray[np.float64]


class LiGd(BasicPolicy):
    """Split, subchannels, powers (both ways) and edge shares of all UEs at once, each slot.

    Minimises ``sum_i w_i (time_weight T_i / T_i,local + (1 - time_weight) E_i / E_i,local)``: delay without queueing,
    energy of device, radio (both ways) and edge, over what computing on the device costs. Each slot's descent starts at
    the last slot's optimum. A UE that gains nothing from any split even alone in the cell stays local.

    Options
    -------
    time_weight : of delay against energy, 0 to 1.
    tolerance : relative decrease at which a descent ends.
    qoe_seconds : a delay that users are content with; 0: off.
    qoe_weight : what meeting it is worth, per user.
    entropy_weight : of a penalty on spreading over subchannels in a second descent for seats, of which the better ones
        are kept (it takes about twice as long); 0: off.
    """

    access: Access | None = None  # None: the radio's

    def __init__(
        self,
        time_weight: float = 0.7,
        tolerance: float = PER_SLOT.tolerance,
        qoe_seconds: float = 0.0,
        qoe_weight: float = 1.0,
        entropy_weight: float = 0.0,
    ) -> None:
        if not 0 < time_weight <= 1:
            raise ValueError(f"time_weight must be in (0, 1], got {time_weight!r}")
        if not tolerance > 0 or not qoe_seconds >= 0 or not qoe_weight >= 0:
            raise ValueError("tolerance must be above 0, qoe_seconds and qoe_weight at least 0")
        if not entropy_weight >= 0:
            raise ValueError(f"entropy_weight must be at least 0, got {entropy_weight!r}")
        self._time_weight = time_weight
        self._qoe_seconds, self._qoe_weight = qoe_seconds, qoe_weight
        self._options = dataclasses.replace(
            PER_SLOT, tolerance=tolerance, entropy_weights=(entropy_weight,) if entropy_weight else ()
        )

    def reset(self, scenario: Scenario, seed: int) -> None:
        """Raises ValueError for a channel of kind "rate": it has no gain."""
        super().reset(scenario, seed)
        for ue in scenario.ues:
            if ue.channel_kind == "rate":
                raise ValueError(f"{ue.name} has a channel of kind 'rate'; Li-GD works on gains")
        self._tables = ChainTables.of(scenario)
        self._access: Access = self.access or scenario.radio.access
        self._start: Floats | None = None
        self._plan: SplitPlan | None = None

    # ---------------------------------------------------------------------------------------------------- the problem

    def problem(self, observation: Observation) -> SplitProblem:
        """The slot's cell. Edge work is in seconds of a reference core."""
        scenario, tables = self.scenario, self._tables
        radio, edge = scenario.radio, scenario.edge
        seen = in_order(scenario, observation)
        gains = np.stack([
            [spread(radio, ue, one.gain_up if way == "up" else one.gain_down, way) for ue, one in zip(
                scenario.ues, seen, strict=True)]
            for way in DIRECTIONS
        ])  # fmt: skip
        speed = np.array([self.speed(ue) for ue in scenario.ues])
        device_seconds = tables.head_seconds / speed[:, np.newaxis]
        device_joules = (tables.ues.kappa * speed**3)[:, np.newaxis] * device_seconds
        row, local = np.arange(len(seen)), tables.local
        sends = tables.wire_bits > 0
        weight = tables.ues.weight
        access = self._access
        return SplitProblem(
            device_seconds=device_seconds,
            device_joules=device_joules,
            up_bits=tables.wire_bits,
            down_bits=np.where(sends, tables.down_bits, 0.0),
            edge_work=np.where(sends, tables.tail_seconds, 0.0),
            constant_seconds=np.where(sends, tables.constant_seconds, 0.0),
            gains=gains,
            max_watts=np.stack([tables.ues.transmit_watts, np.full(len(seen), radio.downlink_power_watts)]),
            subchannel_hz=(radio.uplink_hz / radio.subchannels, radio.downlink_hz / radio.subchannels),
            noise_watts_per_hz=radio.noise_watts_per_hz,
            edge_capacity=edge.cpus,
            edge_joules_per_work=edge.compute_watts / edge.cpus**3,
            access=access,
            # without superposition a subchannel is divided, among as many as need be
            users_per_subchannel=radio.users_per_subchannel if access == "noma" else len(seen),
            sic_residual_ratio=radio.sic_residual_ratio,
            access_points=np.array([ue.access_point for ue in scenario.ues]),
            leakage_ratio=radio.leakage_ratio,
            downlink_total_watts=radio.downlink_power_watts,
            time_weight=weight * self._time_weight / device_seconds[row, local],
            energy_weight=weight * (1 - self._time_weight) / np.maximum(device_joules[row, local], 1e-12),
            qoe_weight=self._qoe_weight if self._qoe_seconds else 0.0,
            qoe_seconds=np.full(len(seen), self._qoe_seconds) if self._qoe_seconds else None,
        )

    def narrowed(self, problem: SplitProblem) -> SplitProblem:
        """The problem with what need not be tried made local: here, UEs that no split serves even alone."""
        hopeless = alone_costs(problem).min(axis=1, initial=np.inf) >= local_costs(problem)
        return made_local(problem, np.repeat(hopeless[:, np.newaxis], problem.device_seconds.shape[1], axis=1))

    def plan(self, problem: SplitProblem) -> SplitPlan:
        start = None if self._start is None else torch.as_tensor(self._start)[None]
        seed = integer(self.seed, Purpose.POLICY)
        return solve([problem], self._options, seed=seed, start=start)[0]

    # -------------------------------------------------------------------------------------------------- the decision

    def decide(self, observation: Observation) -> Decision:
        problem = self.narrowed(self.problem(observation))
        plan = self.plan(problem)
        self._plan, self._start = plan, plan.point
        return Decision(
            sequence=observation.slot,
            slot=observation.slot,
            valid_from_seconds=observation.monotonic_seconds,
            ues=tuple(self._choice(index, problem, plan) for index in range(len(self.scenario.ues))),
        )

    def _choice(self, index: int, problem: SplitProblem, plan: SplitPlan) -> UeDecision:
        ue, split = self.scenario.ues[index], int(plan.split[index])
        cuts = self._tables.cuts[index]
        # the tables are padded with the local cut, and splits may have been made local
        if problem.up_bits[index, split] == 0:
            return UeDecision(ue.name, ALL_ON_DEVICE, self.speed(ue), 0.0, 0.0, 0.0)
        up, down = (int(plan.subchannel[way, index]) for way in (UP, DOWN))
        own = problem.access == "ofdma"
        return UeDecision(
            name=ue.name,
            cut=cuts[split],
            device_speed=self.speed(ue),
            spectrum_up_hz=float(plan.band_ratio[UP, index]) * problem.subchannel_hz[UP] if own else 0.0,
            spectrum_down_hz=float(plan.band_ratio[DOWN, index]) * problem.subchannel_hz[DOWN] if own else 0.0,
            edge_share=float(plan.edge_share[index]),
            transmit_watts=float(plan.watts[UP, index]),
            downlink_watts=float(plan.watts[DOWN, index]),
            subchannels_up=(up,),
            subchannels_down=(down,),
        )

    def state(self) -> dict[str, float]:
        """Cost, iterations, what was predicted by UE, and rate and power by uplink subchannel."""
        plan = self._plan
        if plan is None:
            return {}
        result = {
            "cost": plan.cost,
            "relaxed_cost": plan.relaxed_cost,
            "common_split": float(plan.common_split),
            "iterations": float(plan.iterations),
            "later_iterations": float(plan.later_iterations),
        }
        for index, ue in enumerate(self.scenario.ues):
            result[f"predicted_seconds.{ue.name}"] = float(plan.seconds[index])
            result[f"predicted_joules.{ue.name}"] = float(plan.joules[index])
        for number in range(self.scenario.radio.subchannels):
            here = plan.subchannel[UP] == number
            result[f"rate_up_bits_per_second.subchannel{number}"] = float(plan.rates_bits_per_second[UP, here].sum())
            result[f"watts_up.subchannel{number}"] = float(plan.watts[UP, here].sum())
        return result


class LiGdOfdma(LiGd):
    """Li-GD without superposition: UEs on one subchannel divide it, each with a band of its own."""

    access = "ofdma"


class LiGdEdgeOnly(LiGd):
    """Every task's raw input to the edge, with Li-GD's subchannels, powers and shares."""

    def narrowed(self, problem: SplitProblem) -> SplitProblem:
        first = {key: getattr(problem, key)[:, [0, -1]].copy() for key in TABLES}
        # a detour through the device that nobody takes: the last split of a problem is local
        first["device_seconds"][:, -1] = _NEVER_SECONDS
        return dataclasses.replace(problem, **first)


class LiGdRandom(LiGd):
    """Li-GD's splits, powers and shares on subchannels that are drawn evenly, seats permitting."""

    def plan(self, problem: SplitProblem) -> SplitPlan:
        rng = generator(self.seed, Purpose.POLICY, self._draws)
        self._draws += 1
        seats = np.stack([random_seats(problem, rng) for _ in (UP, DOWN)])
        return evaluate_seats(problem, seats[np.newaxis], self._options)

    def reset(self, scenario: Scenario, seed: int) -> None:
        super().reset(scenario, seed)
        self._draws = 0


class LiGdExhaustive(LiGd):
    """Li-GD's splits, powers and shares on every possible seating: tiny cells only (at most 20,000 seatings)."""

    most_seatings = 20_000

    def reset(self, scenario: Scenario, seed: int) -> None:
        """Raises ValueError for a cell that is too large."""
        super().reset(scenario, seed)
        if scenario.radio.subchannels ** (2 * len(scenario.ues)) > self.most_seatings:
            raise ValueError(f"{len(scenario.ues)} UEs on {scenario.radio.subchannels} subchannels are too many to try")

    def plan(self, problem: SplitProblem) -> SplitPlan:
        ues, _, subchannels = problem.size
        one_way = [
            seats
            for seats in itertools.product(range(subchannels), repeat=ues)
            if max(np.bincount(seats)) <= problem.users_per_subchannel
        ]
        both = np.array(list(itertools.product(one_way, one_way)), dtype=np.int64)
        return evaluate_seats(problem, both, self._options)


class LiGdCold(LiGd):
    """Cold gradient descent: every split starts from the same point. As good as Li-GD, and slower."""

    def plan(self, problem: SplitProblem) -> SplitPlan:
        return solve([problem], self._options, seed=integer(self.seed, Purpose.POLICY), warm=False)[0]


_NEVER_SECONDS = 1e6


def local_costs(problem: SplitProblem) -> Floats:
    """Each UE's part of the cost when it computes everything on the device, (UEs,)."""
    return np.asarray(
        problem.time_weight * problem.device_seconds[:, -1] + problem.energy_weight * problem.device_joules[:, -1]
    )


def alone_costs(problem: SplitProblem) -> Floats:
    """A bound from below on each UE's cost by remote split, (UEs, splits), inf for local: the cell is its own.

    All power on each of its best subchannels, all of the edge, and no energy but the device's.
    """
    width = np.array(problem.subchannel_hz)[:, np.newaxis]
    best = problem.gains.max(axis=2) * problem.max_watts / (problem.noise_watts_per_hz * width)
    rates = problem.size[2] * width * np.log2(1 + best)
    bits = np.stack([problem.up_bits, problem.down_bits])
    air = (bits / np.maximum(rates, problem.rate_floor_bits_per_second)[..., np.newaxis]).sum(axis=0)
    seconds = problem.device_seconds + problem.constant_seconds + air + problem.edge_work / problem.edge_capacity
    weight = np.broadcast_to(problem.time_weight, problem.size[0])[:, np.newaxis]
    joules = np.broadcast_to(problem.energy_weight, problem.size[0])[:, np.newaxis] * problem.device_joules
    return np.where(problem.up_bits > 0, weight * seconds + joules - problem.qoe_weight, np.inf)


def made_local(problem: SplitProblem, where: NDArray[np.bool_]) -> SplitProblem:
    """The problem with some splits (UEs, splits) replaced by the local one."""
    tables: dict[str, Any] = {key: getattr(problem, key) for key in TABLES}
    return dataclasses.replace(problem, **{key: np.where(where, table[:, -1:], table) for key, table in tables.items()})


def random_seats(problem: SplitProblem, rng: np.random.Generator) -> NDArray[np.int64]:
    """A subchannel per UE, (UEs,), drawn evenly among those with a free seat; -1 where none is left."""
    ues, _, subchannels = problem.size
    points = np.zeros(ues, dtype=np.int64) if problem.access_points is None else problem.access_points
    taken = np.zeros((int(points.max()) + 1, subchannels), dtype=np.int64)
    seats = np.full(ues, -1, dtype=np.int64)
    for ue in rng.permutation(ues):
        free = np.flatnonzero(taken[points[ue]] < problem.users_per_subchannel)
        if free.size:
            seats[ue] = rng.choice(free)
            taken[points[ue], seats[ue]] += 1
    return seats

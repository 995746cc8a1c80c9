"""What all policies with virtual queues share: observe, choose cuts, solve the convex step, charge measured energy."""

from __future__ import annotations

from typing import Any

import numpy as np

from controller.contract import Decision, Observation, Scenario, SlotOutcome, UeDecision
from controller.model.lyapunov import EnergyQueues
from controller.solvers.allocation.chain import ChainTables, CutArray, SlotState
from controller.solvers.allocation.cuts import project
from controller.solvers.allocation.general import allocate_general
from controller.solvers.allocation.problem import OVERLOAD_DELAY_SECONDS, Allocation, AllocationModel, Limits, Objective
from controller.solvers.allocation.shares import allocate

#: A dead link that a task has to cross is a load without end.
LARGEST_LOAD = 1e3

SOLVERS = {"newton": allocate, "cvxpy": allocate_general}


class DriftPlusPenalty:
    """A policy that minimises ``sum_n V w_n D_n + Q_n (E_n - Ebar_n)`` each slot, for cuts that a subclass proposes.

    Options
    -------
    V : J^2/s. Larger: less delay, longer queues, slower convergence of the energy to its budget.
    delay_model : "indep" (default: fast, separable) or "exact".
    initial_queue : virtual queues at reset, in units of each UE's budget.
    solver : "newton" or "cvxpy" (slow, for checks).
    edge_budget : long-term mean of the edge's energy per slot, J; None: none. It has a virtual queue of its own. Needs
        the edge's power in the lab file, and the ``indep`` model or the general solver.
    objective : "tasks" (default: the mean delay of all tasks, so that a UE counts by its rate) or "ues" (the mean of
        the UEs' mean delays).
    """

    every_cut = False  # candidates: the useful cuts, or the whole chain

    def __init__(
        self,
        V: float = 0.3,
        delay_model: AllocationModel = "indep",
        initial_queue: float = 0.0,
        solver: str = "newton",
        edge_budget: float | None = None,
        objective: Objective = "tasks",
    ) -> None:
        if not V > 0:
            raise ValueError(f"option V must be above 0 J^2/s, got {V!r}")
        if delay_model not in ("indep", "exact"):
            raise ValueError(f"option delay_model must be 'indep' or 'exact', got {delay_model!r}")
        if objective not in ("tasks", "ues"):
            raise ValueError(f"option objective must be 'tasks' or 'ues', got {objective!r}")
        if not initial_queue >= 0:
            raise ValueError(f"option initial_queue must be 0 or more budgets, got {initial_queue!r}")
        if solver not in SOLVERS:
            raise ValueError(f"option solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
        if edge_budget is not None and not edge_budget > 0:
            raise ValueError(f"option edge_budget must be above 0 J per slot, got {edge_budget!r}")
        if edge_budget is not None and delay_model == "exact" and solver == "newton":
            raise ValueError(
                "option edge_budget needs delay_model 'indep' or solver 'cvxpy': newton's exact has no edge"
            )
        self.v = float(V)
        self.delay_model: AllocationModel = delay_model
        self.objective: Objective = objective
        self.initial_queue = initial_queue
        self.newton = solver == "newton"
        self._solve = SOLVERS[solver]
        self._edge_budget = edge_budget

    # ------------------------------------------------------------------------------------------ the Policy protocol

    def reset(self, scenario: Scenario, seed: int) -> None:
        if scenario.radio.access_points > 1 and (self.delay_model == "exact" or self._solve is allocate_general):
            raise ValueError(
                f"several access points ({scenario.radio.access_points}) need delay_model 'indep' and solver 'newton': "
                "the others divide one spectrum"
            )
        self.scenario = scenario
        self.seed = seed
        self.tables = ChainTables.of(scenario, every_cut=self.every_cut, objective=self.objective)
        self.limits: Limits = self.tables.limits(self.v)
        self.queues = EnergyQueues.start(self.tables.budget_joules, self.initial_over_budget())
        edge = scenario.edge
        if self._edge_budget is not None and not edge.compute_watts > 0:
            raise ValueError(
                "option edge_budget needs the edge's power: give the lab's edge a `power`, in W at all cpus"
            )
        self._edge_kappa = edge.compute_watts / edge.cpus**3 if self._edge_budget is not None else 0.0
        self.edge_queue = EnergyQueues.start([np.inf if self._edge_budget is None else self._edge_budget])
        self._edge_joules = 0.0  # of the last slot
        self._last: Allocation | None = None
        self._last_cuts: CutArray = self.tables.local.copy()
        # compile (or load from numba's cache) before the first deadline
        nominal = SlotState(
            arrival_rate=np.array([ue.arrivals.mean_rate_per_second for ue in scenario.ues]),
            link_quality=self.tables.link_quality(np.array([ue.mean_gain for ue in scenario.ues])),
            downlink_rate=self.tables.downlink_rate(np.array([ue.mean_gain for ue in scenario.ues])),
            queue_joules=self.queues.queue_joules,
        )
        self.warm_up(nominal)

    def decide(self, observation: Observation) -> Decision:
        price = float(self.edge_queue.queue_joules[0]) * self._edge_kappa * self.scenario.slot_seconds
        self.limits = self.limits._replace(edge_square_price=price)
        state = SlotState.observed(self.tables, observation, self.pricing_queues())
        self._weights = self.tables.weights(state.arrival_rate)
        cuts, allocation = self.choose(state, observation)
        self._last, self._last_cuts = allocation, cuts
        return self.decision(observation, cuts, allocation)

    def feedback(self, outcome: SlotOutcome) -> None:
        """Virtual queues take the measured energy of the slot."""
        by_name = {ue.name: ue.energy_joules for ue in outcome.ues}
        self.queues.update(np.array([by_name[ue.name] for ue in self.scenario.ues]))
        if self._edge_budget is not None:
            self._edge_joules = edge_joules(self._edge_kappa, outcome)
            self.edge_queue.update([self._edge_joules])

    def state(self) -> dict[str, float]:
        """Virtual queues [J], the last decision's predicted drift-plus-penalty [J^2], delay [s], load, V.

        All finite: where a UE is overloaded its delay counts as ``OVERLOAD_DELAY_SECONDS``, and ``feasible`` is 0.
        """
        numbers = {"V": self.v}
        for ue, queue in zip(self.scenario.ues, self.queues.queue_joules, strict=True):
            numbers[f"virtual_queue_joules.{ue.name}"] = float(queue)
        if self._edge_budget is not None:
            numbers["edge_virtual_queue_joules"] = float(self.edge_queue.queue_joules[0])
            numbers["edge_joules"] = self._edge_joules
        if self._last is not None:
            delay, energy = self._last.delay_seconds[0], self._last.energy_joules[0]
            delay = np.where(np.isfinite(delay), delay, OVERLOAD_DELAY_SECONDS)
            numbers["drift_plus_penalty"] = self.queues.drift_plus_penalty(self.v, self._weights * delay, energy)
            numbers["largest_load"] = float(min(self._last.largest_load[0], LARGEST_LOAD))
            numbers["feasible"] = float(self._last.feasible[0])
            for ue, seconds, joules in zip(self.scenario.ues, delay, energy, strict=True):
                numbers[f"predicted_seconds.{ue.name}"] = float(seconds)
                numbers[f"predicted_joules.{ue.name}"] = float(joules)
        return numbers

    def checkpoint_info(self) -> dict[str, Any]:
        return {}

    # ------------------------------------------------------------------------------------- what subclasses override

    def choose(self, state: SlotState, observation: Observation) -> tuple[CutArray, Allocation]:
        """Cuts (ues,) and their allocation (1, ues): the best of what :meth:`propose` proposes."""
        return self.best(state, self.propose(state, observation))

    def propose(self, state: SlotState, observation: Observation) -> CutArray:
        """Candidate cut indices (candidates, ues); the best by the convex step is taken."""
        raise NotImplementedError

    def pricing_queues(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """The price of a joule, per UE: the virtual queues."""
        return self.queues.queue_joules

    def initial_over_budget(self) -> Any:
        """Virtual queues at reset in units of the budget: a number, or one per UE."""
        return self.initial_queue

    def warm_up(self, nominal: SlotState) -> None:
        """Called once at the end of the reset with a typical state."""
        self.best(nominal, self.tables.local[np.newaxis])

    def allocate(self, cuts: CutArray, state: SlotState) -> Allocation:
        """The convex step for candidates (candidates, ues)."""
        return self._solve(self.tables.demands(cuts, state), self.tables.ues, self.limits, self.delay_model)

    # -------------------------------------------------------------------------------------------------- shared parts

    def best(self, state: SlotState, candidates: CutArray) -> tuple[CutArray, Allocation]:
        """Project the candidates, solve each, return the cheapest: cuts (ues,) and its allocation (1, ues).

        If none is feasible the first stands in, with shares in proportion to the needs.
        """
        cuts = project(self.tables, candidates, state)
        allocation = self.allocate(cuts, state)
        chosen = int(np.argmin(allocation.cost))
        return cuts[chosen], one_of(allocation, chosen)

    def decision(self, observation: Observation, cuts: CutArray, allocation: Allocation) -> Decision:
        """The contract's form of cuts (ues,) and their allocation (1, ues); offloading UEs share the downlink."""
        offloads = cuts != self.tables.local
        station = self.tables.ues.station
        among = np.bincount(station, weights=offloads)[station]  # who offloads at the same access point
        down = np.where(offloads, self.scenario.radio.downlink_hz / np.maximum(among, 1.0), 0.0)
        return Decision(
            sequence=observation.slot,
            slot=observation.slot,
            valid_from_seconds=observation.monotonic_seconds,
            ues=tuple(
                UeDecision(
                    name=ue.name,
                    cut=self.tables.cuts[index][cuts[index]],
                    device_speed=float(allocation.device_speed[0, index]),
                    spectrum_up_hz=float(allocation.spectrum_hz[0, index]),
                    spectrum_down_hz=float(down[index]),
                    edge_share=float(allocation.edge_share[0, index]),
                )
                for index, ue in enumerate(self.scenario.ues)
            ),
        )


def edge_joules(kappa: float, outcome: SlotOutcome) -> float:
    """What the edge spent on the tails that ended in a slot: ``kappa share^3`` for their stages' time, in J.

    ``kappa`` is the power at all cpus over their cube. Tails run at the share of their own start; the one of the
    outcome's decision is taken for all of them.
    """
    shares = {ue.name: ue.edge_share for ue in outcome.decision.ues}
    return float(sum(kappa * shares[ue.name] ** 3 * ue.stage_seconds.get("tail", 0.0) for ue in outcome.ues))


def one_of(allocation: Allocation, index: int) -> Allocation:
    """A batch's allocation of one environment, as a batch of one."""
    return Allocation._make(field[index : index + 1] for field in allocation)

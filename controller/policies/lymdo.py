"""LyMDO, after Ye et al. (arXiv 2310.12937): Lyapunov drift-plus-penalty, an actor for the cuts, convex optimisation
for device speed, spectrum and edge share. A reconstruction: see docs/lymdo.md for what is known of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from controller.contract import Observation, Scenario
from controller.learning.checkpoint import Checkpoint, load_checkpoint
from controller.learning.network import actor_logits, features
from controller.policies.drift import DriftPlusPenalty
from controller.seeds import Purpose, generator
from controller.solvers.allocation import allocate
from controller.solvers.chain import CutArray, SlotState
from controller.solvers.cuts import coordinate_descent, exhaustive, feasible_alone
from controller.solvers.evaluation import equal_shares, evaluate
from controller.solvers.problem import Allocation, AllocationModel, Demands, FloatArray, Objective


class LymdoCoordinateDescent(DriftPlusPenalty):
    """Cuts by coordinate descent on the drift-plus-penalty, from the last decision: the near-oracle."""

    def propose(self, state: SlotState, observation: Observation) -> CutArray:
        return self._descend(state)

    def _descend(self, state: SlotState) -> CutArray:
        cuts, _ = coordinate_descent(self.tables, self._last_cuts[np.newaxis], state, self.limits, self.delay_model)
        return cuts

    def warm_up(self, nominal: SlotState) -> None:
        super().warm_up(nominal)
        self._descend(nominal)


class Lymdo(LymdoCoordinateDescent):
    """Cuts from a trained actor: its most likely choice and samples, the best of them by the convex step.

    Options of :class:`DriftPlusPenalty`, and

    checkpoint : path of a trained actor (``testbed train`` writes it); None: coordinate descent instead.
    candidates : joint cuts that the convex step scores, the most likely one included.
    initial_queue : None starts at the mean queues that training ended with (0 without a checkpoint).

    Raises CheckpointMismatchError at reset when the checkpoint was trained for another model, number of UEs or V.
    """

    def __init__(
        self,
        V: float = 0.3,
        checkpoint: str | None = None,
        candidates: int = 8,
        delay_model: AllocationModel = "indep",
        initial_queue: float | None = None,
        solver: str = "newton",
        edge_budget: float | None = None,
        objective: Objective = "tasks",
    ) -> None:
        super().__init__(V, delay_model, initial_queue or 0.0, solver, edge_budget, objective)
        if candidates < 1:
            raise ValueError(f"option candidates must be 1 or more, got {candidates!r}")
        self._path = checkpoint
        self._candidates = candidates
        self._given_queue = initial_queue
        self._checkpoint: Checkpoint | None = None

    def reset(self, scenario: Scenario, seed: int) -> None:
        self._rng = generator(seed, Purpose.POLICY)
        if self._path is not None:
            self._checkpoint = load_checkpoint(Path(self._path))
            self._checkpoint.require_fit(scenario, self.v)
        super().reset(scenario, seed)

    def initial_over_budget(self) -> Any:
        if self._given_queue is not None or self._checkpoint is None:
            return self.initial_queue
        return self._checkpoint.queue_over_budget(len(self.scenario.ues))

    def propose(self, state: SlotState, observation: Observation) -> CutArray:
        if self._checkpoint is None:
            return self._descend(state)
        return self.sample(state, self._candidates)

    def sample(self, state: SlotState, count: int) -> CutArray:
        """(up to count, ues) distinct candidates: the most likely joint cut first, the rest drawn from the actor."""
        assert self._checkpoint is not None
        logits = actor_logits(self._checkpoint.weights, features(self.tables, state)[np.newaxis])[0]
        logits = np.where(feasible_alone(self.tables, state, 1)[0], logits, -1e9)
        likely = np.argmax(logits, axis=1)
        if count == 1:
            return np.asarray(likely[np.newaxis])
        # Gumbel's trick: the argmax of logits plus noise is a draw from their softmax
        noise = self._rng.gumbel(size=(count - 1, *logits.shape))
        drawn = np.argmax(logits + noise, axis=2)
        return np.unique(np.concatenate([likely[np.newaxis], drawn]), axis=0)

    def warm_up(self, nominal: SlotState) -> None:
        super().warm_up(nominal)
        if self._checkpoint is not None:
            self.best(nominal, self.sample(nominal, self._candidates))

    def checkpoint_info(self) -> dict[str, Any]:
        return {} if self._checkpoint is None else self._checkpoint.info()


class LymdoEqualShares(Lymdo):
    """The actor's most likely cut with equal shares of spectrum and edge: what the convex step is worth.

    Speed still follows the virtual queue, else nothing would hold the budget.
    """

    def propose(self, state: SlotState, observation: Observation) -> CutArray:
        return super().propose(state, observation)[:1]

    def sample(self, state: SlotState, count: int) -> CutArray:
        return super().sample(state, 1)

    def allocate(self, cuts: CutArray, state: SlotState) -> Allocation:
        demands = self.tables.demands(cuts, state)
        optimal = allocate(demands, self.tables.ues, self.limits, "indep")
        spectrum, edge = equal_shares(demands, self.limits)
        equal = optimal._replace(spectrum_hz=spectrum, edge_share=edge)
        return evaluate(equal, demands, self.tables.ues, self.limits, "indep")


class Exhaustive(DriftPlusPenalty):
    """Every joint cut of the useful ones, scored by the convex step: exact, for three UEs or so.

    Raises ValueError at reset when there are too many.
    """

    def warm_up(self, nominal: SlotState) -> None:
        super().warm_up(nominal)
        exhaustive(self.tables, nominal, self.limits, self.delay_model)

    def propose(self, state: SlotState, observation: Observation) -> CutArray:
        cuts, _ = exhaustive(self.tables, state, self.limits, self.delay_model)
        return cuts[np.newaxis]


class DelayOnly(LymdoCoordinateDescent):
    """Least delay, blind to energy (Q = 0): the lower bound on delay."""

    def pricing_queues(self) -> FloatArray:
        return np.zeros_like(self.queues.queue_joules)


class Myopic(DriftPlusPenalty):
    """No Lyapunov: each slot on its own meets ``E_n <= Ebar_n`` in expectation, at least delay.

    For given cuts the multipliers of the per-slot budgets are found by bisection, for all UEs at once (a UE's energy
    falls with its own multiplier; the coupling through the spectrum is weak). Cuts by single changes, the best first.
    """

    SWEEPS = 20
    BISECTIONS = 30
    LARGEST_MULTIPLIER = 1e4  # times V / budget
    EXCESS_PENALTY = 1e3

    def propose(self, state: SlotState, observation: Observation) -> CutArray:
        cuts = self._last_cuts
        best = np.inf
        for _ in range(self.SWEEPS):
            # every change of one UE's cut, no change among them
            changes = [(ue, cut) for ue, count in enumerate(self.tables.counts) for cut in range(int(count))]
            trial = np.repeat(cuts[np.newaxis], len(changes), axis=0)
            trial[np.arange(len(changes)), [ue for ue, _ in changes]] = [cut for _, cut in changes]
            score, _ = self._score(trial, state)
            chosen = int(np.argmin(score))
            if not score[chosen] < best * (1 - 1e-9):
                break
            best, cuts = float(score[chosen]), trial[chosen]
        return cuts[np.newaxis]

    def allocate(self, cuts: CutArray, state: SlotState) -> Allocation:
        return self._score(cuts, state)[1]

    def _score(self, cuts: CutArray, state: SlotState) -> tuple[FloatArray, Allocation]:
        budget = self.tables.budget_joules
        unit = self.v / np.where(np.isfinite(budget), budget, 1.0)
        low, high = np.full(cuts.shape, -12.0), np.full(cuts.shape, np.log(self.LARGEST_MULTIPLIER))
        multiplier = np.zeros(cuts.shape)
        demands = self.tables.demands(cuts, state)
        for _ in range(self.BISECTIONS):
            allocation = self._priced(demands, multiplier)
            over = allocation.energy_joules > budget
            middle = 0.5 * (low + high)
            low, high = np.where(over, middle, low), np.where(over, high, middle)
            multiplier = np.where(~over & (multiplier == 0), 0.0, unit * np.exp(0.5 * (low + high)))
        multiplier = np.where(multiplier > 0, unit * np.exp(high), 0.0)
        allocation = self._priced(demands, multiplier)
        excess = np.sum(np.maximum(allocation.energy_joules / budget - 1.0, 0.0), axis=1)
        score = np.sum(self.v * demands.weight * allocation.delay_seconds, axis=1)
        return np.where(allocation.feasible, score + self.EXCESS_PENALTY * excess, np.inf), allocation

    def _priced(self, demands: Demands, multiplier: FloatArray) -> Allocation:
        return allocate(demands._replace(queue_joules=multiplier), self.tables.ues, self.limits, self.delay_model)

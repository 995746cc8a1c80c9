"""LyMDO, after Ye et al. (arXiv 2310.12937): Lyapunov drift-plus-penalty, an actor for the cuts, convex optimisation
for device speed, spectrum and edge share. A reconstruction: see docs/lymdo.md for what is known of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from controller.contract import Observation, Scenario
from controller.learning.checkpoint import Checkpoint, load_checkpoint
from controller.learning.cut_network import cut_features, cut_scores, usable_cuts
from controller.learning.network import actor_logits, features
from controller.policies.drift import DriftPlusPenalty, one_of
from controller.policies.settling import settled_queues
from controller.seeds import Purpose, generator
from controller.solvers.allocation.chain import CutArray, SlotState
from controller.solvers.allocation.cuts import coordinate_descent, exhaustive, feasible_alone, project
from controller.solvers.allocation.evaluation import equal_shares, evaluate
from controller.solvers.allocation.improvement import improve
from controller.solvers.allocation.problem import (
    MAXIMUM_LOAD,
    Allocation,
    AllocationModel,
    Demands,
    FloatArray,
    Objective,
)
from controller.solvers.allocation.shares import LEAST_ARRIVAL_RATE, allocate


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


#: Whose candidate a decision began from, in the order that breaks ties: ``winner`` of the state is an index of it.
SOURCES = ("likely", "sampled", "last", "local")


class Lymdo(LymdoCoordinateDescent):
    """Cuts from a trained actor, scored by the convex step and improved.

    Candidates are the actor's most likely choice and samples, the last decision, and everything local. The best by the
    convex step changes one UE's cut at a time while that helps, the most promising change first
    (:mod:`controller.solvers.allocation.improvement`).

    Options of :class:`DriftPlusPenalty`, and

    checkpoint : path of a trained actor (``testbed train`` writes it); None: coordinate descent instead.
    candidates : joint cuts of the actor, the most likely one included; 0: the actor is not asked.
    improvements : changes that are tried, at most; 0: none, and neither the last decision nor all-local: the actor
        alone.
    initial_queue : None starts where the virtual queues settle (0 without a checkpoint).

    Raises CheckpointMismatchError at reset when the checkpoint was trained for another model or, if it was trained for
    one lab, for other cuts, another number of UEs or V.
    """

    def __init__(
        self,
        V: float = 0.3,
        checkpoint: str | None = None,
        candidates: int = 4,
        improvements: int = 12,
        delay_model: AllocationModel = "indep",
        initial_queue: float | None = None,
        solver: str = "newton",
        edge_budget: float | None = None,
        objective: Objective = "tasks",
    ) -> None:
        super().__init__(V, delay_model, initial_queue or 0.0, solver, edge_budget, objective)
        if improvements < 0:
            raise ValueError(f"option improvements must be 0 or more, got {improvements!r}")
        if candidates < (0 if improvements else 1):
            raise ValueError(f"option candidates must be 1 or more, or 0 with improvements, got {candidates!r}")
        self._path = checkpoint
        self._candidates = candidates
        self._improvements = improvements
        self._given_queue = initial_queue
        self._checkpoint: Checkpoint | None = None

    def reset(self, scenario: Scenario, seed: int) -> None:
        self._rng = generator(seed, Purpose.POLICY)
        if self._path is not None:
            self._checkpoint = load_checkpoint(Path(self._path))
            self._checkpoint.require_fit(scenario, self.v)
        super().reset(scenario, seed)
        self._winner, self._moves = -1, 0
        self._won = np.zeros(len(SOURCES) + 1, dtype=np.int64)  # the last: improved

    def initial_over_budget(self) -> Any:
        if self._given_queue is not None or self._checkpoint is None:
            return self.initial_queue
        if self._checkpoint.header.general:
            return settled_queues(self.tables, self.limits, self.seed)
        return self._checkpoint.queue_over_budget()

    def choose(self, state: SlotState, observation: Observation) -> tuple[CutArray, Allocation]:
        if self._checkpoint is None:
            return self.best(state, self._descend(state))
        candidates, source = self.sample(state, self._candidates)
        if self._improvements:
            candidates = np.concatenate([candidates, [self._last_cuts, self.tables.local]])
            source = np.concatenate([source, [SOURCES.index("last"), SOURCES.index("local")]])
        candidates = project(self.tables, candidates, state)
        # of equal candidates the first that was named (np.unique takes longer than the rest of the choice)
        first = list({row.tobytes(): index for index, row in reversed(list(enumerate(candidates)))}.values())[::-1]
        allocation = self.allocate(candidates[first], state)
        chosen = int(np.argmin(allocation.cost))
        cuts, allocation = candidates[first[chosen]], one_of(allocation, chosen)
        self._winner, self._moves = int(source[first[chosen]]), 0
        if self._improvements:
            found = improve(self.tables, cuts[np.newaxis], state, self.limits, self._improvements, self.delay_model)
            if found.moves[0]:
                cuts, self._moves = found.cuts[0], int(found.moves[0])
                allocation = found.allocation if self.newton else self.allocate(found.cuts, state)
        self._won[self._winner] += 1
        self._won[-1] += self._moves > 0
        return cuts, allocation

    def sample(self, state: SlotState, count: int) -> tuple[CutArray, CutArray]:
        """(count, ues) joint cuts, the most likely one first, the rest drawn from the actor; (count,) their sources."""
        assert self._checkpoint is not None
        source = np.minimum(np.arange(count), SOURCES.index("sampled"))
        if not count:
            return np.zeros((0, self.tables.local.size), dtype=np.int64), source
        logits = self._logits(state)
        likely = np.argmax(logits, axis=1)
        # Gumbel's trick: the argmax of logits plus noise is a draw from their softmax
        noise = self._rng.gumbel(size=(count - 1, *logits.shape))
        return np.concatenate([likely[np.newaxis], np.argmax(logits + noise, axis=2)]), source

    def _logits(self, state: SlotState) -> FloatArray:
        """(ues, candidates); very negative for a cut that the UE could not keep stable alone."""
        assert self._checkpoint is not None
        if self._checkpoint.header.general:
            inputs = cut_features(self.tables, state, self.limits)
            logits = cut_scores(self._checkpoint.weights, inputs, usable_cuts(self.tables, inputs))
        else:
            logits = actor_logits(self._checkpoint.weights, features(self.tables, state)[np.newaxis])
            logits = np.where(feasible_alone(self.tables, state, 1), logits, -1e9)
        return np.asarray(logits[0])

    def warm_up(self, nominal: SlotState) -> None:
        super().warm_up(nominal)
        if self._checkpoint is not None:
            self.best(nominal, self.sample(nominal, max(self._candidates, 1))[0])
            improve(self.tables, self.tables.local[np.newaxis], nominal, self.limits, 1, self.delay_model)

    def state(self) -> dict[str, float]:
        """And whose candidate won: ``winner`` (an index of :data:`SOURCES`, -1 before the first decision), changes that
        improved it in this slot, and in how many decisions so far each source won and changes improved it."""
        numbers = super().state()
        if self._checkpoint is None:
            return numbers
        names = [f"won.{name}" for name in (*SOURCES, "improved")]
        return {
            **numbers,
            "winner": float(self._winner),
            "winner_changes": float(self._moves),
            **dict(zip(names, self._won.astype(float).tolist(), strict=True)),
        }

    def checkpoint_info(self) -> dict[str, Any]:
        return {} if self._checkpoint is None else self._checkpoint.info(self.scenario)


class LymdoEqualShares(Lymdo):
    """LyMDO's cuts with equal shares of spectrum and edge: what the convex step is worth.

    Speed still follows the virtual queue, else nothing would hold the budget.
    """

    def choose(self, state: SlotState, observation: Observation) -> tuple[CutArray, Allocation]:
        cuts, optimal = super().choose(state, observation)
        demands = self.tables.demands(cuts[np.newaxis], state)
        spectrum, edge = equal_shares(demands, self.tables.ues, self.limits)
        equal = optimal._replace(spectrum_hz=spectrum, edge_share=edge)
        return cuts, evaluate(equal, demands, self.tables.ues, self.limits, "indep")


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
    Of more than MOST_TRIALS changes only the SCREENED best at multipliers that are guessed are tried.
    """

    SWEEPS = 20
    BISECTIONS = 30
    LARGEST_MULTIPLIER = 1e4  # times V / budget
    EXCESS_PENALTY = 1e3
    MOST_TRIALS = 64
    SCREENED = 24

    def propose(self, state: SlotState, observation: Observation) -> CutArray:
        cuts = self._last_cuts
        best = np.inf
        multiplier: FloatArray | None = None  # (ues,) of these cuts
        for _ in range(self.SWEEPS):
            # every change of one UE's cut, no change among them
            changes = [(ue, cut) for ue, count in enumerate(self.tables.counts) for cut in range(int(count))]
            trial = np.repeat(cuts[np.newaxis], len(changes), axis=0)
            trial[np.arange(len(changes)), [ue for ue, _ in changes]] = [cut for _, cut in changes]
            if len(changes) > self.MOST_TRIALS:
                multiplier = self._score(cuts[np.newaxis], state)[2][0] if multiplier is None else multiplier
                trial = np.concatenate([cuts[np.newaxis], self._screened(cuts, trial, multiplier, state)])
            score, _, multipliers = self._score(trial, state)
            chosen = int(np.argmin(score))
            if not score[chosen] < best * (1 - 1e-9):
                break
            best, cuts, multiplier = float(score[chosen]), trial[chosen], multipliers[chosen]
        return cuts[np.newaxis]

    def allocate(self, cuts: CutArray, state: SlotState) -> Allocation:
        return self._score(cuts, state)[1]

    def _screened(self, cuts: CutArray, trial: CutArray, multiplier: FloatArray, state: SlotState) -> CutArray:
        """The most promising of trials (trials, ues) that differ from ``cuts`` (ues,) in one UE: by the Lagrangian at
        the multipliers of ``cuts``, and for that UE at the one that its device's energy asks for [ours]."""
        trial = trial[(trial != cuts).any(axis=1)]
        demands = self.tables.demands(trial, state)
        guessed = np.where(trial != cuts, self._device_multiplier(demands), multiplier)
        budget = np.where(guessed > 0, self.tables.budget_joules, 0.0)
        value = self._priced(demands, guessed).cost - np.sum(guessed * budget, axis=1)
        return trial[np.argsort(value, kind="stable")[: self.SCREENED]]

    def _device_multiplier(self, demands: Demands) -> FloatArray:
        """At which the head's energy alone meets the budget (see :func:`.newton.device_speed`), for each UE."""
        ues, slot = self.tables.ues, self.limits.slot_seconds
        rate = np.maximum(demands.arrival_rate_per_second, LEAST_ARRIVAL_RATE)
        head = np.maximum(demands.head_seconds, 1e-12)
        speed = np.minimum(np.sqrt(self.tables.budget_joules / (slot * ues.kappa * rate * head)), ues.max_speed)
        load = np.minimum(rate * head / speed, MAXIMUM_LOAD)
        slope = load**3 * (1.0 + 0.5 * ues.variability * ((1.0 - load) ** -2 - 1.0))
        wanted = slope * self.v * demands.weight / (2.0 * ues.kappa * slot * rate**4 * head**3)
        return np.where(speed < ues.max_speed, wanted, 0.0)

    def _score(self, cuts: CutArray, state: SlotState) -> tuple[FloatArray, Allocation, FloatArray]:
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
        score = np.where(allocation.feasible, score + self.EXCESS_PENALTY * excess, np.inf)
        return score, allocation, multiplier

    def _priced(self, demands: Demands, multiplier: FloatArray) -> Allocation:
        return allocate(demands._replace(queue_joules=multiplier), self.tables.ues, self.limits, self.delay_model)

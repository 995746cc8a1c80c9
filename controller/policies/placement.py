"""Model placement with online splitting, and its baselines.

After J. Yan, S. Bi, Y.-J. A. Zhang, "Optimal Model Placement and Online Model Splitting for Device-Edge Co-Inference",
IEEE Trans. Wireless Commun. 21(10), 2022 (its abstract alone was known to us; see :mod:`controller.solvers.stopping`).

The slow decision is how many layers each UE holds of every model version, the fast one is the UE's own: the policy
ships a threshold per split point, and the UE compares the channel that it sees there with it.
"""

from __future__ import annotations

import math
from typing import Literal, cast, get_args

import msgspec
import numpy as np

from controller.contract import Decision, Observation, Scenario, UeScenario, cut_label
from controller.model.stage_fading import Floats, fading_chain, power_states
from controller.policies.base import BasicPolicy
from controller.solvers.split_points import SplitProblem, split_problem
from controller.solvers.stopping import (
    Placement,
    StoppingRule,
    backward_induction,
    look_ahead,
    markov_induction,
    place,
    rule_cost,
)

Rule = Literal["optimal", "look-ahead", "greedy", "static"]

#: Of a channel that is fresh at every stage, and of one that remembers.
_QUANTILES = 2000
_MARKOV_STATES = 100


class ModelPlacement(BasicPolicy):
    """Place the best number of layers, split online by thresholds. Every UE has an equal share and full speed.

    Options
    -------
    time_weight, energy_weight : cost per second and per joule; cost = time_weight * delay + energy_weight * energy.
    rule : "optimal" (backward induction), "look-ahead" (one stage), "greedy" (stop at the first channel above its
        mean), "static" (one cut, the best at the mean channel).
    placed : "search" (the best number), "all", "half", or the label of the last split point on the device.
    memory_bytes : of a device, for placed parameters; None: not limited.

    A channel that is drawn per task and stage is taken for fresh at every stage, any other for a Markov chain whose
    steps last as long as the stages do. Raises ValueError in reset for a channel whose law is not known before a run.
    """

    def __init__(
        self,
        time_weight: float = 1.0,
        energy_weight: float = 0.0,
        rule: str = "optimal",
        placed: str = "search",
        memory_bytes: float | None = None,
    ) -> None:
        if not (time_weight >= 0 and energy_weight >= 0 and math.isfinite(time_weight + energy_weight)):
            raise ValueError(f"weights must be 0 or more, got time {time_weight!r} and energy {energy_weight!r}")
        if time_weight + energy_weight == 0:
            raise ValueError("one of time_weight and energy_weight must be above 0")
        if rule not in get_args(Rule):
            raise ValueError(f"option rule must be one of {', '.join(get_args(Rule))}, got {rule!r}")
        if memory_bytes is not None and not memory_bytes >= 0:
            raise ValueError(f"option memory_bytes must be 0 or more, got {memory_bytes!r}")
        self._weights = (float(time_weight), float(energy_weight))
        self._rule = cast(Rule, rule)
        self._placed = placed
        self._memory_bytes = memory_bytes

    def reset(self, scenario: Scenario, seed: int) -> None:
        super().reset(scenario, seed)
        self.problems = [split_problem(scenario, index, *self._weights) for index in range(len(scenario.ues))]
        self.placements = [self._place(problem) for problem in self.problems]
        self._choices = [
            self._choice(problem, placement) for problem, placement in zip(self.problems, self.placements, strict=True)
        ]

    def decide(self, observation: Observation) -> Decision:
        decision = self.with_cuts(observation, [cut for cut, _ in self._choices])
        ues = tuple(
            msgspec.structs.replace(ue, stop_rule=rule)
            for ue, (_, rule) in zip(decision.ues, self._choices, strict=True)
        )
        return msgspec.structs.replace(decision, ues=ues)

    def state(self) -> dict[str, float]:
        """Per UE: split points placed, their bytes, and the expected cost of a task."""
        numbers: dict[str, float] = {}
        for ue, problem, found in zip(self.scenario.ues, self.problems, self.placements, strict=True):
            numbers[f"placed_points.{ue.name}"] = float(found.placed)
            numbers[f"placed_bytes.{ue.name}"] = float(problem.parameter_bytes[found.placed])
            numbers[f"expected_cost.{ue.name}"] = found.rule.cost
        return numbers

    # --------------------------------------------------------------------------------------------------------- solving

    def _place(self, problem: SplitProblem) -> Placement:
        ue = problem.scenario.ues[problem.ue_index]
        rules = [self._solve(problem, ue, placed) for placed in range(problem.stages + 1)]
        return place(rules, problem.placement_costs, ue.inferences_per_version, self._allowed(problem, ue))

    def _allowed(self, problem: SplitProblem, ue: UeScenario) -> list[int]:
        labels = problem.labels()
        if self._placed == "search":
            choices = list(range(problem.stages + 1))
        elif self._placed in ("all", "half"):
            choices = [problem.stages if self._placed == "all" else problem.stages // 2]
        elif self._placed in labels:
            choices = [labels.index(self._placed)]
        else:
            raise ValueError(
                f"option placed {self._placed!r} is no split point of {ue.name}; allowed: search, all, half, "
                f"{', '.join(labels)}"
            )
        limit = math.inf if self._memory_bytes is None else self._memory_bytes
        fitting = [n for n in choices if problem.parameter_bytes[n] <= limit]
        if not fitting:
            needed = min(problem.parameter_bytes[n] for n in choices)
            raise ValueError(f"{ue.name}: {needed:.0f} bytes of parameters do not fit into memory_bytes {limit:.0f}")
        return fitting

    def _solve(self, problem: SplitProblem, ue: UeScenario, placed: int) -> StoppingRule:
        if self._rule == "static":
            return _static(problem, placed, ue.mean_gain)
        fresh = ue.channel_refresh == "per_task_stage"
        states = ue.mean_gain * power_states(ue, _QUANTILES if fresh else _MARKOV_STATES)
        rates = problem.inverse_rates(states)
        if self._rule == "greedy":
            thresholds = np.full(placed, float(problem.inverse_rates(np.array([ue.mean_gain]))[0]))
            return StoppingRule(thresholds, rule_cost(problem.costs, thresholds, rates))
        if self._rule == "look-ahead":
            return look_ahead(problem.costs, placed, rates)
        if fresh:
            return backward_induction(problem.costs, placed, rates)
        chains = [fading_chain(ue, states.size, seconds) for seconds in problem.run_seconds[:placed]]
        return markov_induction(problem.costs, placed, rates, chains)[0]

    def _choice(self, problem: SplitProblem, found: Placement) -> tuple[tuple[str, ...], tuple[tuple[str, float], ...]]:
        rule = tuple(
            (cut_label(cut), problem.state_threshold(float(limit)))
            for cut, limit in zip(problem.cuts, found.rule.inverse_rate, strict=False)
        )
        return problem.cuts[found.placed], () if self._rule == "static" else rule


def _static(problem: SplitProblem, placed: int, mean_gain: float) -> StoppingRule:
    """Run ``placed`` stages, never fewer: its cost at the mean channel, as Neurosurgeon would predict it."""
    rate: Floats = problem.inverse_rates(np.array([mean_gain]))
    thresholds = np.full(placed, -math.inf)
    return StoppingRule(thresholds, rule_cost(problem.costs, thresholds, rate))


class StaticSplit(ModelPlacement):
    """One cut for all tasks, the best at the mean channel; its layers are placed."""

    def __init__(self, time_weight: float = 1.0, energy_weight: float = 0.0, memory_bytes: float | None = None) -> None:
        super().__init__(time_weight, energy_weight, "static", "search", memory_bytes)


class GreedySplit(ModelPlacement):
    """Everything placed; a task stops at the first channel above its mean."""

    def __init__(self, time_weight: float = 1.0, energy_weight: float = 0.0, memory_bytes: float | None = None) -> None:
        super().__init__(time_weight, energy_weight, "greedy", "all", memory_bytes)

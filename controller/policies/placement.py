"""Model placement with online splitting, and its baselines.

After J. Yan, S. Bi, Y.-J. A. Zhang, "Optimal Model Placement and Online Model Splitting for Device-Edge Co-Inference",
IEEE Trans. Wireless Commun. 21(10), 2022 (its abstract alone was known to us; see
:mod:`controller.solvers.stopping.stopping`).

The slow decision is how many layers each UE holds of every model version, the fast one is the UE's own: the policy
ships a threshold per split point, and the UE compares the channel that it sees there with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import msgspec
import numpy as np

from controller.contract import Cut, Decision, Observation, Scenario, UeScenario, cut_label
from controller.model.radio import is_coupled
from controller.model.stage_fading import Floats, power_states
from controller.policies.base import BasicPolicy
from controller.solvers.stopping.split_points import SplitProblem, on_paths, split_problem
from controller.solvers.stopping.stopping import (
    PathCosts,
    PathRule,
    StoppingRule,
    backward_induction,
    gates_cost,
    look_ahead,
    look_ahead_on_paths,
    path_induction,
    place,
    rule_cost,
)

Rule = Literal["optimal", "look-ahead", "greedy", "static"]

#: Of a channel that is fresh at every stage.
_QUANTILES = 2000


@dataclass(frozen=True)
class Plan:
    """What a UE is told, and what that is expected to cost."""

    placed: int  # split points
    cut: Cut
    stop_rule: tuple[tuple[str, float], ...]
    placement_cost: float  # of a version
    task_cost: float | None  # without waiting in queues; None: no law says it

    @classmethod
    def of(
        cls, problem: SplitProblem, placed: int, gates: Sequence[float] | None, placement_cost: float,
        task_cost: float | None,
    ) -> Plan:  # fmt: skip
        """``gates`` (placed,) are channel states; None: the one cut for every task."""
        before = zip(problem.cuts, gates or (), strict=False)
        rule = tuple((cut_label(cut), gate) for cut, gate in before)
        return cls(placed, problem.cuts[placed], rule, placement_cost, task_cost)


class ModelPlacement(BasicPolicy):
    """Place the best number of layers, split online by thresholds. Every UE has an equal share and full speed.

    Options
    -------
    time_weight, energy_weight : cost per second and per joule; cost = time_weight * delay + energy_weight * energy.
    rule : "optimal" (backward induction), "look-ahead" (one stage), "greedy" (stop at the first channel above its
        mean), "static" (one cut, the best at the mean channel).
    placed : "search" (the best number), "all", "half", or the label of the last split point on the device.
    memory_bytes : of a device, for placed parameters; None: not limited.

    The law of the channel is the lab's: drawn per task and stage, or fading and shadowing in time, in which the state
    that a UE sees is the start of a path and the upload is followed along it. Raises ValueError in reset for a channel
    or a radio that no law here covers.
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
        _require_covered(scenario)
        self.problems = [split_problem(scenario, index, *self._weights) for index in range(len(scenario.ues))]
        self.plans = [self._plan(problem) for problem in self.problems]

    def decide(self, observation: Observation) -> Decision:
        decision = self.with_cuts(observation, [plan.cut for plan in self.plans])
        ues = tuple(
            msgspec.structs.replace(ue, stop_rule=plan.stop_rule)
            for ue, plan in zip(decision.ues, self.plans, strict=True)
        )
        return msgspec.structs.replace(decision, ues=ues)

    def state(self) -> dict[str, float]:
        """Per UE: split points placed, their bytes, the cost of their download, and the expected cost of a task."""
        numbers: dict[str, float] = {}
        for ue, problem, plan in zip(self.scenario.ues, self.problems, self.plans, strict=True):
            numbers[f"placed_points.{ue.name}"] = float(plan.placed)
            numbers[f"placed_bytes.{ue.name}"] = float(problem.parameter_bytes[plan.placed])
            numbers[f"placement_cost.{ue.name}"] = plan.placement_cost
            if plan.task_cost is not None:
                numbers[f"expected_cost.{ue.name}"] = plan.task_cost
        return numbers

    # --------------------------------------------------------------------------------------------------------- solving

    def _plan(self, problem: SplitProblem) -> Plan:
        ue = problem.scenario.ues[problem.ue_index]
        allowed = self._allowed(problem, ue)
        every = range(problem.stages + 1)
        if self._rule == "static":
            found = place(
                [_static(problem, placed, ue.mean_gain) for placed in every],
                problem.placement_costs,
                ue.inferences_per_version,
                allowed,
            )
            return self._static_plan(problem, found.placed)
        if ue.channel_refresh == "per_task_stage":
            rates = _fresh_rates(problem)
            fresh = place(
                [self._fresh_rule(problem, placed, rates) for placed in every],
                problem.placement_costs,
                ue.inferences_per_version,
                allowed,
            )
            gates = [problem.state_threshold(float(limit)) for limit in fresh.rule.inverse_rate]
            return Plan.of(problem, fresh.placed, gates, float(problem.placement_costs[fresh.placed]), fresh.rule.cost)
        paths = on_paths(problem)
        rules = [self._path_rule(paths.costs, placed, ue.mean_gain) for placed in every]
        timed = place(rules, paths.placement_costs, ue.inferences_per_version, allowed)
        return Plan.of(
            problem,
            timed.placed,
            timed.rule.gates.tolist(),
            float(paths.placement_costs[timed.placed]),
            timed.rule.cost,
        )

    def _static_plan(self, problem: SplitProblem, placed: int) -> Plan:
        """One cut and what the law says of it; of a trace it says nothing."""
        ue, paid = problem.scenario.ues[problem.ue_index], float(problem.placement_costs[placed])
        if ue.fading == "trace":
            return Plan.of(problem, placed, None, paid, None)
        never = np.full(placed, math.inf)
        if ue.channel_refresh == "per_task_stage":
            return Plan.of(
                problem, placed, None, paid, float(rule_cost(problem.costs, -never, _fresh_rates(problem))[0])
            )
        paths = on_paths(problem)
        return Plan.of(problem, placed, None, float(paths.placement_costs[placed]), gates_cost(paths.costs, never))

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

    def _fresh_rule(self, problem: SplitProblem, placed: int, rates: Floats) -> StoppingRule:
        if self._rule == "greedy":
            thresholds = np.full(placed, _mean_inverse_rate(problem))
            return StoppingRule(thresholds, rule_cost(problem.costs, thresholds, rates))
        solve = look_ahead if self._rule == "look-ahead" else backward_induction
        return solve(problem.costs, placed, rates)

    def _path_rule(self, costs: PathCosts, placed: int, mean_gain: float) -> PathRule:
        if self._rule == "greedy":
            gates = np.full(placed, mean_gain)
            return PathRule(gates, gates_cost(costs, gates))
        solve = look_ahead_on_paths if self._rule == "look-ahead" else path_induction
        return solve(costs, placed)


def _require_covered(scenario: Scenario) -> None:
    """Raises ValueError for a radio or an edge that the cost of a task is not that of."""
    if is_coupled(scenario.radio):
        raise ValueError(
            f"the cost of an upload is that of a link of its own, but radio.access {scenario.radio.access} with "
            f"{scenario.radio.subchannels} subchannels and {scenario.radio.access_points} access points makes rates "
            "depend on more; allowed: access ofdma with one subchannel and one access point. Use one of the policies "
            "after Li-GD there"
        )
    if scenario.uploading is not None:
        raise ValueError(
            "the edge has no model at the start ('uploading'), but the cost of a task is that of an edge that has; "
            "allowed: no 'uploading'. Use one of the policies after MJOA-MU there"
        )


def _fresh_rates(problem: SplitProblem) -> Floats:
    ue = problem.scenario.ues[problem.ue_index]
    return problem.inverse_rates(ue.mean_gain * power_states(ue, _QUANTILES))


def _mean_inverse_rate(problem: SplitProblem) -> float:
    mean = problem.scenario.ues[problem.ue_index].mean_gain
    return float(problem.inverse_rates(np.array([mean]))[0])


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

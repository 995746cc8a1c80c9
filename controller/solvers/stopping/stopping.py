"""When to stop running layers on the device: finite-horizon optimal stopping, and how many layers to place there.

After J. Yan, S. Bi, Y.-J. A. Zhang, "Optimal Model Placement and Online Model Splitting for Device-Edge Co-Inference",
IEEE Trans. Wireless Commun. 21(10), 2022, of which the abstract alone was known to us: two time scales, splitting as
optimal stopping by backward induction, a one-stage look-ahead rule, and a closed form for equal layers are theirs
[READ]; every formula here is ours [DERIVED].

A task that has run ``l`` stages on the device sees the channel, as the inverse rate ``x = 1/R`` (s/bit), and either
stops - its remaining cost is then ``slope[l] x + intercept[l]`` - or runs stage ``l + 1`` for ``run[l]``. With ``n``
stages placed it must stop after stage ``n`` at the latest. All costs are in one unit (``time_weight * seconds +
energy_weight * joules``). An upload of no bits, ``slope = 0``, is an answer that is local already.

``E[1/R]`` diverges under Rayleigh fading: a gain floor is part of every law that is passed in here.

That holds where the channel is fresh at every stage and constant during an upload. Where it goes on changing, the rate
that is seen is only the start of a path: :class:`PathCosts` holds what became of tasks on sampled paths, and the rule
is one gate per stage on the state seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StoppingCosts:
    """Costs of one task, for stages 1..L. ``run`` is (L,), ``slope`` and ``intercept`` (L + 1,) from stage 0 on."""

    run: Floats  # of stage l + 1 on the device
    slope: Floats  # per s/bit: the upload's bits times the cost of a second of it
    intercept: Floats  # of what follows the upload, and all else that stopping here costs

    def __post_init__(self) -> None:
        for name in ("run", "slope", "intercept"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        stages = self.run.size
        if self.run.shape != (stages,) or self.slope.shape != (stages + 1,) or self.intercept.shape != (stages + 1,):
            raise ValueError(
                f"{stages} stages need {stages + 1} slopes and intercepts, got {self.slope.size}, {self.intercept.size}"
            )
        if not (np.all(np.isfinite(self.run)) and np.all(np.isfinite(self.slope)) and np.all(self.slope >= 0)):
            raise ValueError("costs are finite, and slopes not negative")

    @property
    def stages(self) -> int:
        """L."""
        return int(self.run.size)

    def stopping(self, stage: int, inverse_rate: ArrayLike) -> Floats:
        """Cost of stopping after ``stage`` stages at an inverse rate, of the shape of ``inverse_rate``."""
        return np.asarray(self.slope[stage] * np.asarray(inverse_rate, dtype=np.float64) + self.intercept[stage])

    def run_before(self) -> Floats:
        """(L + 1,): cost of having run the stages before each stop."""
        return np.concatenate([[0.0], np.cumsum(self.run)])


@dataclass(frozen=True)
class StoppingRule:
    """For ``n`` placed stages: stop after stage ``l < n`` if ``1/R <= inverse_rate[l]``, after stage ``n`` anyway."""

    inverse_rate: Floats  # (n,): s/bit; not above 0: never; inf: always
    expected: Floats  # (n + 1,): expected cost from stage l on, by this rule

    @property
    def placed(self) -> int:
        """n."""
        return int(self.inverse_rate.size)

    @property
    def cost(self) -> float:
        """Expected cost of a task."""
        return float(self.expected[0])


def _threshold(costs: StoppingCosts, stage: int, waiting: float) -> float:
    """The inverse rate up to which stopping costs no more than ``waiting``."""
    left = waiting - float(costs.intercept[stage])
    if costs.slope[stage] == 0:
        return math.inf if left >= 0 else -math.inf
    return left / float(costs.slope[stage])


def backward_induction(costs: StoppingCosts, placed: int, inverse_rates: ArrayLike) -> StoppingRule:
    """The optimal rule where every stage sees a fresh channel (i.i.d.). O(n Q).

    ``inverse_rates`` (Q,) are equally likely values of 1/R. Raises ValueError for ``placed`` outside 0..L.
    """
    rates = _law(costs, placed, inverse_rates)
    expected = np.empty(placed + 1)
    thresholds = np.empty(placed)
    expected[placed] = costs.stopping(placed, rates).mean()
    for stage in range(placed - 1, -1, -1):
        waiting = costs.run[stage] + expected[stage + 1]
        thresholds[stage] = _threshold(costs, stage, waiting)
        expected[stage] = np.minimum(costs.stopping(stage, rates), waiting).mean()
    return StoppingRule(thresholds, expected)


def look_ahead(costs: StoppingCosts, placed: int, inverse_rates: ArrayLike) -> StoppingRule:
    """One-stage look-ahead: stop if that is no worse than to run one more stage and stop then.

    It needs no more of the law than E[1/R]. Equal to :func:`backward_induction` where the stopping sets are monotone,
    an upper bound elsewhere: on AlexNet's raw layers it is up to two thirds worse, since a convolution makes the data
    larger and the pooling behind it smaller. Merge first (:func:`merged_points`).
    """
    rates = _law(costs, placed, inverse_rates)
    mean = rates.mean()
    thresholds = np.empty(placed)
    for stage in range(placed):
        waiting = costs.run[stage] + float(costs.stopping(stage + 1, mean))
        thresholds[stage] = _threshold(costs, stage, waiting)
    return StoppingRule(thresholds, rule_cost(costs, thresholds, rates))


def rule_cost(costs: StoppingCosts, thresholds: ArrayLike, inverse_rates: ArrayLike) -> Floats:
    """Expected cost from each stage on, (n + 1,), of any thresholds (n,) where every stage sees a fresh channel."""
    limits = np.asarray(thresholds, dtype=np.float64)
    rates = _law(costs, limits.size, inverse_rates)
    expected = np.empty(limits.size + 1)
    expected[-1] = costs.stopping(limits.size, rates).mean()
    for stage in range(limits.size - 1, -1, -1):
        stop = rates <= limits[stage]
        waiting = costs.run[stage] + expected[stage + 1]
        expected[stage] = np.where(stop, costs.stopping(stage, rates), waiting).mean()
    return expected


# -------------------------------------------------------------------------------------------------- sampled futures


@dataclass(frozen=True)
class PathCosts:
    """What became of tasks on sampled paths of a channel, for stages 0..L. All paths are equally likely."""

    run: Floats  # (L,): cost of stage l + 1 on the device
    stopping: Floats  # (L + 1, paths): cost of stopping after each stage, the upload over the path included
    seen: Floats  # (L, paths): channel state that the device sees after each stage but the last

    def __post_init__(self) -> None:
        stages, paths = self.run.size, self.stopping.shape[-1]
        if self.stopping.shape != (stages + 1, paths) or self.seen.shape != (stages, paths):
            raise ValueError(
                f"{stages} stages need {stages + 1} costs of stopping and {stages} states per path, got "
                f"{self.stopping.shape} and {self.seen.shape}"
            )


@dataclass(frozen=True)
class PathRule:
    """For ``n`` placed stages: stop after stage ``l < n`` where the state seen is ``gates[l]`` or more."""

    gates: Floats  # (n,): 0: always; inf: never
    cost: float  # mean over the paths

    @property
    def placed(self) -> int:
        """n."""
        return int(self.gates.size)


def gates_cost(costs: PathCosts, gates: ArrayLike) -> float:
    """Mean cost of a task under any gates (n,)."""
    limits = np.asarray(gates, dtype=np.float64)
    going = costs.stopping[limits.size]
    for stage in range(limits.size - 1, -1, -1):
        going = np.where(costs.seen[stage] >= limits[stage], costs.stopping[stage], costs.run[stage] + going)
    return float(going.mean())


def path_induction(costs: PathCosts, placed: int) -> PathRule:
    """The best gates on sampled paths, by backward induction. O(n paths log paths).

    A stage's gate is the best for the paths that get there, given the gates behind it. Which paths those are is known
    once the stages before have their gates, so the induction goes backward again until it gains nothing; where the
    state seen is all that matters of the past, the first time is exact. Never dearer than the best fixed stop.
    """
    if not 0 <= placed <= costs.run.size:
        raise ValueError(f"{placed} stages cannot be placed: the model has {costs.run.size}")
    best = min((_fixed_stop(costs, placed, stop) for stop in range(placed, -1, -1)), key=lambda rule: rule.cost)
    reached = np.ones((placed, costs.stopping.shape[1]), dtype=bool)
    gates = np.full(placed, math.inf)
    for _ in range(_MOST_INDUCTIONS):
        going = costs.stopping[placed]
        for stage in range(placed - 1, -1, -1):
            waiting, stopping = costs.run[stage] + going, costs.stopping[stage]
            here = reached[stage]
            if here.any():
                gates[stage] = best_gate(costs.seen[stage][here], (waiting - stopping)[here])
            going = np.where(costs.seen[stage] >= gates[stage], stopping, waiting)
        if not going.mean() < best.cost * (1 - _LEAST_GAIN):
            break
        best = PathRule(gates.copy(), float(going.mean()))
        for stage in range(1, placed):
            reached[stage] = reached[stage - 1] & (costs.seen[stage - 1] < gates[stage - 1])
    return best


_MOST_INDUCTIONS = 8
_LEAST_GAIN = 1e-6


def look_ahead_on_paths(costs: PathCosts, placed: int) -> PathRule:
    """One-stage look-ahead: each gate is the best if the task stopped at the next stage at the latest."""
    gates = np.array(
        [
            best_gate(costs.seen[stage], costs.run[stage] + costs.stopping[stage + 1] - costs.stopping[stage])
            for stage in range(placed)
        ]
    )
    return PathRule(gates, gates_cost(costs, gates))


def best_gate(seen: Floats, gains: Floats) -> float:
    """The state from which on to stop, so that the ``gains`` of those who stop sum to the most."""
    states, group = np.unique(-seen, return_inverse=True)
    sums = np.concatenate([[0.0], np.cumsum(np.bincount(group, gains, minlength=states.size))])
    stops = int(np.argmax(sums))
    if stops == 0:
        return math.inf
    return 0.0 if stops == states.size else float(-(states[stops - 1] + states[stops]) / 2)


def _fixed_stop(costs: PathCosts, placed: int, stop: int) -> PathRule:
    gates = np.full(placed, math.inf)
    gates[stop:] = 0.0
    return PathRule(gates, gates_cost(costs, gates))


def _law(costs: StoppingCosts, placed: int, inverse_rates: ArrayLike) -> Floats:
    if not 0 <= placed <= costs.stages:
        raise ValueError(f"{placed} stages cannot be placed: the model has {costs.stages}")
    rates = np.asarray(inverse_rates, dtype=np.float64)
    if rates.ndim != 1 or rates.size == 0 or not np.all(np.isfinite(rates)) or np.any(rates <= 0):
        raise ValueError("inverse rates are a vector of finite numbers above 0: give the channel a gain floor")
    return rates


# ---------------------------------------------------------------------------------------------------------- placement


Rule = TypeVar("Rule", StoppingRule, PathRule)


@dataclass(frozen=True)
class Placement(Generic[Rule]):
    """The best number of stages to place, and the cost of every number, (L + 1,), per re-training period."""

    placed: int
    total: Floats
    rule: Rule


def place(
    rules: Sequence[Rule], placement_costs: ArrayLike, inferences: float, allowed: Sequence[int] | None = None
) -> Placement[Rule]:
    """``argmin_n placement_costs[n] + inferences * rules[n].cost`` over ``allowed`` (None: all), the smallest on a tie.

    ``placement_costs`` (L + 1,) are paid once for ``inferences`` tasks; with infinitely many they do not count. Raises
    ValueError if nothing is allowed.
    """
    paid = np.asarray(placement_costs, dtype=np.float64)
    per_task = np.array([rule.cost for rule in rules])
    if paid.shape != per_task.shape:
        raise ValueError(f"{per_task.size} rules need as many placement costs, got {paid.size}")
    if not inferences > 0:
        raise ValueError(f"a period serves more than 0 inferences, got {inferences!r}")
    total = per_task if math.isinf(inferences) else paid + inferences * per_task
    choices = range(total.size) if allowed is None else sorted(allowed)
    if not choices:
        raise ValueError("no placement is allowed")
    best = min(choices, key=lambda n: float(total[n]))
    return Placement(best, total, rules[best])


@dataclass(frozen=True)
class EqualLayers:
    """The closed form of :func:`place_equal_layers`."""

    placed: int  # among 0..L-1
    stop_probability: float
    gain: float  # of one more placed layer, at the first
    expected: Floats  # (L,): cost of a task with 0..L-1 layers placed


def place_equal_layers(
    layers: int, run: float, edge: float, upload_slope: float, inverse_rates: ArrayLike, placement: float,
    inferences: float,
) -> EqualLayers:  # fmt: skip
    """Placement of equal layers under one-stage look-ahead, in closed form [DERIVED].

    ``run`` and ``edge`` are a layer's cost on the device and at the edge, ``upload_slope`` that of an upload per s/bit,
    ``placement`` what one layer's download costs. The gain of one more layer falls geometrically with the probability
    to go on, so n* grows like ln K. Compare with ``n = L``, which uploads nothing, apart from this.
    """
    rates = np.asarray(inverse_rates, dtype=np.float64)
    upload = upload_slope * rates
    mean = float(upload.mean())
    stop = upload <= mean + run - edge
    p = float(stop.mean())
    q = 1.0 - p
    stopped = float(upload[stop].mean()) if stop.any() else 0.0
    gain = p * (mean - stopped) - q * (run - edge)
    first = mean + layers * edge
    number = np.arange(layers, dtype=np.float64)
    geometric = number if q == 1.0 else (1.0 - q**number) / (1.0 - q)
    placed = 0
    if gain > 0 and inferences * gain > placement:
        placed = layers - 1
        if q == 0.0:
            placed = 1  # the second layer is never run
        elif q < 1.0 and placement > 0:
            placed = math.floor(1.0 + math.log(placement / (inferences * gain)) / math.log(q))
    return EqualLayers(min(max(placed, 0), layers - 1), p, gain, first - gain * geometric)


# ------------------------------------------------------------------------------------------------------- known futures


def genie_cost(costs: StoppingCosts, placed: int, inverse_rates: ArrayLike) -> Floats:
    """Cost of tasks that know all their channels before they start: no online rule can be better.

    ``inverse_rates`` is (tasks, stages), one column for each stage 0..n at least; returns (tasks,).
    """
    rates = np.asarray(inverse_rates, dtype=np.float64)
    if rates.ndim != 2 or rates.shape[1] <= placed:
        raise ValueError(f"{placed} placed stages need {placed + 1} channels per task, got {rates.shape}")
    before = costs.run_before()[: placed + 1]
    stopping = costs.slope[: placed + 1] * rates[:, : placed + 1] + costs.intercept[: placed + 1]
    return np.asarray((before + stopping).min(axis=1))

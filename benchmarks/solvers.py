"""Allocation and decisions: time at 10 / 30 / 100 UEs, against an LP per candidate as in the public LyDROO code, and
accuracy on 1000 random feasible instances per delay model with loads up to 0.99, against CLARABEL and against a lower
bound by duality (where CLARABEL itself stops early).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import linprog
from scipy.special import lambertw

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "unit" / "solvers"))

from certificate import lower_bound
from instances import random_instances

from benchmarks._timing import median_seconds
from controller.contract import Scenario
from controller.learning.checkpoint import (
    FORMAT,
    IMITATION,
    Header,
    candidate_labels,
    save_checkpoint,
    scenario_hash,
)
from controller.learning.lab_range import LAB_RANGE
from controller.policies.examples import example_observation, example_scenario
from controller.policies.lymdo import Lymdo, LymdoCoordinateDescent
from controller.solvers.allocation.chain import ChainTables
from controller.solvers.allocation.general import allocate_general
from controller.solvers.allocation.problem import AllocationModel
from controller.solvers.allocation.shares import allocate


def accuracy(instances: int) -> list[dict[str, object]]:
    """How far the cost is from CLARABEL's and above the lower bound, relative, worst of all instances."""
    rows: list[dict[str, object]] = []
    models: tuple[AllocationModel, ...] = ("indep", "exact")
    for model in models:
        worst = best = gap = 0.0
        inaccurate = 0
        loads: list[float] = []
        sizes = (1, 2, 4, 8)
        for ues in sizes:
            demands, constants, limits = random_instances(instances // len(sizes), ues, seed=100 + ues)
            ours = allocate(demands, constants, limits, model)
            oracle = allocate_general(demands, constants, limits, model)
            ratio = ours.cost / oracle.cost - 1
            worst, best = max(worst, float(ratio.max())), min(best, float(ratio.min()))
            gap = max(gap, float(np.max(1 - lower_bound(ours, demands, constants, limits, model) / ours.cost)))
            inaccurate += int(np.sum(ratio < (-1e-8 if model == "indep" else -1e-6)))
            loads += ours.largest_load.tolist()
        rows.append({
            "model": model, "instances": len(loads), "worse_than_clarabel": worst, "better_than_clarabel": -best,
            "clarabel_off_by_more_than_the_tolerance": inaccurate, "above_lower_bound": gap,
            "largest_load": max(loads), "infeasible": int(np.sum(~np.isfinite(loads))),
        })  # fmt: skip
    return rows


def untrained_checkpoint(scenario: Scenario, path: Path) -> None:
    """Random weights: the time of a decision does not depend on their values."""
    labels = candidate_labels(ChainTables.of(scenario))
    header = Header(
        format=FORMAT, learner=IMITATION, models=(scenario.ues[0].profile.model,), cuts=labels,
        ues=len(scenario.ues), v=0.0, slot_seconds=scenario.slot_seconds, scenario=scenario.name,
        scenario_hash=scenario_hash(scenario), seed=0, steps=0, ranges=LAB_RANGE, queue_over_budget=(),
    )  # fmt: skip
    rng = np.random.default_rng(1)
    save_checkpoint(path, header, {n: rng.normal(0, 0.2, s) for n, s in header.shapes.items()})


def timing() -> list[dict[str, float]]:
    """One solve, batches, a decision of LyMDO (actor, 8 candidates, allocation) and of coordinate descent."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for ues in (10, 30, 100):
            demands, constants, limits = random_instances(200, ues, seed=1)
            one = demands._make(np.ascontiguousarray(field[:1]) for field in demands)
            figures: dict[str, float] = {"ues": ues}
            for model in ("indep", "exact"):
                figures[f"solve_{model}_ms"] = median_seconds(lambda m=model, d=one: allocate(d, constants, limits, m)) * 1e3  # type: ignore[misc]  # fmt: skip  # noqa: B023, E501
                batch = median_seconds(lambda m=model: allocate(demands, constants, limits, m), 5)  # type: ignore[misc]  # noqa: B023
                figures[f"ue_slots_per_second_{model}"] = round(200 * ues / batch)
            scenario = example_scenario(ues, slot_seconds=2.0)
            path = Path(folder) / f"{ues}.npz"
            untrained_checkpoint(scenario, path)
            policy = Lymdo(checkpoint=str(path))
            policy.reset(scenario, 1)
            observations = [example_observation(scenario, slot) for slot in range(40)]
            turn = iter(range(10**9))
            figures["decision_ms"] = median_seconds(lambda: policy.decide(observations[next(turn) % 40]), 200) * 1e3  # noqa: B023
            descent = LymdoCoordinateDescent()
            descent.reset(scenario, 1)
            figures["coordinate_descent_ms"] = median_seconds(lambda: descent.decide(observations[next(turn) % 40]), 20) * 1e3  # noqa: B023, E501  # fmt: skip
            rows.append({key: round(value, 4) for key, value in figures.items()})
    return rows


def linear_programs() -> list[dict[str, float]]:
    """One slot of ``ues`` UEs with ``ues`` binary candidates, scored by a price bisection with Lambert-W and an LP,
    the public LyDROO code's way, from its description."""
    rows = []
    for ues in (10, 30):
        rng = np.random.default_rng(1)
        gains, queues, energy = rng.exponential(1.0, ues), rng.exponential(1.0, ues), rng.exponential(1.0, ues)

        def slot(count: int = ues, h: np.ndarray = gains, q: np.ndarray = queues, y: np.ndarray = energy) -> float:
            draw = np.random.default_rng(2)
            return max(_lp_score(draw.random(count) < 0.5, h, q, y) for _ in range(count))

        style = median_seconds(slot, 5)
        scenario = example_scenario(ues, slot_seconds=2.0)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "actor.npz"
            untrained_checkpoint(scenario, path)
            policy = Lymdo(checkpoint=str(path))
            policy.reset(scenario, 1)
            seen = example_observation(scenario, 0)
            ours = median_seconds(lambda: policy.decide(seen), 200)  # noqa: B023
        rows.append({"ues": ues, "lp_ms": style * 1e3, "ours_ms": ours * 1e3, "ratio": style / ours})
    return rows


def _lp_score(offloads: np.ndarray, gain: np.ndarray, queue: np.ndarray, energy: np.ndarray) -> float:
    """Bisection on the price of time with Lambert-W for the power, then an LP for bits and time shares."""
    members = np.flatnonzero(offloads)
    local = float(np.sum(np.minimum(queue[~offloads], np.sqrt(queue[~offloads] / (3 * energy[~offloads] + 1e-9)))))
    if not members.size:
        return local
    g, q, y = gain[members] * 10, queue[members], energy[members] + 1e-3
    low, high = 1e-6, 100.0
    for _ in range(50):
        price = 0.5 * (low + high)
        share = np.empty(members.size)
        for i in range(members.size):  # the public code does it one UE at a time
            root = float(np.real(lambertw((price * g[i] / (q[i] + 1e-9) - 1) / np.e)))
            share[i] = 1.0 / (1.0 + max(root, 1e-9) / (y[i] * g[i]))
        if share.sum() > 1:
            low = price
        else:
            high = price
    rate = np.log2(1 + g / y)
    found = linprog(
        -np.concatenate([q, -y]),
        A_ub=np.block(
            [[np.eye(members.size), -np.diag(rate)], [np.zeros((1, members.size)), np.ones((1, members.size))]]
        ),
        b_ub=np.concatenate([np.zeros(members.size), [1.0]]),
        bounds=[(0, float(x)) for x in q] + [(0, 1)] * members.size,
        method="highs",
    )
    return local - float(found.fun)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=1000, help="per delay model")
    parser.add_argument("--only", choices=["time", "against_lp", "accuracy"])
    asked = parser.parse_args()
    measures: dict[str, Callable[[], object]] = {
        "time": timing, "against_lp": linear_programs, "accuracy": lambda: accuracy(asked.instances)
    }  # fmt: skip
    figures = {name: measure() for name, measure in measures.items() if asked.only in (None, name)}
    print(json.dumps(figures, indent=1))

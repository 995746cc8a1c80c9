"""Online splitting against the best fixed cut and the genie, as JSON: ``python -m benchmarks.placement [RUN...]``.

Without runs: ``topologies/placement.yaml`` in the simulator, mean delay by policy over three seeds. With run
directories of that lab: what was measured, what the simulator says of the same tasks, and the genie's bound on them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from controller.contract import Policy, Scenario, cut_label
from controller.model.stage_fading import stage_gains
from controller.policies.placement import GreedySplit, ModelPlacement, StaticSplit
from controller.policies.static import Fixed
from controller.registry import create
from controller.simulation.result import SimulationResult
from controller.simulator import simulate
from controller.solvers.split_points import split_problem
from controller.solvers.stopping import genie_cost
from testbed.configs import read_scenario
from testbed.prepare import gather
from testbed.runs.manifest import read_manifest
from testbed.topology import load

LAB = Path("topologies/placement.yaml")
SLOTS = 1200
SEEDS = (5, 6, 7)
#: A task may be this much under the bound: after a pause HTB lets a frame or two go at once.
FRAMES_SECONDS = 5e-3


def main() -> None:
    if runs := [Path(name) for name in sys.argv[1:]]:
        print(json.dumps({run.name: measured(run) for run in runs}, indent=1))
    else:
        print(json.dumps(simulated(), indent=1))


def lab_scenario(overrides: tuple[str, ...] = ()) -> Scenario:
    topology = load(LAB, overrides)
    return gather(topology, str(LAB), LAB.parent, 1.0, lambda _: None).scenario


def simulated() -> dict[str, object]:
    """Mean delay in seconds by policy, one value per seed."""
    scenario = lab_scenario()
    cuts = [cut_label(cut) for cut in split_problem(scenario, 0, 1.0, 0.0).cuts]
    policies: dict[str, Policy] = {
        "placement": ModelPlacement(),
        "placement, look-ahead": ModelPlacement(rule="look-ahead"),
        "placement, all placed": ModelPlacement(placed="all"),
        "placement, half placed": ModelPlacement(placed="half"),
        "static-split": StaticSplit(),
        "greedy-split": GreedySplit(),
        **{f"fixed {cut}": Fixed(cut) for cut in cuts},
    }
    delays: dict[str, list[float]] = {name: [] for name in (*policies, "genie, without queues")}
    for seed in SEEDS:
        for name, policy in policies.items():
            result = simulate(scenario, policy, SLOTS, seed)
            delays[name].append(result.mean_delay_seconds())
        delays["genie, without queues"].append(float(np.mean(genie(scenario, seed, tasks_of(result)))))
    fixed = [np.mean(values) for name, values in delays.items() if name.startswith("fixed")]
    return {
        "mean_delay_seconds": delays,
        "best_fixed_over_placement": float(min(fixed) / np.mean(delays["placement"])),
        "placement_over_genie": float(np.mean(delays["placement"]) / np.mean(delays["genie, without queues"])),
    }


def tasks_of(result: SimulationResult) -> list[tuple[int, int]]:
    assert result.tasks is not None
    counts = np.bincount(result.tasks.ue, minlength=len(result.scenario.ues))
    return [(ue, task) for ue, count in enumerate(counts) for task in range(count)]


def genie(scenario: Scenario, seed: int, tasks: list[tuple[int, int]]) -> np.ndarray:
    """Least delay of each (UE, task) that a device with all layers could have, had it known its channels."""
    found = []
    problems = [split_problem(scenario, ue, 1.0, 0.0) for ue in range(len(scenario.ues))]
    for ue, task in tasks:
        problem = problems[ue]
        gains = stage_gains(scenario.ues[ue], seed, ue, task)[list(problem.columns)]
        found.append(genie_cost(problem.costs, problem.stages, problem.inverse_rates(gains)[np.newaxis])[0])
    return np.array(found)


def measured(run: Path) -> dict[str, object]:
    """A run of the lab beside the simulator's figure and the bound for the same tasks."""
    manifest = read_manifest(run)
    tasks = pq.read_table(run / "tasks.parquet")
    done = tasks.filter(np.array(tasks["status"]) == "completed")
    scenario = read_scenario(run / "scenario.json") if (run / "scenario.json").exists() else lab_scenario()
    names = [str(ue.name) for ue in scenario.ues]
    keys = [(names.index(ue), task) for ue, task in zip(done["ue"].to_pylist(), done["task"].to_pylist(), strict=True)]
    delays = np.array(done["e2e_delay_seconds"])
    bound = genie(scenario, manifest.seed, keys)
    slots = round((manifest.duration_seconds or 60.0) / scenario.slot_seconds)
    model = simulate(scenario, create(manifest.policy, manifest.policy_options), slots, manifest.seed)
    simulated_mean = model.mean_delay_seconds()
    summary = json.loads((run / "summary.json").read_text())
    versions = np.array(done["model_version"])
    return {
        "policy": manifest.policy,
        "valid": summary["valid"],
        "tasks": summary["tasks"],
        "mean_delay_seconds": float(delays.mean()),
        "simulated_mean_delay_seconds": simulated_mean,
        "measured_over_simulated": float(delays.mean() / simulated_mean),
        "genie_mean_delay_seconds": float(bound.mean()),
        "tasks_under_the_genie": int(np.sum(delays < bound - FRAMES_SECONDS)),
        "model_versions": np.unique(versions).tolist(),
        "cuts": summary["cuts"],
    }


if __name__ == "__main__":
    main()

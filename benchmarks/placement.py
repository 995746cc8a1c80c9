"""Online splitting against the best fixed cut and the genie, as JSON: ``python -m benchmarks.placement [RUN...]``.

Without runs: ``topologies/placement.yaml`` in the simulator by policy, one value per seed - delay, energy and cost of a
task, without and with its part of its version's download - and the law against channels that change in time. With run
directories of that lab: what was measured, what the simulator says of the same tasks, and the genie's bound on them.
Costs are those of the lab's weights.
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
from controller.policies.registry import create
from controller.policies.static import Fixed
from controller.simulator.channels import ChannelStates
from controller.simulator.result import SimulationResult
from controller.simulator.simulate import simulate
from controller.solvers.stopping.split_points import split_problem
from controller.solvers.stopping.stopping import genie_cost
from testbed.lab.simulate import channel_states
from testbed.labfile.load import load
from testbed.labfile.resolve import resolve
from testbed.protocol.configs import read_scenario
from testbed.records.manifest import read_manifest

LAB = Path("topologies/placement.yaml")
SLOTS = 1200
SEEDS = (5, 6, 7)
#: Of channels that change in time: so many tasks that shadowing averages out.
SLOTS_IN_TIME = 2000
CHANNELS = (
    "{fading: rayleigh, doppler: 0.2 Hz, distance: 500 m, shadowing: {sigma: 8 dB, rho: 0.9}}",
    "{fading: rayleigh, doppler: 5 Hz, distance: 500 m, step: 20 ms}",
    "{fading: rayleigh, doppler: 1 Hz, distance: 700 m}",
)
#: A task may be this much under the bound: after a pause HTB lets a frame or two go at once.
FRAMES_SECONDS = 5e-3


def main() -> None:
    if runs := [Path(name) for name in sys.argv[1:]]:
        print(json.dumps({run.name: measured(run) for run in runs}, indent=1))
    else:
        print(json.dumps(simulated(), indent=1))


def lab_scenario(overrides: tuple[str, ...] = ()) -> Scenario:
    topology = load(LAB, overrides)
    return resolve(topology, str(LAB), LAB.parent, 1.0, lambda _: None).scenario


def lab_weights() -> tuple[float, float]:
    """(of a second, of a joule), as the lab's policy has them."""
    options = load(LAB).policy.options
    return float(options["time_weight"]), float(options["energy_weight"])


def simulated() -> dict[str, object]:
    """By policy, one value per seed."""
    scenario, weights = lab_scenario(), lab_weights()
    cuts = [cut_label(cut) for cut in split_problem(scenario, 0, *weights).cuts]
    policies: dict[str, Policy] = {
        "placement": ModelPlacement(*weights),
        "placement, look-ahead": ModelPlacement(*weights, rule="look-ahead"),
        "placement, all placed": ModelPlacement(*weights, placed="all"),
        "placement, half placed": ModelPlacement(*weights, placed="half"),
        "static-split": StaticSplit(*weights),
        "greedy-split": GreedySplit(*weights),
        **{f"fixed {cut}": Fixed(cut) for cut in cuts},
    }
    table: dict[str, dict[str, list[float]]] = {}
    bounds = []
    for seed in SEEDS:
        for name, policy in policies.items():
            result = simulate(scenario, policy, SLOTS, seed)
            for key, value in figures(result, weights).items():
                table.setdefault(name, {}).setdefault(key, []).append(value)
        bounds.append(float(np.mean(genie(scenario, seed, tasks_of(result), weights))))
    fixed = [np.mean(values["cost"]) for name, values in table.items() if name.startswith("fixed")]
    cost = np.mean(table["placement"]["cost"])
    return {
        "promised": promise(scenario, ModelPlacement(*weights)),
        "policies": table,
        "genie_cost_without_queues": bounds,
        "best_fixed_over_placement": float(min(fixed) / cost),
        "placement_over_genie": float(cost / np.mean(bounds)),
        "channels_in_time": {channel: in_time(channel, weights) for channel in CHANNELS},
    }


def promise(scenario: Scenario, policy: ModelPlacement) -> dict[str, float]:
    policy.reset(scenario, 0)
    return policy.state()


def figures(result: SimulationResult, weights: tuple[float, float]) -> dict[str, float]:
    """Means over the completed tasks, in seconds, joules and cost."""
    assert result.tasks is not None
    done = result.completed()
    delay = float(result.tasks.delay_seconds[done].mean())
    joules = float((result.tasks.compute_joules + np.nan_to_num(result.tasks.transmit_joules))[done].mean())
    downloads = [
        weights[0] * (move.received_seconds - move.started_seconds) + weights[1] * move.receive_joules
        for move in result.updates
    ]
    cost = weights[0] * delay + weights[1] * joules
    stages = result.mean_stage_seconds()
    return {
        "delay": delay,
        "queues": sum(value for stage, value in stages.items() if "queue" in stage),
        "joules": joules,
        "cost": cost,
        "cost_with_placement": cost + sum(downloads) / int(done.sum()),
    }


def in_time(channel: str, weights: tuple[float, float]) -> dict[str, object]:
    """Cost of a task on a channel that changes while it uploads: promised, and simulated without waits in queues."""
    overrides = (f"ues.0.channel={channel}", "ues.0.arrivals.rate=0.25 /s", "retraining=null")
    topology = load(LAB, overrides)
    scenario = resolve(topology, str(LAB), LAB.parent, 1.0, lambda _: None).scenario
    found: dict[str, object] = {}
    cuts = [cut_label(cut) for cut in split_problem(scenario, 0, *weights).cuts]
    policies: dict[str, Policy] = {
        "placement": ModelPlacement(*weights),
        "placement, look-ahead": ModelPlacement(*weights, rule="look-ahead"),
        "static-split": StaticSplit(*weights),
        **{f"fixed {cut}": Fixed(cut) for cut in cuts},
    }
    states = {seed: states_in_time((*overrides, f"seed={seed}")) for seed in SEEDS}
    for name, policy in policies.items():
        costs = []
        for seed in SEEDS:
            result = simulate(scenario, policy, SLOTS_IN_TIME, seed, channel=states[seed], drain_seconds=60.0)
            one = figures(result, weights)
            costs.append(one["cost"] - weights[0] * one["queues"])
        promised = policy.state().get(f"expected_cost.{scenario.ues[0].name}")
        found[name] = {"promised": promised, "simulated_without_queues": costs}
    return found


def states_in_time(overrides: tuple[str, ...]) -> ChannelStates:
    topology = load(LAB, overrides)
    traces = resolve(topology, str(LAB), LAB.parent, SLOTS_IN_TIME * 1.0, lambda _: None).traces
    return channel_states(topology, traces, SLOTS_IN_TIME + 60.0)


def tasks_of(result: SimulationResult) -> list[tuple[int, int]]:
    assert result.tasks is not None
    counts = np.bincount(result.tasks.ue, minlength=len(result.scenario.ues))
    return [(ue, task) for ue, count in enumerate(counts) for task in range(count)]


def genie(scenario: Scenario, seed: int, tasks: list[tuple[int, int]], weights: tuple[float, float]) -> np.ndarray:
    """Least cost of each (UE, task) that a device with all layers could have, had it known its channels."""
    found = []
    problems = [split_problem(scenario, ue, *weights) for ue in range(len(scenario.ues))]
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
    bound = genie(scenario, manifest.seed, keys, lab_weights())
    delay_bound = genie(scenario, manifest.seed, keys, (1.0, 0.0))
    slots = round((manifest.duration_seconds or 60.0) / scenario.slot_seconds)
    model = simulate(scenario, create(manifest.policy, manifest.policy_options), slots, manifest.seed)
    simulated_mean = model.mean_delay_seconds()
    joules = np.array(done["compute_joules"]) + np.nan_to_num(np.array(done["transmit_joules"]))
    summary = json.loads((run / "summary.json").read_text())
    versions = np.array(done["model_version"])
    return {
        "policy": manifest.policy,
        "valid": summary["valid"],
        "tasks": summary["tasks"],
        "mean_delay_seconds": float(delays.mean()),
        "simulated_mean_delay_seconds": simulated_mean,
        "measured_over_simulated": float(delays.mean() / simulated_mean),
        "mean_cost": float(np.dot(lab_weights(), (delays.mean(), joules.mean()))),
        "simulated_mean_cost": figures(model, lab_weights())["cost"],
        "genie_mean_cost": float(bound.mean()),
        "placement": summary["placement"],
        "tasks_under_the_genie": int(np.sum(delays < delay_bound - FRAMES_SECONDS)),
        "model_versions": np.unique(versions).tolist(),
        "cuts": summary["cuts"],
    }


if __name__ == "__main__":
    main()

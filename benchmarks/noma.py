"""Li-GD against cold GD on cells drawn as in docs/noma.md, what rounding loses, the time of 64 UEs, 16 subchannels."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks._labs import figures_of
from controller.solvers.noma.descent import PER_SLOT, THOROUGH, Options, descend
from controller.solvers.noma.li_gd import evaluate_seats, solve
from controller.solvers.noma.relaxation import TABLES, Relaxation, SplitProblem
from controller.solvers.noma.seats import one_hot

ALEXNET = Path(__file__).parent.parent / "topologies" / "profiles" / "alexnet.json"
#: what ends a block: AlexNet as 11 blocks, each a convolution or a linear layer with its ReLU, or a pooling
BLOCK_ENDS = (
    "features_1", "features_2", "features_4", "features_5", "features_7", "features_9", "features_11", "features_12",
    "classifier_2", "classifier_5", "classifier_6",
)  # fmt: skip
FLOATS_PER_IMAGE = 3 * 224 * 224


def blocks() -> tuple[np.ndarray, np.ndarray]:
    """(FLOP of each block, bits behind each block as fp32, the input's first)."""
    nodes = json.loads(ALEXNET.read_text())["nodes"]
    flop, bits, sum_flop = [], [32.0 * FLOATS_PER_IMAGE], 0.0
    for node in nodes:
        sum_flop += 2.0 * node["macs"]
        if node["name"] in BLOCK_ENDS:
            flop.append(sum_flop)
            bits.append(8.0 * node["output_bytes"])
            sum_flop = 0.0
    assert len(flop) == len(BLOCK_ENDS), len(flop)
    return np.array(flop), np.array(bits)


def cell(
    ues: int, subchannels: int, seed: int, access: str = "noma", users: int = 2, scale: float = 1.0
) -> SplitProblem:
    """AlexNet in 11 blocks on devices of 1-4 GFLOP/s, 60 GFLOP/s at the edge, 10 MHz (times ``scale``), 20-200 m."""
    rng = np.random.default_rng([seed, ues])
    flop, bits = blocks()
    speed = rng.uniform(1e9, 4e9, ues)
    distance = rng.uniform(20.0, 200.0, ues)
    loss = 10 ** (-(30.6 + 36.7 * np.log10(distance)) / 10)
    gains = loss[np.newaxis, :, np.newaxis] * rng.exponential(size=(2, ues, subchannels))
    head = np.concatenate([[0.0], np.cumsum(flop)])
    tail = flop.sum() - head
    sent = np.where(tail > 0, bits[: len(head)], 0.0)
    back = np.where(tail > 0, bits[-1], 0.0)
    rows = np.ones((ues, 1))
    return SplitProblem(
        device_seconds=head / speed[:, np.newaxis],
        device_joules=1e-28 * speed[:, np.newaxis] ** 2 * head,
        up_bits=rows * sent,
        down_bits=rows * back,
        edge_work=rows * tail,
        constant_seconds=rows * 0.0 * head,
        gains=gains,
        max_watts=np.stack([np.full(ues, 0.2), np.full(ues, 1.0)]),
        subchannel_hz=(scale * 10e6 / subchannels, scale * 10e6 / subchannels),
        noise_watts_per_hz=10 ** (-17.4) * 1e-3,
        edge_capacity=scale * 60e9,
        edge_joules_per_work=1e-30,
        access=access,  # type: ignore[arg-type]
        users_per_subchannel=users,
    )


def useful(problem: SplitProblem) -> SplitProblem:
    """Without splits that send as much as an earlier one and compute more on the device: what the policy does."""
    bits = problem.up_bits[0]
    kept = [s for s in range(len(bits)) if bits[s] < min(bits[:s], default=np.inf)]
    return dataclasses.replace(problem, **{key: getattr(problem, key)[:, kept] for key in TABLES})


def local_cost(problem: SplitProblem) -> float:
    last = np.s_[:, -1]
    return float(np.sum(0.7 * problem.device_seconds[last] + 0.3 * problem.device_joules[last]))


def comparison(seeds: int, sizes: Sequence[tuple[int, int]] = ((4, 2), (8, 4), (12, 6))) -> list[dict[str, object]]:
    """Per size (UEs, subchannels): cold GD and Li-GD on the same cells."""
    rows: list[dict[str, object]] = []
    for ues, subchannels in sizes:
        cells = [cell(ues, subchannels, seed) for seed in range(seeds)]
        warm, cold = solve(cells), solve(cells, warm=False)
        rows.append({
            "ues": ues, "subchannels": subchannels, "runs": seeds,
            "same_split": sum(a.common_split == b.common_split for a, b in zip(warm, cold, strict=True)),
            "cold_cost": np.mean([b.common_cost for b in cold]), "li_gd_cost": np.mean([a.common_cost for a in warm]),
            "worst_cost_ratio": max(a.common_cost / b.common_cost for a, b in zip(warm, cold, strict=True)),
            "cold_iterations": np.mean([b.iterations for b in cold]),
            "li_gd_iterations": np.mean([a.iterations for a in warm]),
            "iteration_ratios": [round(b.iterations / a.iterations, 2) for a, b in zip(warm, cold, strict=True)],
            "per_user_cost": np.mean([a.relaxed_cost for a in warm]),
            "rounded_cost": np.mean([a.cost for a in warm]),
            "rounding_losses": [round(a.cost / a.relaxed_cost - 1, 4) for a in warm],
            "device_only": np.mean([local_cost(one) for one in cells]),
        })  # fmt: skip
    return rows


def best_seats(problem: SplitProblem) -> float:
    """The least cost over all seatings of a tiny cell."""
    ues, _, subchannels = problem.size
    one_way = [s for s in np.ndindex(*[subchannels] * ues) if max(np.bincount(s)) <= problem.users_per_subchannel]
    both = np.array([[up, down] for up in one_way for down in one_way])
    return evaluate_seats(problem, both).cost


def joint_optimum(problem: SplitProblem, options: Options = THOROUGH) -> float:
    """The least cost over all splits and seats of a cell of 2 UEs or so, powers and shares by a descent from even ones.

    As good as the descent: within a few thousandths of what another start finds.
    """
    ues, _, subchannels = problem.size
    one_way = list(itertools.product(range(subchannels), repeat=ues))
    splits = np.array(list(itertools.product(range(problem.device_seconds.shape[1]), repeat=ues)))
    best = np.inf
    for up, down in itertools.product(one_way, repeat=2):
        relaxed = Relaxation([problem]).repeated(0, len(splits))
        frozen = one_hot(relaxed, torch.tensor([[up, down]])).expand(len(splits), -1, -1, -1)
        start = torch.zeros((len(splits), relaxed.variables), dtype=torch.float64)
        cost = relaxed.cost(torch.as_tensor(splits), frozen)
        best = min(best, float(descend(cost, start, options, 2 * ues * subchannels).cost.min()))
    return best


def timing(cells: int, device: str) -> list[dict[str, object]]:
    """A decision for 64 UEs on 16 subchannels (4 UEs each) from a cold start, one cell at a time and all in a batch."""
    problems = [useful(cell(64, 16, seed, users=4, scale=64 / 12)) for seed in range(cells)]
    rows: list[dict[str, object]] = []
    for name, chosen in (("per slot", PER_SLOT), ("thorough", THOROUGH)):
        options = dataclasses.replace(chosen, device=device)
        solve(problems[:1], options)
        wall, cpu, plans = [], [], []
        for problem in problems:
            began, used = time.perf_counter(), time.process_time()
            plans += solve([problem], options)
            wall.append(round(time.perf_counter() - began, 3))
            cpu.append(round(time.process_time() - used, 3))
        began = time.perf_counter()
        solve(problems, options)
        rows.append({
            "options": name, "device": device, "seconds": wall, "cpu_seconds": cpu,
            "batch_seconds": round(time.perf_counter() - began, 3), "cost": [round(plan.cost, 3) for plan in plans],
            "iterations": [plan.iterations + plan.later_iterations for plan in plans],
        })  # fmt: skip
    return rows


def of_runs(directories: list[Path]) -> list[dict[str, object]]:
    """Weighted cost of runs, of the lab or the simulator: delay and energy per task over those of the device alone.

    Energy is the device's, the uplink's and the edge's. ``rate_error`` is the fidelity report's: what the wires carried
    against what the radio model ordered, of the worst wire.
    """
    import pyarrow.parquet as pq  # these two: not where the solver alone is timed

    from testbed.labfile.load import parse

    rows: list[dict[str, object]] = []
    for directory in directories:
        manifest = json.loads((directory / "manifest.json").read_text())
        topology = parse(manifest["resolved_lab"], str(directory), directory)
        (profile,) = (json.loads(path.read_text()) for path in (directory / "profiles").glob("*.json"))
        done = [
            task for task in pq.read_table(directory / "tasks.parquet").to_pylist() if task["status"] == "completed"
        ]
        speed, watts = {ue.spec.speed for ue in topology.expand()}, {ue.spec.compute_power for ue in topology.expand()}
        local_seconds = profile["head_seconds"][-1] / min(speed)
        edge = [
            topology.edge.power * (task["share"] / topology.edge.cpus) ** 3 * task["stage_tail_seconds"]
            for task in done
            if task["cut"] != "local"
        ]
        seconds = float(np.mean([task["e2e_delay_seconds"] for task in done]))
        joules = sum(edge) / len(done) + float(np.mean([t["compute_joules"] + t["transmit_joules"] for t in done]))
        fidelity = json.loads((directory / "fidelity.json").read_text())
        measured = figures_of(directory)
        rows.append({
            "run": directory.name, "policy": manifest["policy"], "runtime": manifest["runtime"], "tasks": len(done),
            "seconds": round(seconds, 4), "joules": round(joules, 4),
            "cost": round(0.7 * seconds / local_seconds + 0.3 * joules / (local_seconds * min(watts)), 4),
            "valid": fidelity["valid"], "reasons": fidelity["invalid_reasons"],
            **{key: measured.get(key) for key in ("rate_error", "rate_window_error", "uplink_integral_error")},
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--time-only", action="store_true")
    parser.add_argument("--runs", nargs="+", type=Path, help="print the weighted cost of these run directories only")
    parser.add_argument("--joint", action="store_true", help="cells of 2 UEs against their joint optimum only")
    asked = parser.parse_args()
    if asked.joint:
        torch.set_num_threads(1)
        cells = [cell(2, 2, seed) for seed in range(asked.seeds)]
        best = [joint_optimum(one) for one in cells]
        for name, options in (("thorough", THOROUGH), ("per_slot", PER_SLOT)):
            found = solve(cells, options)
            gaps = [round(plan.cost / least - 1, 4) for plan, least in zip(found, best, strict=True)]
            print(json.dumps({name: gaps}), flush=True)
        raise SystemExit
    if asked.runs:
        print(json.dumps(of_runs(asked.runs), indent=1))
        raise SystemExit
    torch.set_num_threads(1)
    figures: dict[str, object] = {"time": timing(4, asked.device)}
    if not asked.time_only:
        figures["li_gd"] = comparison(asked.seeds)
        tiny = [cell(4, 2, seed) for seed in range(asked.seeds)]
        plans = solve(tiny)
        figures["above_best_seats"] = [round(p.cost / best_seats(c) - 1, 4) for p, c in zip(plans, tiny, strict=True)]
    print(json.dumps(figures, indent=1, default=float))

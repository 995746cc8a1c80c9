"""LyMDO and its baselines in the simulator's event mode, paired seeds; sweeps of V and of the load as figures.

python -m benchmarks.lymdo.evaluate table lymdo           the table of docs/lymdo.md
python -m benchmarks.lymdo.evaluate v-sweep lymdo         docs/figures/lymdo-v-sweep.png
python -m benchmarks.lymdo.evaluate load-sweep lymdo      docs/figures/lymdo-load-sweep.png
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import click
import matplotlib as mpl
import numpy as np
from scipy import stats

from benchmarks.lymdo.labs import LABS, ROOT, SimulatedLab, simulated_lab
from controller.contract import Policy, cut_label
from controller.policies.convex import (
    DeviceOnlyConvex,
    EdgeOnlyConvex,
    FixedConvex,
    NeurosurgeonConvex,
    RandomConvex,
)
from controller.policies.lymdo import DelayOnly, Lymdo, LymdoCoordinateDescent, LymdoEqualShares, Myopic
from controller.policies.neurosurgeon import Neurosurgeon
from controller.policies.static import DeviceOnly, EdgeOnly
from controller.simulation.batch import run_fixed_cuts
from controller.simulator import simulate
from controller.solvers.chain import ChainTables

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"
#: A cut vector counts if its energy keeps within this of the budget.
BUDGET_LIMIT = 1.01
MOST_VECTORS = 20_000

Maker = Callable[[], Policy]


def best_fixed_cuts(lab: SimulatedLab, slots: int, seed: int) -> dict[str, str]:
    """The best constant cut vector under the convex step, by the formula over its own slots, budget kept."""
    scenario = lab.scenario
    tables = ChainTables.of(scenario)
    if np.prod(tables.counts.astype(float)) > MOST_VECTORS:  # many UEs: the same cut for all
        vectors = np.repeat(np.arange(tables.counts.min())[:, np.newaxis], tables.counts.size, axis=1)
    else:
        vectors = np.array(list(itertools.product(*(range(count) for count in tables.counts))))
    rng = np.random.default_rng(seed)
    rates = np.array([ue.arrivals.rates_per_second for ue in scenario.ues])
    probability = scenario.ues[0].arrivals.switch_probability
    state = np.cumsum(rng.random((slots, len(scenario.ues))) < probability, axis=0) % 2
    drawn = rates[np.arange(len(scenario.ues)), state]
    found = run_fixed_cuts(scenario, lab.channel(slots, seed), drawn, vectors, lab.v, warmup_slots=slots // 4)
    budget = np.array([ue.energy_budget_joules for ue in scenario.ues])
    kept = np.all(found.energy_joules <= budget * (BUDGET_LIMIT + 0.02), axis=1)
    best = vectors[int(np.argmin(np.where(kept, found.delay_seconds, np.inf)))]
    return {ue.name: cut_label(tables.cuts[i][best[i]]) for i, ue in enumerate(scenario.ues)}


def policies(lab: SimulatedLab, checkpoint: str) -> dict[str, Maker]:
    v = lab.v
    fixed = best_fixed_cuts(lab, 1000, 1)
    return {
        "lymdo-cd": lambda: LymdoCoordinateDescent(V=v),
        "lymdo": lambda: Lymdo(V=v, checkpoint=checkpoint, initial_queue=0.0),
        "lymdo (1 candidate)": lambda: Lymdo(V=v, checkpoint=checkpoint, candidates=1, initial_queue=0.0),
        "lymdo-equal": lambda: LymdoEqualShares(V=v, checkpoint=checkpoint, initial_queue=0.0),
        "myopic": lambda: Myopic(V=v),
        f"fixed+convex {'/'.join(dict.fromkeys(fixed.values()))}": lambda: FixedConvex(fixed, V=v),
        "device-only+convex": lambda: DeviceOnlyConvex(V=v),
        "edge-only+convex": lambda: EdgeOnlyConvex(V=v),
        "random+convex": lambda: RandomConvex(V=v),
        "neurosurgeon+convex": lambda: NeurosurgeonConvex(V=v),
        "delay-only": lambda: DelayOnly(V=v),
        "device-only": DeviceOnly,
        "edge-only": EdgeOnly,
        "neurosurgeon": Neurosurgeon,
    }


def interval(ratios: np.ndarray) -> float:
    """Half the 95 % interval of the mean of paired ratios."""
    if ratios.size < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, ratios.size - 1) * ratios.std(ddof=1) / np.sqrt(ratios.size))


@click.group(help=__doc__)
def main() -> None:
    mpl.use("Agg")


@main.command()
@click.argument("lab", type=click.Choice(LABS))
@click.option("--slots", default=2000)
@click.option("--seeds", default=5)
@click.option("--checkpoint", default=None)
@click.option("--only", default="", help="names, comma-separated")
def table(lab: str, slots: int, seeds: int, checkpoint: str | None, only: str) -> None:
    chosen = simulated_lab(lab)
    made = policies(chosen, checkpoint or str(ROOT / "checkpoints" / f"{lab}.npz"))
    wanted = {name.strip() for name in only.split(",") if name.strip()} | {"lymdo-cd"}
    reference = np.empty(0)
    click.echo("| policy | mean E2E (s) | against lymdo-cd | energy / budget, worst UE | decision (ms) |")
    click.echo("|---|---|---|---|---|")
    for name, make in made.items():
        if only and name not in wanted:
            continue
        results = [
            simulate(chosen.scenario, make(), slots, seed, "event", chosen.channel(slots, seed))
            for seed in range(1, seeds + 1)
        ]
        delays = np.array([result.mean_delay_seconds() for result in results])
        energy = float(np.mean([result.energy_ratio() for result in results], axis=0).max())
        reference = reference if reference.size else delays
        ratios = delays / reference
        took = float(np.median(np.concatenate([result.decide_seconds for result in results]))) * 1e3
        click.echo(
            f"| {name} | {delays.mean():.4f} | {ratios.mean() - 1:+.2%} ± {interval(ratios):.2%} "
            f"| {energy:.3f} | {took:.2f} |"
        )


@main.command("v-sweep")
@click.argument("lab", type=click.Choice(LABS))
@click.option("--slots", default=2000)
def v_sweep(lab: str, slots: int) -> None:
    """The textbook trade-off: delay within O(1/V) of its limit, virtual queues O(V)."""
    chosen = simulated_lab(lab)
    values = [chosen.v * factor for factor in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)]
    delays, queues, energies = [], [], []
    budget = np.array([ue.energy_budget_joules for ue in chosen.scenario.ues])
    for v in values:
        result = simulate(chosen.scenario, LymdoCoordinateDescent(V=v), slots, 1, "event", chosen.channel(slots, 1))
        delays.append(result.mean_delay_seconds(slots // 4))
        queues.append(float(np.mean([_queues(state) for state in result.policy_state[slots // 4 :]] / budget)))
        energies.append(float(result.energy_ratio(slots // 4).max()))
        click.echo(json.dumps({"V": v, "delay": delays[-1], "queue_over_budget": queues[-1], "energy": energies[-1]}))
    _figure(values, {"mean E2E (s)": delays, "mean queue / budget": queues, "energy / budget": energies}, "V (J²/s)",
            f"{lab}-v-sweep", logarithmic={"mean queue / budget"})  # fmt: skip


@main.command("load-sweep")
@click.argument("lab", type=click.Choice(LABS))
@click.option("--slots", default=1000)
def load_sweep(lab: str, slots: int) -> None:
    """Mean E2E over arrival rates of 0.5 to 1.5 times the lab's, budgets scaled with them."""
    base = simulated_lab(lab)
    low, high = base.scenario.ues[0].arrivals.rates_per_second
    budget = base.scenario.ues[0].energy_budget_joules
    factors = (0.5, 0.75, 1.0, 1.25, 1.5)
    made: dict[str, Callable[[float], Policy]] = {
        "lymdo-cd": lambda v: LymdoCoordinateDescent(V=v),
        "device-only+convex": lambda v: DeviceOnlyConvex(V=v),
        "neurosurgeon+convex": lambda v: NeurosurgeonConvex(V=v),
        "myopic": lambda v: Myopic(V=v),
    }
    lines: dict[str, list[float]] = {name: [] for name in made}
    for factor in factors:
        chosen = simulated_lab(
            lab,
            [
                f"ues.0.arrivals.rates=[{low * factor} /s, {high * factor} /s]",
                f"ues.0.energy_budget={budget * factor} J",
            ],
        )
        for name, make in made.items():
            result = simulate(chosen.scenario, make(chosen.v), slots, 1, "event", chosen.channel(slots, 1))
            lines[name].append(result.mean_delay_seconds())
        click.echo(json.dumps({"load": factor, **{name: values[-1] for name, values in lines.items()}}))
    _figure(list(factors), {"mean E2E (s)": lines}, "arrival rate / the lab's", f"{lab}-load-sweep", logarithmic=set())


def _queues(state: dict[str, float]) -> np.ndarray:
    return np.array([value for key, value in state.items() if key.startswith("virtual_queue_joules.")])


def _figure(
    x: list[float], panels: dict[str, list[float]] | dict[str, dict[str, list[float]]], label: str, name: str,
    logarithmic: set[str],
) -> None:  # fmt: skip
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3), squeeze=False)
    for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for line, values in (lines if isinstance(lines, dict) else {"": lines}).items():
            axis.plot(x, values, marker="o", label=line)
        if isinstance(lines, dict):
            axis.legend()
        else:
            axis.set_xscale("log")
        if title in logarithmic:
            axis.set_yscale("log")
        axis.set_xlabel(label)
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / f"{name}.png", dpi=110, metadata={"Software": None})
    click.echo(str(FIGURES / f"{name}.png"))


if __name__ == "__main__":
    main()

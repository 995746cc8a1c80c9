"""LyMDO and its baselines in the simulator's event mode, paired seeds; sweeps of V and of the load as figures.

python -m benchmarks.lymdo.evaluate table                 the tables of docs/lymdo.md, all three labs
python -m benchmarks.lymdo.evaluate fixed                 the best fixed cut vectors in event mode, all three labs
python -m benchmarks.lymdo.evaluate v-sweep lymdo         docs/figures/lymdo-v-sweep.png
python -m benchmarks.lymdo.evaluate sweep                 docs/figures/lymdo-sweep.png: spectrum, edge and load
python -m benchmarks.lymdo.evaluate sizes                 4, 10, 30 and 100 UEs
python -m benchmarks.lymdo.evaluate range                 ends of the actors' range, and outside, against lymdo-cd
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import matplotlib as mpl
import numpy as np
from scipy import stats

from benchmarks.lymdo.labs import LABS, ROOT, SHIPPED, SimulatedLab, simulated_lab
from controller.contract import Policy, cut_label
from controller.learning.batch import run_fixed_cuts
from controller.policies.convex import (
    DeviceOnlyConvex,
    EdgeOnlyConvex,
    FixedConvex,
    NeurosurgeonConvex,
    RandomConvex,
)
from controller.policies.everything import PpoEverything
from controller.policies.lymdo import (
    SOURCES,
    DelayOnly,
    Exhaustive,
    Lymdo,
    LymdoCoordinateDescent,
    LymdoEqualShares,
    Myopic,
)
from controller.policies.neurosurgeon import Neurosurgeon
from controller.policies.static import DeviceOnly, EdgeOnly, Fixed, Random
from controller.simulator.simulate import simulate
from controller.solvers.allocation.chain import ChainTables

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"
#: A cut vector counts if its energy keeps within this of the budget.
BUDGET_LIMIT = 1.01
MOST_VECTORS = 20_000

Maker = Callable[[], Policy]

#: What of LyMDO's decision is left out.
ABLATIONS: dict[str, dict[str, int]] = {
    "lymdo (actor alone)": {"improvements": 0},
    "lymdo (actor's likeliest)": {"improvements": 0, "candidates": 1},
    "lymdo (no actor)": {"candidates": 0},
}


def fixed_cuts(lab: SimulatedLab, slots: int, seed: int) -> list[dict[str, str]]:
    """Constant cut vectors under the convex step that keep the budget, the least delay by the formula first.

    Scored over slots of their own: not those of the runs that they are compared in.
    """
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
    order = np.argsort(np.where(kept, found.delay_seconds, np.inf), kind="stable")
    return [{ue.name: cut_label(tables.cuts[i][vectors[row, i]]) for i, ue in enumerate(scenario.ues)} for row in order]


def best_fixed_cuts(lab: SimulatedLab, slots: int, seed: int) -> dict[str, str]:
    """The first of :func:`fixed_cuts`."""
    return fixed_cuts(lab, slots, seed)[0]


def policies(lab: SimulatedLab, checkpoint: str, everything: Path) -> dict[str, Maker]:
    """Every policy of the table by name, those that know the budget first."""
    v = lab.v
    fixed = best_fixed_cuts(lab, 1000, 1)
    label = "/".join(fixed.values()) if len(fixed) < 5 else next(iter(fixed.values()))
    made: dict[str, Maker] = {
        "lymdo": lambda: Lymdo(V=v, checkpoint=checkpoint, initial_queue=0.0),
        **{
            name: lambda more=more: Lymdo(V=v, checkpoint=checkpoint, initial_queue=0.0, **more)
            for name, more in ABLATIONS.items()
        },
        "lymdo-cd": lambda: LymdoCoordinateDescent(V=v),
        "lymdo-equal": lambda: LymdoEqualShares(V=v, checkpoint=checkpoint, initial_queue=0.0),
        "ppo-all": lambda: PpoEverything(V=v, checkpoint=str(everything), initial_queue=0.0),
        "myopic": lambda: Myopic(V=v),
        f"fixed+convex {label}": lambda: FixedConvex(fixed, V=v),
        "neurosurgeon+convex": lambda: NeurosurgeonConvex(V=v),
        "device-only+convex": lambda: DeviceOnlyConvex(V=v),
        "edge-only+convex": lambda: EdgeOnlyConvex(V=v),
        "random+convex": lambda: RandomConvex(V=v),
        "delay-only": lambda: DelayOnly(V=v),
        "fixed": lambda: Fixed(fixed),
        "neurosurgeon": Neurosurgeon,
        "device-only": DeviceOnly,
        "edge-only": EdgeOnly,
        "random": Random,
    }
    if len(lab.scenario.ues) <= 3:
        made["exhaustive"] = lambda: Exhaustive(V=v)
    if not everything.is_file():
        del made["ppo-all"]
    return made


def interval(ratios: np.ndarray) -> float:
    """Half the 95 % interval of the mean of paired ratios."""
    if ratios.size < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, ratios.size - 1) * ratios.std(ddof=1) / np.sqrt(ratios.size))


@click.group(help=__doc__)
def main() -> None:
    mpl.use("Agg")


@dataclass(frozen=True)
class Measured:
    """One policy over the seeds."""

    delays: np.ndarray  # (seeds,) mean E2E
    energy_ratio: np.ndarray  # (seeds, ues)
    decision_seconds: float  # median


def measure(lab: SimulatedLab, make: Maker, slots: int, seeds: int) -> Measured:
    results = [
        simulate(lab.scenario, make(), slots, seed, "event", lab.channel(slots, seed)) for seed in range(1, seeds + 1)
    ]
    refused = [notice.text for result in results for _, notice in result.notices]
    if refused:
        raise ValueError(f"{len(refused)} decisions were refused; first: {refused[0]}")
    return Measured(
        np.array([result.mean_delay_seconds() for result in results]),
        np.array([result.energy_ratio() for result in results]),
        float(np.median(np.concatenate([result.decide_seconds for result in results]))),
    )


def against(delays: np.ndarray, reference: np.ndarray) -> str:
    """Mean and, from three seeds on, 95 % interval of the paired ratios, minus 1."""
    ratios = delays / reference
    return f"{ratios.mean() - 1:+.1%}" + (f" ± {interval(ratios):.1%}" if ratios.size > 2 else "")


@main.command()
@click.argument("labs", nargs=-1, type=click.Choice(LABS))
@click.option("--slots", default=2000)
@click.option("--seeds", default=5)
@click.option("--only", default="", help="names, comma-separated")
def table(labs: tuple[str, ...], slots: int, seeds: int, only: str) -> None:
    """Event mode, the same tasks and channels for every policy of a seed."""
    for name in labs or SHIPPED:
        chosen = simulated_lab(name)
        made = policies(chosen, str(chosen.checkpoint), ROOT / "checkpoints" / f"{name}-ppo-all.npz")
        wanted = {part.strip() for part in only.split(",") if part.strip()} | {"lymdo", "lymdo-cd"}
        found = {
            policy: measure(chosen, make, slots, seeds)
            for policy, make in made.items()
            if not only or policy in wanted or policy.split(" ")[0] in wanted - {"lymdo"}
        }
        click.echo(f"\n`topologies/{name}.yaml`, {slots} slots, {seeds} seeds\n")
        click.echo("| policy | mean E2E (s) | against lymdo | against lymdo-cd | energy / budget | decision (ms) |")
        click.echo("|---|---|---|---|---|---|")
        keeps = {policy: one.energy_ratio.mean(axis=0).max() <= BUDGET_LIMIT for policy, one in found.items()}
        for policy in sorted(found, key=lambda policy: (not keeps[policy], found[policy].delays.mean())):
            one = found[policy]
            ratio = one.energy_ratio.mean(axis=0).max()
            click.echo(
                f"| {policy} | {one.delays.mean():.4f} | {against(one.delays, found['lymdo'].delays)} "
                f"| {against(one.delays, found['lymdo-cd'].delays)} | {ratio:.3f}{'' if keeps[policy] else ' (over)'} "
                f"| {one.decision_seconds * 1e3:.2f} |"
            )


@main.command("fixed")
@click.argument("labs", nargs=-1, type=click.Choice(LABS))
@click.option("--slots", default=2000)
@click.option("--seeds", default=5)
@click.option("--best", default=20, help="so many vectors, by the formula, are tried in event mode")
def fixed_vectors(labs: tuple[str, ...], slots: int, seeds: int, best: int) -> None:
    """The best fixed cut vector in event mode against coordinate descent, of those that the formula ranks first."""
    for name in labs or SHIPPED:
        lab = simulated_lab(name)
        reference = measure(lab, lambda lab=lab: LymdoCoordinateDescent(V=lab.v), slots, seeds)  # type: ignore[misc]
        tried = []
        for cuts in fixed_cuts(lab, 1000, 1)[:best]:
            one = measure(lab, lambda lab=lab, cuts=cuts: FixedConvex(cuts, V=lab.v), slots, 1)  # type: ignore[misc]
            tried.append((one.delays[0], cuts))
        for _, cuts in sorted(tried, key=lambda pair: pair[0])[:3]:
            one = measure(lab, lambda lab=lab, cuts=cuts: FixedConvex(cuts, V=lab.v), slots, seeds)  # type: ignore[misc]
            click.echo(
                f"{name}: {'/'.join(cuts.values())} {against(one.delays, reference.delays)}, "
                f"energy {one.energy_ratio.mean(axis=0).max():.3f}"
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


#: Those of a sweep: each for a lab that is not the checkpoint's own.
RIVALS: dict[str, Callable[[SimulatedLab], Policy]] = {
    "lymdo": lambda lab: Lymdo(V=lab.v, checkpoint=lab.checkpoint, initial_queue=0.0),
    "lymdo-cd": lambda lab: LymdoCoordinateDescent(V=lab.v),
    "lymdo (actor alone)": lambda lab: Lymdo(V=lab.v, checkpoint=lab.checkpoint, initial_queue=0.0, improvements=0),
    "lymdo-equal": lambda lab: LymdoEqualShares(V=lab.v, checkpoint=lab.checkpoint, initial_queue=0.0),
    "fixed+convex": lambda lab: FixedConvex(best_fixed_cuts(lab, 300, 1), V=lab.v),
    "device-only+convex": lambda lab: DeviceOnlyConvex(V=lab.v),
    "myopic": lambda lab: Myopic(V=lab.v),
}


def rivals(
    name: str, overrides: Sequence[str], slots: int, seeds: int, wanted: Sequence[str] = tuple(RIVALS)
) -> dict[str, Measured]:
    """The sweeps' policies in a lab with overrides."""
    lab = simulated_lab(name, overrides)
    return {policy: measure(lab, lambda policy=policy: RIVALS[policy](lab), slots, seeds) for policy in wanted}  # type: ignore[misc]


def scaled(name: str, key: str, factor: float) -> list[str]:
    """Overrides that multiply spectrum, edge, or arrivals (with the budgets) of a lab."""
    scenario = simulated_lab(name).scenario
    ue = scenario.ues[0]
    if key == "spectrum":
        hz = scenario.radio.uplink_hz * factor
        return [f"radio.uplink={hz} Hz", f"radio.downlink={hz} Hz"]
    if key == "edge":
        return [f"edge.cpus={scenario.edge.cpus * factor}"]
    low, high = ue.arrivals.rates_per_second
    return [
        f"ues.0.arrivals.rates=[{low * factor} /s, {high * factor} /s]",
        f"ues.0.energy_budget={ue.energy_budget_joules * factor} J",
    ]


def swept(lab: str, key: str, slots: int, seeds: int) -> tuple[list[float], dict[str, list[float]]]:
    """(factors, mean E2E over lymdo-cd's by policy; nan where the budget is broken) over spectrum, edge or load."""
    factors = [0.5, 0.75, 1.0, 1.5, 2.0] if key == "load" else [0.25, 0.5, 1.0, 2.0, 4.0]
    ratios: dict[str, list[float]] = {policy: [] for policy in RIVALS}
    for factor in factors:
        found = rivals(lab, scaled(lab, key, factor), slots, seeds)
        energies = {policy: float(one.energy_ratio.mean(axis=0).max()) for policy, one in found.items()}
        # from empty queues, short runs break the budget by what the queues have grown to: all alike
        limit = max(BUDGET_LIMIT, 1.02 * energies["lymdo-cd"])
        for policy, one in found.items():
            ratio = float((one.delays / found["lymdo-cd"].delays).mean())
            ratios[policy].append(ratio if energies[policy] <= limit else np.nan)
        shown = {
            policy: (round(float(one.delays.mean()), 4), round(energies[policy], 3)) for policy, one in found.items()
        }
        click.echo(json.dumps({key: factor, **shown}))
    return factors, ratios


def draw_sweep(lab: str, found: dict[str, tuple[list[float], dict[str, list[float]]]]) -> None:
    """A panel for each key."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(4 * len(found), 3.2), sharey=True)
    for axis, (key, (factors, ratios)) in zip(axes, found.items(), strict=True):
        for policy, values in ratios.items():
            axis.plot(factors, values, marker="o", markersize=3, label=policy)
        axis.set(xscale="log", yscale="log", xlabel=f"{key} / the lab's")
        axis.set_xticks(factors, labels=[f"{factor:g}" for factor in factors])
        axis.set_xticks([], minor=True)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean E2E / lymdo-cd's")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    path = FIGURES / f"{lab}-sweep.png"
    figure.savefig(path, dpi=110, metadata={"Software": None})
    click.echo(str(path))


@main.command("sweep")
@click.option("--lab", default="lymdo", type=click.Choice(LABS))
@click.option("--slots", default=1000)
@click.option("--seeds", default=1)
def sweep(lab: str, slots: int, seeds: int) -> None:
    """Mean E2E over the lab's spectrum, edge and arrival rate, each times 0.25 to 4 (rates 0.5 to 2)."""
    draw_sweep(lab, {key: swept(lab, key, slots, seeds) for key in ("spectrum", "edge", "load")})


@main.command("sizes")
@click.option("--ues", default="4,10,30,100")
@click.option("--slots", default=300)
@click.option("--seeds", default=2)
def sizes(ues: str, slots: int, seeds: int) -> None:
    """The lab of lymdo.yaml with more UEs, spectrum and edge scaled with them."""
    titles = ["UEs", "lymdo (s)", "against lymdo-cd", "actor alone", "no actor", "best rival", "decision (ms)"]
    click.echo(f"| {' | '.join([*titles, 'of lymdo-cd'])} |")
    click.echo("|---|---|---|---|---|---|---|---|")
    for count in map(int, ues.split(",")):
        overrides = [f"ues.0.count={count}", f"edge.cpus={count / 4}", f"radio.uplink={count} MHz",
                     f"radio.downlink={count} MHz"]  # fmt: skip
        wanted = ["lymdo", "lymdo-cd", "lymdo (actor alone)", "lymdo-equal", "device-only+convex"]
        found = rivals("lymdo", overrides, slots, seeds, wanted)
        lab = simulated_lab("lymdo", overrides)
        bare = measure(lab, lambda lab=lab: Lymdo(V=lab.v, checkpoint=lab.checkpoint, initial_queue=0.0, candidates=0),  # type: ignore[misc]
                       slots, seeds)  # fmt: skip
        reference, ours = found["lymdo-cd"].delays, found["lymdo"]
        others = {name: found[name].delays.mean() for name in ("lymdo-equal", "device-only+convex")}
        best = min(others, key=lambda name: others[name])
        click.echo(
            f"| {count} | {ours.delays.mean():.4f} | {against(ours.delays, reference)} "
            f"| {against(found['lymdo (actor alone)'].delays, reference)} | {against(bare.delays, reference)} "
            f"| {best}: {against(found[best].delays, reference)} | {ours.decision_seconds * 1e3:.2f} "
            f"| {found['lymdo-cd'].decision_seconds * 1e3:.2f} |"
        )


#: Labs at the ends of the range that the actors are trained over, and outside of it ("!"), as overrides of lymdo.yaml.
GRID: dict[str, list[str]] = {
    "edge 0.3 cpus": ["edge.cpus=0.3"],
    "edge 4 cpus": ["edge.cpus=4"],
    "speed 0.2": ["ues.0.speed=0.2"],
    "speed 1.5": ["ues.0.speed=1.5"],
    "4 tasks/s": ["ues.0.arrivals.rates=[4 /s, 4 /s]"],
    "0.3 tasks/s": ["ues.0.arrivals.rates=[0.3 /s, 0.3 /s]"],
    "1 MHz": ["radio.uplink=1 MHz", "radio.downlink=1 MHz"],
    "16 MHz": ["radio.uplink=16 MHz", "radio.downlink=16 MHz"],
    "budget 0.03 J": ["ues.0.energy_budget=0.03 J"],
    "budget 1 J": ["ues.0.energy_budget=1 J"],
    "V 0.01": ["policy.V=0.01"],
    "V 10": ["policy.V=10"],
    "2 UEs": ["ues.0.count=2"],
    "30 UEs, 1 MHz each": ["ues.0.count=30", "radio.uplink=30 MHz", "radio.downlink=30 MHz", "edge.cpus=7.5"],
    "30 UEs, all else as with 4": ["ues.0.count=30"],
    "! 100 UEs, 1 MHz each": ["ues.0.count=100", "radio.uplink=100 MHz", "radio.downlink=100 MHz", "edge.cpus=25"],
    "! edge 0.1 cpus": ["edge.cpus=0.1"],
    "! speed 2": ["ues.0.speed=2"],
    "! 0.3 MHz": ["radio.uplink=0.3 MHz", "radio.downlink=0.3 MHz"],
    "! 10 tasks/s at speed 1.5": ["ues.0.arrivals.rates=[10 /s, 10 /s]", "ues.0.speed=1.5"],
}


@main.command("range")
@click.option("--slots", default=300)
@click.option("--seeds", default=2)
@click.option("--only", default="", help="parts of names, comma-separated")
def over_the_range(slots: int, seeds: int, only: str) -> None:
    """Each lab of GRID: LyMDO, the actor alone and without the actor against coordinate descent."""
    click.echo("| lab | lymdo-cd (s) | lymdo | actor alone | no actor | energy / budget | began from the actor's cut |")
    click.echo("|---|---|---|---|---|---|---|")
    for name, overrides in GRID.items():
        if not any(part in name for part in only.split(",")):
            continue
        lab = simulated_lab("lymdo", overrides)
        reference = measure(lab, lambda lab=lab: LymdoCoordinateDescent(V=lab.v), slots, seeds)  # type: ignore[misc]
        rows, won = [], np.zeros(4)
        for options in ({}, {"improvements": 0}, {"candidates": 0}):
            made = [Lymdo(V=lab.v, checkpoint=lab.checkpoint, initial_queue=0.0, **options) for _ in range(seeds)]
            turn = iter(made)
            rows.append(measure(lab, lambda turn=turn: next(turn), slots, seeds))  # type: ignore[misc]
            if not options:
                won += np.sum([[policy.state()[f"won.{source}"] for source in SOURCES] for policy in made], axis=0)
        energy = rows[0].energy_ratio.mean(axis=0).max()
        cells = " | ".join(against(one.delays, reference.delays) for one in rows)
        click.echo(
            f"| {name} | {reference.delays.mean():.4f} | {cells} | {energy:.3f} | {won[:2].sum() / won.sum():.0%} |"
        )


def _queues(state: dict[str, float]) -> np.ndarray:
    return np.array([value for key, value in state.items() if key.startswith("virtual_queue_joules.")])


def _figure(
    x: list[float], panels: dict[str, list[float]] | dict[str, dict[str, list[float]]], label: str, name: str,
    logarithmic: set[str],
) -> None:  # fmt: skip
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3), squeeze=False)
    for number, (axis, (title, lines)) in enumerate(zip(axes[0], panels.items(), strict=True)):
        for line, values in (lines if isinstance(lines, dict) else {"": lines}).items():
            axis.plot(x, values, marker="o", label=line)
        if isinstance(lines, dict):
            if number == 0:
                axis.legend(fontsize=7)
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

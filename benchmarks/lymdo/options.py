"""What an option or a model of LyMDO's is worth, in the simulator's event mode, paired seeds.

python -m benchmarks.lymdo.options objective [LAB]...    the mean over tasks against the mean over UEs
python -m benchmarks.lymdo.options periodic              periodic arrivals priced as what they are and as Poisson
"""

from __future__ import annotations

import click
import msgspec
import numpy as np

from benchmarks.lymdo.evaluate import Measured, against, measure
from benchmarks.lymdo.labs import LABS, SHIPPED, simulated_lab
from controller.contract import Arrivals, Scenario
from controller.policies.lymdo import LymdoCoordinateDescent
from controller.simulator.simulate import simulate


class PricedAsPoisson(LymdoCoordinateDescent):
    """Told that every UE's arrivals are a Poisson stream of their rate."""

    def reset(self, scenario: Scenario, seed: int) -> None:
        told = tuple(
            msgspec.structs.replace(ue, arrivals=Arrivals("poisson", (ue.arrivals.mean_rate_per_second,)))
            for ue in scenario.ues
        )
        super().reset(msgspec.structs.replace(scenario, ues=told), seed)


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("labs", nargs=-1, type=click.Choice(LABS))
@click.option("--slots", default=2000)
@click.option("--seeds", default=5)
def objective(labs: tuple[str, ...], slots: int, seeds: int) -> None:
    """lymdo-cd with `objective: tasks` against `objective: ues`: mean over the tasks."""
    for name in labs or SHIPPED:
        lab = simulated_lab(name)
        by_ue, by_task = (
            measure(lab, lambda o=o, lab=lab: LymdoCoordinateDescent(V=lab.v, objective=o), slots, seeds)  # type: ignore[misc]
            for o in ("ues", "tasks")
        )
        click.echo(f"{name}: {against(by_task.delays, by_ue.delays)}, energy {_energy(by_ue)} and {_energy(by_task)}")


@main.command()
@click.option("--slots", default=1000)
@click.option("--seeds", default=3)
def periodic(slots: int, seeds: int) -> None:
    """lymdo-cd in topologies/lymdo.yaml with periodic arrivals; the delay, what was predicted, and time in queues."""
    for rate in (1, 2, 3, 4):
        lab = simulated_lab("lymdo", [f"ues.0.arrivals={{process: periodic, rate: {rate} /s}}"])
        found = {}
        for kind in (PricedAsPoisson, LymdoCoordinateDescent):
            runs = [
                simulate(lab.scenario, kind(V=lab.v), slots, seed, "event", lab.channel(slots, seed))
                for seed in range(1, seeds + 1)
            ]
            found[kind] = np.array([run.mean_delay_seconds() for run in runs])
            predicted = np.mean(
                [state[f"predicted_seconds.{ue.name}"] for run in runs for state in run.policy_state
                 for ue in lab.scenario.ues]
            )  # fmt: skip
            queues = sum(
                seconds for run in runs for stage, seconds in run.mean_stage_seconds().items() if "queue" in stage
            )
            change = against(found[kind], found[PricedAsPoisson])
            click.echo(
                f"{rate}/s, {kind.__name__}: {found[kind].mean():.4f} s ({change}), "
                f"predicted {predicted:.4f} s, in queues {1e3 * queues / seeds:.2f} ms, "
                f"energy {max(run.energy_ratio().max() for run in runs):.3f}"
            )


def _energy(one: Measured) -> str:
    return f"{one.energy_ratio.mean(axis=0).max():.3f}"


if __name__ == "__main__":
    main()

"""What imperfect knowledge costs (docs/policies.md): LyMDO, DDS and Li-GD in their labs, in the simulator, event mode.

python -m benchmarks.knowledge [lymdo|lymdo-cd|dds|li-gd]... [--slots N] [--seeds N]
"""

from __future__ import annotations

import click
import numpy as np

from benchmarks.lymdo.evaluate import against
from benchmarks.lymdo.labs import ROOT
from controller.policies.registry import create
from controller.simulator.result import SimulationResult
from controller.simulator.simulate import simulate
from testbed.lab.simulate import channel_states
from testbed.labfile.load import load
from testbed.labfile.resolve import resolve

#: policy: (lab, slots, seeds)
LABS = {"lymdo": ("lymdo", 1000, 3), "lymdo-cd": ("lymdo", 1000, 3), "dds": ("dds", 500, 3), "li-gd": ("noma", 100, 2)}
EXACT = "{arrival_rate: state}"
SETTINGS = (
    EXACT,
    "{arrival_rate: mean}",
    "{arrival_rate: measured}",
    *(f"{{arrival_rate: state, gain_error: {decibels} dB}}" for decibels in (1, 2, 4, 8)),
    *(f"{{arrival_rate: state, gain_age: {slots}}}" for slots in (1, 2, 5)),
    "{arrival_rate: measured, gain_error: 2 dB, gain_age: 1}",
)


def run(policy: str, lab: str, observe: str, slots: int, seed: int) -> SimulationResult:
    """One simulation of a shipped lab."""
    file = ROOT / f"{lab}.yaml"
    topology = load(file, [f"observe={observe}", f"seed={seed}"])
    options = dict(topology.policy.options) if topology.policy.name == policy else {"V": topology.policy.options["V"]}
    options = {key: 0.0 if key == "initial_queue" else value for key, value in options.items()}
    seconds = slots * topology.slot
    resolved = resolve(topology, str(file), file.parent, seconds, lambda _text: None)
    channel = channel_states(topology, resolved.traces, seconds)
    return simulate(resolved.scenario, create(policy, options), slots, seed, "event", channel)


@click.command(help=__doc__)
@click.argument("policies", nargs=-1, type=click.Choice(list(LABS)))
@click.option("--slots", type=int)
@click.option("--seeds", type=int)
def main(policies: tuple[str, ...], slots: int | None, seeds: int | None) -> None:
    click.echo("| policy | observe | mean E2E (s) | against what is exact | energy / budget, worst UE |")
    click.echo("|---|---|---|---|---|")
    for policy in policies or tuple(LABS):
        lab, usual_slots, usual_seeds = LABS[policy]
        exact = np.zeros(0)
        for observe in SETTINGS:
            if "arrival_rate: m" in observe and "gain" not in observe and not policy.startswith("lymdo"):
                continue  # they do not look at the rates
            runs = [
                run(policy, lab, observe, slots or usual_slots, seed) for seed in range(1, (seeds or usual_seeds) + 1)
            ]
            delays = np.array([one.mean_delay_seconds() for one in runs])
            exact = delays if observe == EXACT else exact
            energy = np.mean([one.energy_ratio() for one in runs], axis=0).max()
            click.echo(
                f"| `{policy}` | `{observe}` | {delays.mean():.4f} | {against(delays, exact)} "
                f"| {f'{energy:.3f}' if energy else '-'} |"
            )


if __name__ == "__main__":
    main()

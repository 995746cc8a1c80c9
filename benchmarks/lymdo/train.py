"""Train the shipped actors: ``python -m benchmarks.lymdo.train lymdo`` writes topologies/checkpoints/lymdo.npz
and its learning curve. The same seed gives the same weights on one machine and torch version."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import click

from benchmarks.lymdo.labs import LABS, ROOT, simulated_lab
from controller.learning.actor import LearningCurve, Trained
from controller.learning.lydroo import LydrooConfig, train_lydroo
from controller.learning.ppo import PpoConfig, train_ppo
from controller.seeds import Purpose, integer

TRAINING_SLOTS = 20_000


@click.command(help=__doc__)
@click.argument("lab", type=click.Choice(LABS))
@click.option("--learner", type=click.Choice(["ppo", "lydroo"]), default="ppo")
@click.option("--seed", type=int, default=1)
@click.option("--updates", type=int, default=None, help="PPO updates, or hundreds of LyDROO slots")
@click.option("--out", type=click.Path(path_type=Path), default=None)
def main(lab: str, learner: str, seed: int, updates: int | None, out: Path | None) -> None:
    chosen = simulated_lab(lab)
    # a channel of its own: what is evaluated is never trained on
    channel = chosen.channel(TRAINING_SLOTS, integer(seed, Purpose.TRAINING, 9))

    def progress(step: int, curve: LearningCurve) -> None:
        click.echo(json.dumps({"update": step, **curve.rows()[-1]}))

    trained: Trained
    if learner == "ppo":
        trained = train_ppo(
            chosen.scenario, channel, chosen.v, seed, PpoConfig(updates=updates or 150), progress=progress
        )
    else:
        config = LydrooConfig(steps=100 * (updates or 20))
        trained = train_lydroo(chosen.scenario, channel, chosen.v, seed, config, progress=progress)
    path = out or ROOT / "checkpoints" / (f"{lab}.npz" if learner == "ppo" else f"{lab}-{learner}.npz")
    trained.save(path)
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(trained.curve.rows()[0]))
        writer.writeheader()
        writer.writerows(trained.curve.rows())
    click.echo(f"{path}: {path.stat().st_size} bytes, gap to coordinate descent {trained.final.best_gap:+.4f}")


if __name__ == "__main__":
    main()

"""``testbed train POLICY FILE``."""

from __future__ import annotations

from pathlib import Path

import click

from controller.learning.actor import LearningCurve
from testbed.cli import options
from testbed.cli import out as out_types
from testbed.lab.choice import LabChoice
from testbed.lab.train import (
    DEFAULT_LABS,
    DEFAULT_UPDATES,
    DEFAULT_UPDATES_OF_ALL,
    Learner,
    TrainingOrder,
    defaults_of,
    require_trainable,
    train,
)


def _progress(update: int, curve: LearningCurve) -> None:
    options.notify(
        f"update {update}: {curve.steps[-1]} slots in {curve.seconds[-1]:.0f} s, reward {curve.reward[-1]:.4g}, behind "
        f"coordinate descent by {curve.likely_gap[-1]:+.2%} (most likely cuts), {curve.best_gap[-1]:+.2%} (best of 8)"
    )


@click.command("train")
@click.argument("policy")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the lab.")
@click.option(
    "--learner",
    type=click.Choice(["imitation", "ppo"]),
    help="imitation: over a range of labs with FILE's model (default); ppo: for FILE's lab alone (ppo-all's only one).",
)
@click.option(
    "--updates",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Default: {DEFAULT_LABS} labs; of PPO {DEFAULT_UPDATES}, {DEFAULT_UPDATES_OF_ALL} for ppo-all.",
)
@click.option("--seed", type=int, default=1, show_default=True, metavar="S", help="Of the training.")
@click.option(
    "--out",
    type=out_types.FILE,
    metavar="CHECKPOINT",
    help="Default: checkpoints/LAB.npz (LAB-ppo-all.npz for ppo-all) beside the lab file.",
)
@click.option("--resume", is_flag=True, help="Go on from the training state beside the checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    policy: str,
    file: Path,
    overrides: tuple[str, ...],
    learner: Learner | None,
    updates: int | None,
    seed: int,
    out: Path | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Train a learning policy for a lab in the simulator."""
    require_trainable(policy)
    # the checkpoint is what this makes: one that the lab names need not exist yet
    lab = LabChoice(file, (*overrides, "policy.checkpoint="), policy)
    topology = lab.read()
    everything = policy == "ppo-all"
    path = out or file.parent / "checkpoints" / f"{file.stem}{'-ppo-all' if everything else ''}.npz"
    learner, updates = defaults_of(policy, learner, updates)
    if path.suffix != ".npz":
        raise click.BadParameter(f"{path} must end in .npz", param_hint="--out")
    order = TrainingOrder(topology, str(file), lab.folder, learner, updates, seed, path, resume)
    summary = train(order, options.notify, _progress)
    if as_json:
        options.print_json(summary)
        return
    click.echo(
        f"{summary.checkpoint}: {summary.checkpoint_bytes / 1e3:.0f} kB, {summary.steps} slots in "
        f"{summary.seconds:.0f} s, behind coordinate descent by {summary.best_gap:+.2%} (best of 8)"
    )
    click.echo(f"learning curve: {summary.curve_png}")

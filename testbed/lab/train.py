"""Training of a learning policy for a lab, in the simulator: a checkpoint, its learning curve, and how to go on."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from matplotlib.figure import Figure

from controller.contract import Scenario
from controller.learning.actor import LearningCurve, Trained
from controller.learning.checkpoint import CheckpointMismatchError
from controller.learning.everything import EverythingConfig, train_everything
from controller.learning.imitation import ImitationConfig, imitate
from controller.learning.ppo import PpoConfig, train_ppo
from controller.model.channel import gain_series
from controller.policies import registry
from controller.seeds import Purpose, integer
from controller.simulator.channels import ChannelStates
from testbed.errors import InputError
from testbed.labfile.channels import channel_of, make_traces
from testbed.labfile.policy import Notify
from testbed.labfile.resolve import resolve
from testbed.labfile.schema import Topology
from testbed.report.figures import colour, styled

Learner = Literal["imitation", "ppo"]

#: Of the channel that is trained on; each UE of each environment starts anywhere in it.
TRAINING_SLOTS = 20_000
#: Of PPO; the shipped checkpoints of ``ppo-all`` have more.
DEFAULT_UPDATES = 150
DEFAULT_UPDATES_OF_ALL = EverythingConfig.updates
#: Of imitation: labs. The shipped checkpoints' number.
DEFAULT_LABS = ImitationConfig.labs
#: Policies with an option ``checkpoint``; the last one's actor chooses speed and shares too.
TRAINABLE = ("lymdo", "lymdo-equal", "ppo-all")
_TRAINING_CHANNEL = 9


@dataclass(frozen=True)
class TrainingOrder:
    """What the user asked for."""

    topology: Topology
    where: str  # the lab file's name, for errors
    folder: Path  # the lab file's folder
    learner: Learner
    updates: int
    seed: int
    checkpoint: Path
    resume: bool


class TrainingSummary(msgspec.Struct, frozen=True):
    """Gaps are of the objective against coordinate descent, in slots (imitation: labs) that were not trained on; 0 is
    as good."""

    lab: str
    policy: str
    learner: str
    seed: int
    updates: int
    steps: int  # slots of one environment
    v: float
    seconds: float  # CPU time of imitation, passed time of PPO
    likely_gap: float  # of the most likely cuts
    best_gap: float  # of the best of 8 candidates, without improvements
    checkpoint: str
    checkpoint_bytes: int
    curve_csv: str
    curve_png: str
    training_state: str | None  # what --resume goes on from


def require_trainable(policy: str) -> None:
    """Raises InputError for a policy that these learners have nothing to teach."""
    if policy not in TRAINABLE:
        raise InputError("this policy does not learn", where="POLICY", value=policy, allowed=", ".join(TRAINABLE))


def defaults_of(policy: str, learner: Learner | None, updates: int | None) -> tuple[Learner, int]:
    """What a policy is taught by, and how long, where that is not said."""
    everything = policy == "ppo-all"
    learner = learner or ("ppo" if everything else "imitation")
    if updates is None:
        updates = DEFAULT_LABS if learner == "imitation" else DEFAULT_UPDATES_OF_ALL if everything else DEFAULT_UPDATES
    return learner, updates


def train(order: TrainingOrder, notify: Notify, progress: Callable[[int, LearningCurve], None]) -> TrainingSummary:
    """Train and write checkpoint, ``.csv`` and ``.png`` of the learning curve, and PPO's training state, side by side.

    Raises InputError for a lab whose UEs cannot share an actor, and a training state
    that is missing or of another training.
    """
    topology = order.topology
    name = topology.policy.name
    scenario = resolve(topology, order.where, order.folder, topology.slot, notify).scenario
    v = float(topology.policy.options.get("V", registry.options(name)["V"]))
    path = order.checkpoint
    state = path.with_suffix(".training.pt") if order.learner == "ppo" else None
    if order.resume and (state is None or not state.is_file()):
        raise InputError(
            "there is no training to go on with",
            where="--resume",
            value=str(state or order.learner),
            allowed="the training state that PPO leaves beside its checkpoint",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        trained = _train(order, scenario, v, progress, state)
        trained.save(path)
    except CheckpointMismatchError as error:
        raise InputError(str(error), where=order.where) from error
    except ValueError as error:
        raise InputError(str(error), where=str(state) if order.resume else order.where) from error
    table, image = path.with_suffix(".csv"), path.with_suffix(".png")
    curve = trained.curve
    if order.resume and table.is_file():
        curve = _joined(read_curve(table), curve)
    if curve.steps:
        write_curve(curve, table)
        draw_curve(curve, image, f"{topology.name}: {order.learner}, seed {order.seed}")
    return TrainingSummary(
        lab=topology.name,
        policy=name,
        learner=order.learner,
        seed=order.seed,
        updates=order.updates,
        steps=trained.steps,
        v=v,
        seconds=curve.seconds[-1] if curve.seconds else 0.0,
        likely_gap=trained.final.likely_gap,
        best_gap=trained.final.best_gap,
        checkpoint=str(path),
        checkpoint_bytes=path.stat().st_size,
        curve_csv=str(table),
        curve_png=str(image),
        training_state=None if state is None else str(state),
    )


def _train(
    order: TrainingOrder,
    scenario: Scenario,
    v: float,
    progress: Callable[[int, LearningCurve], None],
    state: Path | None,
) -> Trained:
    everything = order.topology.policy.name == "ppo-all"
    if order.learner == "imitation":
        if everything:
            raise ValueError("--learner imitation imitates what the convex step found best: ppo-all has no such step")
        given = ImitationConfig(labs=order.updates)
        config = dataclasses.replace(given, evaluate_every=min(given.evaluate_every, order.updates))
        return imitate(scenario, order.seed, config, progress=progress)
    channel = training_channel(order.topology, order.seed)
    resume = state if order.resume else None
    if everything:
        config_of_all = EverythingConfig(updates=order.updates)
        return train_everything(
            scenario, channel, v, order.seed, config_of_all, progress=progress, resume=resume, training_state=state
        )
    ppo = PpoConfig(updates=order.updates)
    return train_ppo(scenario, channel, v, order.seed, ppo, progress=progress, resume=resume, training_state=state)


def training_channel(topology: Topology, seed: int) -> ChannelStates:
    """One state per slot, drawn by the lab's laws from another seed than its traces; a trace file is replayed."""
    ues = topology.expand()
    times = np.arange(TRAINING_SLOTS) * topology.slot
    up, down = np.empty((2, TRAINING_SLOTS, len(ues)))
    own = integer(seed, Purpose.TRAINING, _TRAINING_CHANNEL)
    named = {ue.name for ue in ues if ue.spec.channel.trace is not None}
    files = {name: trace for name, trace in make_traces(topology, topology.slot).items() if name in named}
    for column, ue in enumerate(ues):
        if ue.name in files:
            up[:, column], down[:, column] = files[ue.name].sampled(times + 1e-9, "loop")
            continue
        gains = gain_series([channel_of(ue, topology.slot)], times, own, [ue.index])
        up[:, column], down[:, column] = gains.up[:, 0], gains.down[:, 0]
    return ChannelStates(topology.slot, up, down)


def write_curve(curve: LearningCurve, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(curve.rows()[0]))
        writer.writeheader()
        writer.writerows(curve.rows())


def read_curve(path: Path) -> LearningCurve:
    """Inverse of :func:`write_curve`."""
    curve = LearningCurve()
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            curve.steps.append(int(float(row["steps"])))
            for name in ("seconds", "reward", "likely_gap", "best_gap"):
                getattr(curve, name).append(float(row[name]))
    return curve


def _joined(before: LearningCurve, after: LearningCurve) -> LearningCurve:
    """The curve of a training that was gone on with; seconds are of training, not of the pause."""
    kept = [i for i, steps in enumerate(before.steps) if not after.steps or steps < after.steps[0]]
    spent = before.seconds[kept[-1]] if kept else 0.0
    joined = LearningCurve(seconds=[before.seconds[i] for i in kept] + [spent + second for second in after.seconds])
    for name in ("steps", "reward", "likely_gap", "best_gap"):
        values = getattr(joined, name)
        values += [getattr(before, name)[i] for i in kept] + getattr(after, name)
    return joined


def draw_curve(curve: LearningCurve, path: Path, title: str) -> None:
    """Gap to coordinate descent and reward over the slots seen."""
    steps = np.array(curve.steps) / 1e6
    with styled():
        figure = Figure(figsize=(7, 4), dpi=140, layout="constrained")
        gap_axes, reward_axes = figure.subplots(2, 1, sharex=True)
        for index, (values, label) in enumerate(
            ((curve.likely_gap, "most likely cuts"), (curve.best_gap, "best of 8"))
        ):
            gap_axes.plot(steps, np.array(values) * 100, color=colour(index), marker="o", markersize=3, label=label)
        gap_axes.axhline(0, color="#888888", linewidth=0.8)
        gap_axes.set(ylabel="behind coordinate\ndescent [%]", title=title)
        gap_axes.legend(fontsize=8)
        reward_axes.plot(steps, curve.reward, color=colour(2), marker="o", markersize=3)
        reward_axes.set(ylabel="mean reward", xlabel="training slots [million]")
        figure.savefig(path)

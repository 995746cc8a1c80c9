"""The learner for a range of labs: the actor imitates the best joint cuts that improvements find, lab after lab.

In the manner of LyDROO (Bi et al. 2021, "Lyapunov-Guided Deep Reinforcement Learning for Stable Online Computation
Offloading"): candidates from the actor and others, the convex step as the judge, a memory of the best. What is ours:
each step brings another lab, the judge goes on by single improvements until none is left, and the targets are soft, as
the prices of the resources say what each other cut would have cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from controller.contract import Scenario
from controller.learning.actor import MASKED, Evaluation, LearningCurve, Trained, seed_torch
from controller.learning.checkpoint import IMITATION, candidate_labels
from controller.learning.cut_network import FEATURES, HIDDEN, cut_features, usable_cuts
from controller.learning.lab_range import LAB_RANGE, DrawnLab, draw_lab
from controller.seeds import Purpose, integer
from controller.solvers.allocation.chain import ChainTables, CutArray
from controller.solvers.allocation.cuts import coordinate_descent, project
from controller.solvers.allocation.improvement import improve
from controller.solvers.allocation.shares import allocate


@dataclass(frozen=True)
class ImitationConfig:
    """Each with its meaning; the defaults train the shipped checkpoints."""

    labs: int = 900  # one per step
    slots: int = 32  # of each lab
    memory: int = 48  # labs that are trained on again
    repeats: int = 2  # labs from the memory per step, beside the new one
    trials: int = 400  # improvements per slot, at most
    temperature: float = 0.03  # of the soft targets, of the mean cost per UE
    learning_rate: float = 2e-3
    final_learning_rate: float = 3e-5
    evaluate_every: int = 150
    test_labs: int = 40
    test_slots: int = 4


class CutActor(nn.Module):
    """The network of :mod:`controller.learning.cut_network` in torch, with its names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh())
        self.guess = nn.Linear(HIDDEN, 1, bias=False)
        self.first = nn.Linear(4 * HIDDEN, HIDDEN)
        self.second_guess = nn.Linear(HIDDEN, 1, bias=False)
        self.second = nn.Linear(4 * HIDDEN, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1, bias=False)

    def forward(self, inputs: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
        """(slots, ues, candidates, FEATURES), (slots, ues, candidates) -> logits (slots, ues, candidates)."""
        x = self.encoder(inputs)
        for guess, layer in ((self.guess, self.first), (self.second_guess, self.second)):
            part = torch.softmax(torch.where(usable, guess(x).squeeze(-1), MASKED), dim=-1)
            chosen = torch.einsum("euk,eukh->euh", part, x)
            common = torch.cat([chosen.mean(dim=1), chosen.amax(dim=1)], dim=1)
            own, mine, everyones = torch.split(layer.weight, [HIDDEN, HIDDEN, 2 * HIDDEN], dim=1)
            of_ue = chosen @ mine.T + (common @ everyones.T + layer.bias).unsqueeze(1)
            x = torch.tanh(x @ own.T + of_ue.unsqueeze(2))
        return torch.where(usable, self.score(x).squeeze(-1), MASKED)


@dataclass(frozen=True)
class Lesson:
    """One lab's slots."""

    inputs: torch.Tensor
    usable: torch.Tensor
    targets: torch.Tensor  # (slots, ues, candidates), sums to 1 over the candidates


def network_inputs(lab: DrawnLab) -> tuple[torch.Tensor, torch.Tensor]:
    """(inputs, usable) of a lab's slots."""
    inputs = cut_features(lab.tables, lab.state, lab.limits)
    return torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(usable_cuts(lab.tables, inputs))


def lesson(lab: DrawnLab, actor: CutActor, config: ImitationConfig) -> Lesson | None:
    """What the best of the actor's choice, all-local and their improvements teaches; None if no slot is feasible."""
    inputs, usable = network_inputs(lab)
    with torch.no_grad():
        likely = actor(inputs, usable).argmax(dim=-1).numpy()
    local = np.broadcast_to(lab.tables.local, likely.shape)
    found = [
        improve(lab.tables, project(lab.tables, start, lab.state), lab.state, lab.limits, config.trials, thorough=True)
        for start in (likely, local)
    ]
    first = found[0].cost <= found[1].cost
    cost = np.minimum(found[0].cost, found[1].cost)
    kept = np.isfinite(cost)
    if not kept.any():
        return None
    promise = np.where(first[:, np.newaxis, np.newaxis], found[0].promise, found[1].promise)[kept]
    cuts = np.where(first[:, np.newaxis], found[0].cuts, found[1].cuts)[kept]
    # what was tried in vain is no target, however little it lost
    regret = np.where(np.isfinite(promise), np.maximum(promise, 0.0), np.inf)
    np.put_along_axis(regret, cuts[..., np.newaxis], 0.0, axis=-1)
    scale = config.temperature * cost[kept, np.newaxis, np.newaxis] / cuts.shape[1]
    weight = np.exp(-regret / scale) * usable.numpy()[kept]
    np.put_along_axis(weight, cuts[..., np.newaxis], 1.0, axis=-1)
    targets = torch.from_numpy((weight / weight.sum(axis=-1, keepdims=True)).astype(np.float32))
    rows = torch.from_numpy(kept)
    return Lesson(inputs[rows], usable[rows] | (targets > 0), targets)


@dataclass(frozen=True)
class Exam:
    """Labs that are not trained on, with what coordinate descent from all-local reaches there."""

    labs: list[DrawnLab]
    descent: list[NDArray[np.float64]]

    @classmethod
    def of(cls, base: ChainTables, config: ImitationConfig, seed: int) -> Exam:
        rng = np.random.default_rng(seed)
        labs = [draw_lab(base, rng, config.test_slots) for _ in range(config.test_labs)]
        start: list[CutArray] = [np.broadcast_to(lab.tables.local, lab.state.link_quality.shape).copy() for lab in labs]
        costs = [
            coordinate_descent(lab.tables, x, lab.state, lab.limits)[1] for lab, x in zip(labs, start, strict=True)
        ]
        return cls(labs, costs)

    def gaps(self, actor: CutActor, candidates: int, generator: torch.Generator) -> Evaluation:
        """Of the most likely cuts and of the best of ``candidates``, without improvements: the mean over the slots of
        cost over descent's, less 1, where both are feasible; a slot counts for 1 at most: near saturation costs
        explode."""
        gaps: dict[str, list[float]] = {"likely": [], "best": []}
        for lab, descent in zip(self.labs, self.descent, strict=True):
            with torch.no_grad():
                logits = actor(*network_inputs(lab))
            chances = torch.softmax(logits, dim=-1).flatten(0, 1)
            drawn = torch.multinomial(chances, candidates - 1, replacement=True, generator=generator)
            tried = [logits.argmax(dim=-1), *drawn.reshape(*logits.shape[:2], -1).unbind(-1)]
            costs = []
            for choice in tried:
                cuts = project(lab.tables, choice.numpy(), lab.state)
                costs.append(allocate(lab.tables.demands(cuts, lab.state), lab.tables.ues, lab.limits).cost)
            for name, cost in (("likely", costs[0]), ("best", np.min(costs, axis=0))):
                both = np.isfinite(cost) & np.isfinite(descent)
                gaps[name] += np.minimum(cost[both] / descent[both] - 1.0, 1.0).tolist()
        return Evaluation(float(np.mean(gaps["likely"])), float(np.mean(gaps["best"])), np.zeros(0))


def imitate(
    scenario: Scenario,
    seed: int,
    config: ImitationConfig | None = None,
    *,
    progress: Callable[[int, LearningCurve], None] | None = None,
) -> Trained:
    """Train an actor over :data:`controller.learning.lab_range.LAB_RANGE`; the model, codecs, slot are the scenario's.

    Reproducible by seed on one machine. Raises CheckpointMismatchError if the UEs' candidate cuts differ.
    """
    config = config or ImitationConfig()
    sampling = seed_torch(seed)
    rng = np.random.default_rng(integer(seed, Purpose.TRAINING, 0))
    base = ChainTables.of(scenario)
    candidate_labels(base)
    exam = Exam.of(base, config, integer(seed, Purpose.TRAINING, 1))
    actor = CutActor()
    optimiser = torch.optim.Adam(actor.parameters(), lr=config.learning_rate)
    memory: list[Lesson] = []
    curve, began = LearningCurve(), time.process_time()
    losses: list[float] = []
    for step in range(config.labs):
        remaining = 1.0 - step / config.labs
        for group in optimiser.param_groups:
            group["lr"] = config.final_learning_rate + remaining * (config.learning_rate - config.final_learning_rate)
        new = lesson(draw_lab(base, rng, config.slots), actor, config)
        if new is not None:
            memory = [*memory[-(config.memory - 1) :], new]
        again = [memory[i] for i in rng.integers(0, len(memory), config.repeats)] if memory else []
        for one in ([] if new is None else [new]) + again:
            logs = torch.log_softmax(actor(one.inputs, one.usable), dim=-1)
            loss = -(one.targets * torch.where(one.usable, logs, 0.0)).sum(dim=-1).mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(actor.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
        if (step + 1) % config.evaluate_every == 0 or step + 1 == config.labs:
            found = exam.gaps(actor, 8, sampling)
            curve.steps.append((step + 1) * config.slots)
            curve.seconds.append(time.process_time() - began)
            curve.reward.append(-float(np.mean(losses)))
            losses.clear()
            curve.likely_gap.append(found.likely_gap)
            curve.best_gap.append(found.best_gap)
            if progress is not None:
                progress(step + 1, curve)
    return Trained(
        learner=IMITATION,
        actor=actor,
        scenario=scenario,
        v=0.0,
        seed=seed,
        steps=config.labs * config.slots,
        curve=curve,
        final=found,
        ranges=LAB_RANGE,
    )

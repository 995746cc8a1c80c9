"""What the learners share: the network in torch, candidates from it, its evaluation against coordinate descent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from controller.contract import Scenario
from controller.learning.batch import BatchStep, SlotBatch
from controller.learning.checkpoint import FORMAT, Header, candidate_labels, save_checkpoint, scenario_hash
from controller.learning.lab_range import Ranges, ranges_of
from controller.learning.network import FEATURES, HIDDEN
from controller.seeds import Purpose, integer
from controller.simulator.channels import ChannelStates
from controller.solvers.allocation.chain import ChainTables, CutArray
from controller.solvers.allocation.cuts import coordinate_descent
from controller.solvers.allocation.problem import Allocation, FloatArray

MASKED = -1e9


class Actor(nn.Module):
    """(batch, ues, FEATURES) -> logits (batch, ues, outputs), see :func:`controller.learning.network.shapes`."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh())
        self.head = nn.Sequential(nn.Linear(3 * HIDDEN, 2 * HIDDEN), nn.Tanh(), nn.Linear(2 * HIDDEN, outputs))
        for name, value in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(value)
            else:
                nn.init.orthogonal_(value, 0.01 if name == "head.2.weight" else 2**0.5)

    def forward(self, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        own = self.encoder(inputs)
        pooled = torch.cat([own.mean(dim=1), own.amax(dim=1)], dim=1)
        together = torch.cat([own, pooled.unsqueeze(1).expand(-1, own.shape[1], -1)], dim=2)
        return torch.where(mask, self.head(together), MASKED)


class Critic(nn.Module):
    """(batch, ues, FEATURES) -> value (batch,): a mean over UEs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh())
        self.head = nn.Sequential(nn.Linear(2 * HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        own = self.encoder(inputs)
        value: torch.Tensor = self.head(torch.cat([own.mean(dim=1), own.amax(dim=1)], dim=1))
        return value.squeeze(1)


def usable_mask(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with every cut allowed where a UE has none (projection then finds the least bad)."""
    return mask | ~mask.any(axis=-1, keepdims=True)


def tensors(batch: SlotBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """(features, mask) of the batch's present slot."""
    return torch.from_numpy(batch.features().astype(np.float32)), torch.from_numpy(usable_mask(batch.mask()))


def best_of(
    actor: Actor, batch: SlotBatch, candidates: int, generator: torch.Generator, greedy: bool = True
) -> tuple[CutArray, BatchStep]:
    """The best of ``candidates`` joint cuts per environment by the convex step: the most likely and samples.

    Takes no step. Returns the cuts that were proposed (before projection) and what they bring.
    """
    inputs, mask = tensors(batch)
    with torch.no_grad():
        logits = actor(inputs, mask)
    shape = logits.shape
    flat = torch.softmax(logits, dim=-1).reshape(-1, shape[-1])
    best_cuts, best = None, None
    for number in range(candidates):
        if number == 0 and greedy:
            cuts = logits.argmax(dim=-1).numpy()
        else:
            cuts = torch.multinomial(flat, 1, generator=generator).reshape(shape[:2]).numpy()
        step = batch.score(cuts)
        if best is None or best_cuts is None:
            best_cuts, best = cuts, step
            continue
        better = step.reward > best.reward
        best_cuts = np.where(better[:, np.newaxis], cuts, best_cuts)
        best = BatchStep(
            np.where(better, step.reward, best.reward),
            Allocation._make(
                _choose(better, new, old) for new, old in zip(step.allocation, best.allocation, strict=True)
            ),
            np.where(better[:, np.newaxis], step.cuts, best.cuts),
        )
    assert best_cuts is not None
    assert best is not None
    return best_cuts, best


def _choose(better: NDArray[np.bool_], new: Any, old: Any) -> Any:
    return np.where(better[:, np.newaxis] if new.ndim == 2 else better, new, old)


@dataclass(frozen=True)
class Evaluation:
    """Drift-plus-penalty over coordinate descent's in the same states, minus 1; negative is better."""

    likely_gap: float
    best_gap: float
    queue_over_budget: FloatArray  # (ues,) mean over environments and the second half of the slots


#: One slot's (reward of the most likely choice, reward of the choice that is taken, its energy by UE).
Chosen = tuple[FloatArray, FloatArray, FloatArray]


def evaluate(actor: Actor, batch: SlotBatch, slots: int, candidates: int, seed: int) -> Evaluation:
    """Walk the batch with the best of ``candidates``; compare each slot's cost with coordinate descent's."""
    generator = torch.Generator().manual_seed(seed)

    def choose() -> Chosen:
        likely = best_of(actor, batch, 1, generator)[1]
        best = best_of(actor, batch, candidates, generator)[1]
        return likely.reward, best.reward, best.allocation.energy_joules

    return against_descent(batch, slots, choose)


def against_descent(batch: SlotBatch, slots: int, choose: Callable[[], Chosen]) -> Evaluation:
    """Walk the batch with what ``choose`` takes in its present slot; compare with coordinate descent's cost there."""
    likely = best = descent = 0.0
    queues = np.zeros(batch.queue_joules.shape[1])
    counted = 0
    previous: CutArray = np.broadcast_to(batch.tables.local, batch.queue_joules.shape).copy()
    scale = batch.queue_joules.shape[1] * batch.limits.v
    for slot in range(slots):
        likely_reward, best_reward, energy = choose()
        previous, cost = coordinate_descent(batch.tables, previous, batch.state(), batch.limits, batch.delay_model)
        feasible = np.isfinite(cost)
        likely -= float(likely_reward[feasible].sum())
        best -= float(best_reward[feasible].sum())
        descent += float(cost[feasible].sum()) / scale
        batch.advance(energy)
        if slot >= slots // 2:
            queues += batch.queue_joules.mean(axis=0)
            counted += 1
    budget = np.where(np.isfinite(batch.tables.budget_joules), batch.tables.budget_joules, 1.0)
    return Evaluation(likely / descent - 1.0, best / descent - 1.0, queues / counted / budget)


@dataclass
class LearningCurve:
    """One row per evaluation."""

    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    likely_gap: list[float] = field(default_factory=list)
    best_gap: list[float] = field(default_factory=list)

    def rows(self) -> list[dict[str, float]]:
        """For a CSV file or a figure."""
        names = ("steps", "seconds", "reward", "likely_gap", "best_gap")
        return [{name: float(getattr(self, name)[i]) for name in names} for i in range(len(self.steps))]


@dataclass(frozen=True)
class Trained:
    """What a learner hands back; ``save`` writes the checkpoint that a policy loads."""

    learner: str
    actor: nn.Module
    scenario: Scenario
    v: float
    seed: int
    steps: int
    curve: LearningCurve
    final: Evaluation
    levels: int = 0  # of speed and of each share; 0: the actor chooses cuts
    ranges: Ranges | None = None  # of the labs; None: the scenario alone

    def save(self, path: Path) -> Header:
        tables = ChainTables.of(self.scenario)
        header = Header(
            format=FORMAT,
            learner=self.learner,
            models=tuple(sorted({ue.profile.model for ue in self.scenario.ues})),
            cuts=candidate_labels(tables),
            ues=len(self.scenario.ues),
            v=self.v,
            slot_seconds=self.scenario.slot_seconds,
            scenario=self.scenario.name,
            scenario_hash=scenario_hash(self.scenario),
            seed=self.seed,
            steps=self.steps,
            ranges=self.ranges or ranges_of(self.scenario),
            queue_over_budget=tuple(float(x) for x in self.final.queue_over_budget),
            levels=self.levels,
        )
        arrays = {name: value.detach().numpy() for name, value in self.actor.state_dict().items()}
        save_checkpoint(path, header, arrays)
        return header


def training_batches(
    scenario: Scenario, channel: ChannelStates, environments: int, v: float, seed: int, queue_scale: float
) -> tuple[SlotBatch, SlotBatch]:
    """(for training, for evaluation): different seeds; the evaluation starts at queues as training does."""
    slots = max(1, round(channel.up.shape[0] * channel.step_seconds / scenario.slot_seconds))
    rows = channel.at_slots(slots, scenario.slot_seconds)
    first, second = (integer(seed, Purpose.TRAINING, index) for index in range(2))
    return (
        SlotBatch(scenario, rows, environments, v, first, queue_scale=queue_scale),
        SlotBatch(scenario, rows, 64, v, second, queue_scale=2.0),
    )


def seed_torch(seed: int) -> torch.Generator:
    """One thread (small networks; the same sums in the same order) and a generator for sampling."""
    torch.set_num_threads(1)
    torch.manual_seed(integer(seed, Purpose.TRAINING, 2))
    return torch.Generator().manual_seed(integer(seed, Purpose.TRAINING, 3))

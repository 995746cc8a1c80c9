"""The LyDROO-style learner: the actor imitates the best of its own candidates, scored by the convex step.

After Bi et al. 2021 ("Lyapunov-Guided Deep Reinforcement Learning for Stable Online Computation Offloading"), carried
over from binary offloading to cuts with softmax heads. No value function: each slot's best candidate goes into a replay
memory, from which the actor is trained with cross-entropy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from controller.contract import Scenario
from controller.learning.actor import (
    Actor,
    LearningCurve,
    Trained,
    best_of,
    evaluate,
    seed_torch,
    tensors,
    training_batches,
)
from controller.simulation.channels import ChannelStates


@dataclass(frozen=True)
class LydrooConfig:
    steps: int = 3000  # slots of all environments
    environments: int = 128
    candidates: int = 12  # per slot and environment: the most likely cut and samples
    explore: float = 0.1  # part of the environments whose candidate has one UE's cut drawn evenly
    memory_slots: int = 64  # of all environments
    batch_size: int = 512
    batches_per_slot: int = 4
    learning_rate: float = 1e-3
    final_learning_rate: float = 3e-5
    queue_scale: float = 5.0
    episode_slots: int = 200
    evaluate_every: int = 250
    final_slots: int = 200  # as of PpoConfig


def train_lydroo(
    scenario: Scenario,
    channel: ChannelStates,
    v: float,
    seed: int,
    config: LydrooConfig | None = None,
    *,
    progress: Callable[[int, LearningCurve], None] | None = None,
) -> Trained:
    """As :func:`controller.learning.ppo.train_ppo`."""
    config = config or LydrooConfig()
    sampling = seed_torch(seed)
    rng = np.random.default_rng(seed)
    batch, test = training_batches(scenario, channel, config.environments, v, seed, config.queue_scale)
    cuts_count = batch.tables.head_seconds.shape[1]
    actor = Actor(cuts_count)
    optimiser = torch.optim.Adam(actor.parameters(), lr=config.learning_rate)
    environments, ues = config.environments, len(scenario.ues)
    memory = config.memory_slots * environments
    inputs = torch.zeros((memory, ues, batch.features().shape[2]))
    masks = torch.zeros((memory, ues, cuts_count), dtype=torch.bool)
    targets = torch.zeros((memory, ues), dtype=torch.int64)
    curve, began = LearningCurve(), time.monotonic()
    for step in range(config.steps):
        remaining = 1.0 - step / config.steps
        rate = config.final_learning_rate + remaining * (config.learning_rate - config.final_learning_rate)
        for group in optimiser.param_groups:
            group["lr"] = rate
        seen, mask = tensors(batch)
        _, best = best_of(actor, batch, config.candidates, sampling)
        # one UE's cut at random: finds what the actor would never propose
        tried = best.cuts.copy()
        which = rng.random(environments) < config.explore
        column = rng.integers(0, ues, environments)
        tried[which, column[which]] = rng.integers(0, cuts_count, int(which.sum()))
        other = batch.score(tried)
        better = other.reward > best.reward
        cuts = np.where(better[:, np.newaxis], other.cuts, best.cuts)
        rows = slice((step * environments) % memory, (step * environments) % memory + environments)
        inputs[rows], masks[rows], targets[rows] = seen, mask, torch.from_numpy(cuts)
        batch.advance(np.where(better[:, np.newaxis], other.allocation.energy_joules, best.allocation.energy_joules))
        batch.reset_queues(rng.random(environments) < 1.0 / config.episode_slots)
        filled = min((step + 1) * environments, memory)
        for _ in range(config.batches_per_slot):
            picked = torch.randint(0, filled, (config.batch_size,), generator=sampling)
            logits = actor(inputs[picked], masks[picked])
            loss = nn.functional.cross_entropy(logits.reshape(-1, cuts_count), targets[picked].reshape(-1))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        if (step + 1) % config.evaluate_every == 0 or step + 1 == config.steps:
            found = evaluate(actor, test, 10, 8, seed)
            curve.steps.append((step + 1) * environments)
            curve.seconds.append(time.monotonic() - began)
            curve.reward.append(float(np.where(better, other.reward, best.reward).mean()))
            curve.likely_gap.append(found.likely_gap)
            curve.best_gap.append(found.best_gap)
            if progress is not None:
                progress(step + 1, curve)
    test.queue_scale = 0.0
    test.reset()
    return Trained(
        learner="lydroo",
        actor=actor,
        scenario=scenario,
        v=v,
        seed=seed,
        steps=config.steps * environments,
        curve=curve,
        final=evaluate(actor, test, config.final_slots, 8, seed),
        fewest_ues=ues,
        most_ues=ues,
    )

"""PPO for everything: cut, speed and shares by the actor: the baseline that shows what the convex step is worth.

The learner, the network and the features are those of the cuts alone; the actor has three heads more. A stage that is
overloaded costs ``OVERLOAD_DELAY_SECONDS``, as in the other game.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from controller.contract import Scenario
from controller.learning.actor import (
    Actor,
    Chosen,
    Evaluation,
    LearningCurve,
    Trained,
    against_descent,
    tensors,
    training_batches,
)
from controller.learning.batch import SlotBatch
from controller.learning.levels import LEVELS, decided
from controller.learning.ppo import PpoConfig, train_game
from controller.simulator.channels import ChannelStates
from controller.solvers.allocation.cuts import project
from controller.solvers.allocation.problem import OVERLOAD_DELAY_SECONDS, FloatArray


@dataclass(frozen=True)
class EverythingConfig(PpoConfig):
    """As :class:`PpoConfig`. Four choices per UE are to be learnt, and nothing corrects them: twice the updates."""

    updates: int = 300


class EverythingGame:
    """The actor chooses cut, speed and shares; the environment only adds up what they bring."""

    def __init__(self, batch: SlotBatch, test: SlotBatch) -> None:
        self.batch, self.test = batch, test
        self.heads: tuple[int, ...] = (batch.tables.head_seconds.shape[1], LEVELS, LEVELS, LEVELS)

    def play(self, actions: NDArray[np.int64]) -> FloatArray:
        reward, energy = self._score(self.batch, actions)
        self.batch.advance(energy)
        return reward

    def evaluate(self, actor: Actor, slots: int, seed: int) -> Evaluation:
        def choose() -> Chosen:
            inputs, mask = tensors(self.test)
            cuts = self.heads[0]
            with torch.no_grad():
                free = torch.ones((*mask.shape[:2], sum(self.heads) - cuts), dtype=torch.bool)
                logits = actor(inputs, torch.cat([mask, free], dim=-1))
            likely = torch.stack(
                [part.argmax(dim=-1) for part in torch.split(logits, list(self.heads), dim=-1)], dim=-1
            )
            reward, energy = self._score(self.test, likely.numpy())
            return reward, reward, energy

        return against_descent(self.test, slots, choose)

    @staticmethod
    def _score(batch: SlotBatch, actions: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        """(rewards (environments,), energy (environments, ues)) in the batch's present slot."""
        state = batch.state()
        cuts = project(batch.tables, actions[..., 0], state)
        found = decided(batch.tables, batch.limits, cuts, actions[..., 1:], state, batch.delay_model)
        delay = np.minimum(found.delay_seconds, OVERLOAD_DELAY_SECONDS)
        price = batch.limits.v * batch.tables.weights(state.arrival_rate)
        cost = np.sum(price * delay + state.queue_joules * found.energy_joules, axis=1)
        return -cost / (delay.shape[1] * batch.limits.v), found.energy_joules


def train_everything(
    scenario: Scenario,
    channel: ChannelStates,
    v: float,
    seed: int,
    config: EverythingConfig | None = None,
    *,
    progress: Callable[[int, LearningCurve], None] | None = None,
    resume: Path | None = None,
    training_state: Path | None = None,
) -> Trained:
    """As :func:`controller.learning.ppo.train_ppo`; the policy ``ppo-all`` takes the checkpoint."""
    config = config or EverythingConfig()
    game = EverythingGame(*training_batches(scenario, channel, config.environments, v, seed, config.queue_scale))
    return train_game(
        game, "ppo-all", scenario, v, seed, config,
        levels=LEVELS, progress=progress, resume=resume, training_state=training_state,
    )  # fmt: skip

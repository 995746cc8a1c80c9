"""PPO in one file (the shape of CleanRL's): categorical heads per UE, masks. After Schulman et al. 2017;
hyper-parameters by measurement (docs/lymdo.md).

What is played is a :class:`Game`: here the cuts, with the convex step in the environment;
:mod:`controller.learning.everything` has the one without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from controller.contract import Scenario
from controller.learning.actor import (
    Actor,
    Critic,
    Evaluation,
    LearningCurve,
    Trained,
    evaluate,
    seed_torch,
    tensors,
    training_batches,
)
from controller.learning.batch import SlotBatch
from controller.simulator.channels import ChannelStates
from controller.solvers.allocation.problem import FloatArray


@dataclass(frozen=True)
class PpoConfig:
    """Each with its meaning; the defaults train the shipped labs."""

    updates: int = 300  # of `environments * rollout_slots` environment slots each
    environments: int = 128
    rollout_slots: int = 32
    epochs: int = 4
    batch_size: int = 512
    learning_rate: float = 1e-3
    final_learning_rate: float = 3e-5  # linear decay
    clip: float = 0.2  # of the probability ratio
    entropy: float = 0.01  # bonus, decays to a tenth
    value_weight: float = 0.5
    gradient_norm: float = 0.5
    gamma: float = 0.0  # 0 is the literal per-slot problem, and the best that was measured
    gae_lambda: float = 0.95  # of no effect at gamma 0
    queue_scale: float = 5.0  # mean virtual queue at reset, in budgets
    episode_slots: int = 200  # mean length between resets of the virtual queues
    evaluate_every: int = 25  # updates
    candidates: int = 8  # of the decision that is evaluated
    final_slots: int = 200  # of the last evaluation, from empty queues; its second half says where queues settle


class Game(Protocol):
    """What the actor's choices mean. Each UE has ``heads`` categorical choices of these sizes; the first is the cut."""

    heads: tuple[int, ...]
    batch: SlotBatch  # of training
    test: SlotBatch  # of evaluation

    def play(self, actions: NDArray[np.int64]) -> FloatArray:
        """Take a slot of the batch with (environments, ues, heads); rewards (environments,)."""

    def evaluate(self, actor: Actor, slots: int, seed: int) -> Evaluation:
        """The actor on the test batch against coordinate descent."""


class CutGame:
    """The actor chooses cuts; the environment's convex step the rest."""

    def __init__(self, batch: SlotBatch, test: SlotBatch, candidates: int) -> None:
        self.batch, self.test, self._candidates = batch, test, candidates
        self.heads: tuple[int, ...] = (batch.tables.head_seconds.shape[1],)

    def play(self, actions: NDArray[np.int64]) -> FloatArray:
        return self.batch.step(actions[..., 0]).reward

    def evaluate(self, actor: Actor, slots: int, seed: int) -> Evaluation:
        return evaluate(actor, self.test, slots, self._candidates, seed)


def train_ppo(
    scenario: Scenario,
    channel: ChannelStates,
    v: float,
    seed: int,
    config: PpoConfig | None = None,
    *,
    progress: Callable[[int, LearningCurve], None] | None = None,
    resume: Path | None = None,
    training_state: Path | None = None,
) -> Trained:
    """Train an actor for cuts on slots of ``channel`` (long: tens of thousands; each UE starts anywhere in it).

    Reproducible by seed on one machine. ``training_state``: file that receives networks, optimiser and counters after
    each evaluation; ``resume``: such a file to go on from (the data that follow are then drawn anew).
    Raises ValueError for a resume file of another configuration.
    """
    config = config or PpoConfig()
    batch, test = training_batches(scenario, channel, config.environments, v, seed, config.queue_scale)
    game = CutGame(batch, test, config.candidates)
    return train_game(
        game, "ppo", scenario, v, seed, config, progress=progress, resume=resume, training_state=training_state
    )


def train_game(
    game: Game,
    learner: str,
    scenario: Scenario,
    v: float,
    seed: int,
    config: PpoConfig,
    *,
    levels: int = 0,
    progress: Callable[[int, LearningCurve], None] | None,
    resume: Path | None,
    training_state: Path | None,
) -> Trained:
    """What every PPO learner hands back. ``levels``: of speed and of each share; 0: the actor chooses cuts."""
    actor, curve, final = learn(game, seed, config, progress=progress, resume=resume, training_state=training_state)
    return Trained(
        learner=learner,
        actor=actor,
        scenario=scenario,
        v=v,
        seed=seed,
        steps=config.updates * config.rollout_slots * config.environments,
        curve=curve,
        final=final,
        levels=levels,
    )


def learn(
    game: Game,
    seed: int,
    config: PpoConfig,
    *,
    progress: Callable[[int, LearningCurve], None] | None = None,
    resume: Path | None = None,
    training_state: Path | None = None,
) -> tuple[Actor, LearningCurve, Evaluation]:
    """Play until the updates are done: the actor, its curve, and its evaluation from empty queues."""
    sampling = seed_torch(seed)
    batch, heads = game.batch, game.heads
    outputs = sum(heads)
    actor, critic = Actor(outputs), Critic()
    parameters = [*actor.parameters(), *critic.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=config.learning_rate, eps=1e-5)
    curve = LearningCurve()
    began, first_update = time.monotonic(), 0
    if resume is not None:
        first_update = _load_state(resume, actor, critic, optimiser, config)
    slots, environments = config.rollout_slots, config.environments
    _, ues, width = batch.features().shape
    inputs = torch.zeros((slots, environments, ues, width))
    masks = torch.ones((slots, environments, ues, outputs), dtype=torch.bool)  # only cuts can be impossible
    actions = torch.zeros((slots, environments, ues, len(heads)), dtype=torch.int64)
    log_probs, rewards, values = (torch.zeros((slots, environments)) for _ in range(3))
    ended = torch.zeros((slots, environments), dtype=torch.bool)
    for update in range(first_update, config.updates):
        remaining = 1.0 - update / config.updates
        rate = config.final_learning_rate + remaining * (config.learning_rate - config.final_learning_rate)
        for group in optimiser.param_groups:
            group["lr"] = rate
        # ---- rollout
        with torch.no_grad():
            for slot in range(slots):
                inputs[slot], masks[slot, ..., : heads[0]] = tensors(batch)
                logits = actor(inputs[slot], masks[slot])
                values[slot] = critic(inputs[slot])
                for head, part in enumerate(torch.split(logits, list(heads), dim=-1)):
                    probabilities = torch.softmax(part, dim=-1).reshape(-1, heads[head])
                    drawn = torch.multinomial(probabilities, 1, generator=sampling)
                    actions[slot, ..., head] = drawn.reshape(environments, ues)
                log_probs[slot] = _log_prob(logits, actions[slot], heads)
                rewards[slot] = torch.from_numpy(game.play(actions[slot].numpy()))
                ended[slot] = torch.rand(environments, generator=sampling) < 1.0 / config.episode_slots
                batch.reset_queues(ended[slot].numpy())
            advantages = advantages_of(rewards, values, critic(tensors(batch)[0]), ended, config)
        returns = (advantages + values).reshape(-1)
        # ---- update
        flat_inputs, flat_masks = inputs.flatten(0, 1), masks.flatten(0, 1)
        flat_actions, flat_log_probs, flat_advantages = (
            actions.flatten(0, 1),
            log_probs.reshape(-1),
            advantages.reshape(-1),
        )
        for _ in range(config.epochs):
            order = torch.randperm(slots * environments, generator=sampling)
            for start in range(0, order.numel(), config.batch_size):
                rows = order[start : start + config.batch_size]
                logits = actor(flat_inputs[rows], flat_masks[rows])
                ratio = torch.exp(_log_prob(logits, flat_actions[rows], heads) - flat_log_probs[rows])
                advantage = flat_advantages[rows]
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                clipped = torch.clamp(ratio, 1.0 - config.clip, 1.0 + config.clip)
                policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
                value_loss = nn.functional.smooth_l1_loss(critic(flat_inputs[rows]), returns[rows])
                entropy = _entropy(logits, heads)
                bonus = config.entropy * (0.1 + 0.9 * remaining)
                loss = policy_loss + config.value_weight * value_loss - bonus * entropy
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, config.gradient_norm)
                optimiser.step()
        # ---- learning curve
        if (update + 1) % config.evaluate_every == 0 or update + 1 == config.updates:
            found = game.evaluate(actor, 10, seed)
            curve.steps.append((update + 1) * slots * environments)
            curve.seconds.append(time.monotonic() - began)
            curve.reward.append(float(rewards.mean()))
            curve.likely_gap.append(found.likely_gap)
            curve.best_gap.append(found.best_gap)
            if progress is not None:
                progress(update + 1, curve)
            if training_state is not None:
                _save_state(training_state, actor, critic, optimiser, config, update + 1)
    game.test.queue_scale = 0.0
    game.test.reset()
    return actor, curve, game.evaluate(actor, config.final_slots, seed)


def _log_prob(logits: torch.Tensor, actions: torch.Tensor, heads: tuple[int, ...]) -> torch.Tensor:
    """Of joint choices (batch, ues, heads), (batch,)."""
    logs = [torch.log_softmax(part, dim=-1) for part in torch.split(logits, list(heads), dim=-1)]
    chosen = [part.gather(-1, actions[..., head].unsqueeze(-1)) for head, part in enumerate(logs)]
    return torch.cat(chosen, dim=-1).sum(dim=(-2, -1))


def _entropy(logits: torch.Tensor, heads: tuple[int, ...]) -> torch.Tensor:
    """Mean over the batch and the UEs of the sum over the heads."""
    logs = torch.cat([torch.log_softmax(part, dim=-1) for part in torch.split(logits, list(heads), dim=-1)], dim=-1)
    return -(logs.exp() * logs).sum(dim=-1).mean()


def advantages_of(
    rewards: torch.Tensor, values: torch.Tensor, last_value: torch.Tensor, ended: torch.Tensor, config: PpoConfig
) -> torch.Tensor:
    """Generalised advantage estimation, (slots, environments). Schulman et al., ICLR 2016, equation 16.

    ``values`` are of the states in which the rewards were earned, ``last_value`` (environments,) of the one behind the
    last. Where ``ended``, the episode's last slot, nothing behind it counts.
    """
    result = torch.zeros_like(rewards)
    running = torch.zeros_like(last_value)
    following = last_value
    for slot in range(rewards.shape[0] - 1, -1, -1):
        goes_on = (~ended[slot]).to(rewards.dtype)
        delta = rewards[slot] + config.gamma * goes_on * following - values[slot]
        running = delta + config.gamma * config.gae_lambda * goes_on * running
        result[slot] = running
        following = values[slot]
    return result


def _save_state(
    path: Path, actor: Actor, critic: Critic, optimiser: torch.optim.Optimizer, config: PpoConfig, update: int
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"actor": actor.state_dict(), "critic": critic.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save({**state, "config": asdict(config), "update": update}, path)


def _load_state(path: Path, actor: Actor, critic: Critic, optimiser: torch.optim.Optimizer, config: PpoConfig) -> int:
    state = torch.load(path, weights_only=True)
    # more updates may be asked for than were planned; everything else must agree
    if {**state["config"], "updates": 0} != {**asdict(config), "updates": 0}:
        raise ValueError(f"{path}: training was under {state['config']}, not {asdict(config)}")
    actor.load_state_dict(state["actor"])
    critic.load_state_dict(state["critic"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["update"])

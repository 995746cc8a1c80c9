"""Generalised advantage estimation against its definition, a sum over all later slots of the episode."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from controller.learning.ppo import PpoConfig, advantages_of  # noqa: E402


def by_definition(rewards: np.ndarray, values: np.ndarray, ended: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    """sum_k (gamma lam)^k delta_(t+k), until the episode's last slot. ``values`` has one row more than ``rewards``."""
    slots, environments = rewards.shape
    found = np.zeros_like(rewards)
    for env in range(environments):
        for slot in range(slots):
            weight = 1.0
            for later in range(slot, slots):
                next_value = 0.0 if ended[later, env] else values[later + 1, env]
                found[slot, env] += weight * (rewards[later, env] + gamma * next_value - values[later, env])
                if ended[later, env]:
                    break
                weight *= gamma * lam
    return found


@pytest.mark.parametrize(("gamma", "lam"), [(0.0, 0.95), (0.9, 0.95), (0.99, 0.0), (0.97, 1.0)])
def test_advantages_are_the_discounted_sum_of_an_episodes_surprises(gamma: float, lam: float) -> None:
    rng = np.random.default_rng(5)
    rewards, values = rng.normal(size=(12, 5)), rng.normal(size=(13, 5))
    ended = rng.random((12, 5)) < 0.2
    assert ended.any(axis=0).sum() >= 2
    found = advantages_of(
        torch.tensor(rewards), torch.tensor(values[:-1]), torch.tensor(values[-1]), torch.tensor(ended),
        PpoConfig(gamma=gamma, gae_lambda=lam),
    )  # fmt: skip
    np.testing.assert_allclose(found.numpy(), by_definition(rewards, values, ended, gamma, lam), atol=1e-12)


def test_with_lambda_one_an_advantage_is_the_return_less_the_value() -> None:
    rewards = np.array([[1.0], [2.0], [3.0]])
    values = np.array([[0.5], [0.25], [0.125]])
    nothing = torch.zeros((3, 1), dtype=torch.bool)
    config = PpoConfig(gamma=0.5, gae_lambda=1.0)
    found = advantages_of(torch.tensor(rewards), torch.tensor(values), torch.tensor([8.0]), nothing, config)
    returns = np.array([[1 + 0.5 * (2 + 0.5 * (3 + 0.5 * 8))], [2 + 0.5 * (3 + 0.5 * 8)], [3 + 0.5 * 8]])
    np.testing.assert_allclose(found.numpy(), returns - values, atol=1e-12)

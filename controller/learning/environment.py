"""A Gymnasium environment over the slot formula: the action is the joint cut, the convex step is the environment's."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from controller.contract import Scenario
from controller.learning.batch import SlotBatch
from controller.learning.network import feature_bounds
from controller.simulator.channels import ChannelStates


class SplitInferenceEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.int64]]):
    """One lab. Observation: (ues, FEATURES), see :func:`controller.learning.network.features`. Action: MultiDiscrete,
    the candidate cut of each UE. Reward: ``-J / (N V)``, J the slot's drift-plus-penalty after the convex step.

    Episodes are truncated after ``episode_slots``. ``info`` holds delay [s] and energy [J] by UE, the mask of cuts that
    a UE could have on its own, and the cuts after projection. For training use :class:`SlotBatch`, its vector form.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own declaration

    def __init__(
        self, scenario: Scenario, channel: ChannelStates | None = None, v: float = 0.3, episode_slots: int = 200
    ) -> None:
        source = ChannelStates.constant(scenario) if channel is None else channel
        slots = max(1, round(source.up.shape[0] * source.step_seconds / scenario.slot_seconds))
        self._scenario, self._v, self._episode_slots = scenario, v, episode_slots
        self._channel = source.at_slots(slots, scenario.slot_seconds)
        self._batch = self._make(0)
        self._slot = 0
        low, high = feature_bounds(self._batch.tables)
        self.observation_space = gymnasium.spaces.Box(low.astype(np.float32), high.astype(np.float32))
        self.action_space = gymnasium.spaces.MultiDiscrete(self._batch.tables.counts)

    def _make(self, seed: int) -> SlotBatch:
        return SlotBatch(self._scenario, self._channel, 1, self._v, seed)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._batch = self._make(int(self.np_random.integers(2**31)))
        self._slot = 0
        return self._observation(), {"mask": self._batch.mask()[0]}

    def step(self, action: NDArray[np.int64]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        step = self._batch.step(np.asarray(action, dtype=np.int64)[np.newaxis])
        self._slot += 1
        info = {
            "delay_seconds": step.allocation.delay_seconds[0],
            "energy_joules": step.allocation.energy_joules[0],
            "cuts": step.cuts[0],
            "mask": self._batch.mask()[0],
        }
        return self._observation(), float(step.reward[0]), False, self._slot >= self._episode_slots, info

    def _observation(self) -> NDArray[np.float32]:
        return np.asarray(self._batch.features()[0], dtype=np.float32)

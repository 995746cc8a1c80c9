"""PPO for everything: the baseline without a convex step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from controller.contract import Observation, Scenario
from controller.learning.checkpoint import Checkpoint, CheckpointMismatchError, load_checkpoint
from controller.learning.levels import LEVELS, decided
from controller.learning.network import actor_logits, features
from controller.policies.drift import DriftPlusPenalty
from controller.solvers.allocation.chain import CutArray, SlotState
from controller.solvers.allocation.cuts import feasible_alone
from controller.solvers.allocation.problem import Allocation, Objective


class PpoEverything(DriftPlusPenalty):
    """Cut, speed, spectrum and share of each UE as a trained actor finds them most likely; virtual queues as LyMDO's.

    checkpoint : path of an actor that chooses everything (``testbed train ppo-all`` writes it). There is no other way
        to decide: without one, ``reset`` raises CheckpointMismatchError, as for one of another lab.
    initial_queue : None starts at the mean queues that training ended with.
    """

    def __init__(self, V: float = 0.3, checkpoint: str | None = None, initial_queue: float | None = None,
                 objective: Objective = "tasks") -> None:  # fmt: skip
        super().__init__(V, "indep", initial_queue or 0.0, objective=objective)
        self._path = checkpoint
        self._given_queue = initial_queue
        self._checkpoint: Checkpoint | None = None

    def reset(self, scenario: Scenario, seed: int) -> None:
        if self._path is None:
            raise CheckpointMismatchError(
                "policy ppo-all needs its option checkpoint. Train one for this lab with `testbed train ppo-all`."
            )
        self._checkpoint = load_checkpoint(Path(self._path))
        self._checkpoint.require_fit(scenario, self.v, LEVELS)
        self._levels = np.full((1, len(scenario.ues), 3), LEVELS - 1, dtype=np.int64)
        super().reset(scenario, seed)

    def initial_over_budget(self) -> Any:
        if self._given_queue is not None or self._checkpoint is None:
            return self.initial_queue
        return self._checkpoint.queue_over_budget()

    def propose(self, state: SlotState, observation: Observation) -> CutArray:
        assert self._checkpoint is not None
        logits = actor_logits(self._checkpoint.weights, features(self.tables, state)[np.newaxis])
        count = len(self._checkpoint.header.cuts)
        allowed = feasible_alone(self.tables, state, 1)
        allowed |= ~allowed.any(axis=-1, keepdims=True)
        cuts: CutArray = np.argmax(np.where(allowed, logits[..., :count], -1e9), axis=-1)
        self._levels = np.argmax(logits[..., count:].reshape(*cuts.shape, 3, LEVELS), axis=-1)
        return cuts

    def allocate(self, cuts: CutArray, state: SlotState) -> Allocation:
        return decided(self.tables, self.limits, cuts, self._levels, state, self.delay_model)

    def checkpoint_info(self) -> dict[str, Any]:
        return {} if self._checkpoint is None else self._checkpoint.info(self.scenario)

"""Channel states of a run as arrays, for the simulator: what the trace player reads from trace files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.contract import Scenario
from controller.model.channel import Channel, gain_series
from controller.solvers.allocation.chain import ChainTables

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class ChannelStates:
    """``up`` and ``down`` are (steps, ues): power gains, or bit/s at the whole spectrum for UEs of kind "rate".

    Row i holds from ``i * step_seconds`` on; after the last row the first follows (loop).
    """

    step_seconds: float
    up: FloatArray
    down: FloatArray

    def __post_init__(self) -> None:
        if not self.step_seconds > 0:
            raise ValueError(f"step_seconds must be above 0, got {self.step_seconds!r}")
        if self.up.ndim != 2 or self.up.shape != self.down.shape or self.up.shape[0] < 1:
            raise ValueError(f"up and down must be (steps, ues) and alike, got {self.up.shape} and {self.down.shape}")
        if not (np.all(np.isfinite(self.up)) and np.all(self.up >= 0)):
            raise ValueError("channel states must be finite and not negative")
        if not (np.all(np.isfinite(self.down)) and np.all(self.down >= 0)):
            raise ValueError("channel states must be finite and not negative")

    @classmethod
    def constant(cls, scenario: Scenario) -> ChannelStates:
        """Every link at its long-term mean for ever."""
        mean = np.array([[ue.mean_gain for ue in scenario.ues]])
        return cls(1.0, mean, mean.copy())

    @classmethod
    def from_law(
        cls, channels: Sequence[Channel], duration_seconds: float, step_seconds: float, seed: int
    ) -> ChannelStates:
        """Drawn from the channel law, one :class:`Channel` per UE; the series that generated traces hold."""
        steps = max(1, int(np.ceil(duration_seconds / step_seconds - 1e-9)))
        gains = gain_series(channels, np.arange(steps) * step_seconds, seed)
        return cls(step_seconds, gains.up, gains.down)

    def at(self, time_seconds: float) -> tuple[FloatArray, FloatArray]:
        """(up, down), each (ues,), in force at a time."""
        row = int(time_seconds / self.step_seconds + 1e-9) % self.up.shape[0]
        return self.up[row], self.down[row]

    def slot_means(self, start_seconds: float, end_seconds: float) -> tuple[FloatArray, FloatArray]:
        """(up, down) means over [start, end), by whole steps that begin in it (at least the one in force)."""
        rows = self.steps_of(start_seconds, end_seconds)
        return self.up[rows].mean(axis=0), self.down[rows].mean(axis=0)

    def steps_of(self, start_seconds: float, end_seconds: float) -> NDArray[np.int64]:
        """Rows in force in [start, end): whole steps that begin in it, and the one that holds at its start."""
        first = int(start_seconds / self.step_seconds + 1e-9)
        last = max(first + 1, int(np.ceil(end_seconds / self.step_seconds - 1e-9)))
        return np.asarray(np.arange(first, last) % self.up.shape[0])

    def at_slots(self, slots: int, slot_seconds: float) -> ChannelStates:
        """The state at each slot's start, one row per slot: what slot mode and training see."""
        rows = (np.arange(slots) * slot_seconds / self.step_seconds + 1e-9).astype(np.int64) % self.up.shape[0]
        return ChannelStates(slot_seconds, self.up[rows], self.down[rows])

    def link_states(self, tables: ChainTables) -> tuple[FloatArray, FloatArray]:
        """(link quality, rate at the whole downlink) as the slot problem takes them, each (steps, ues)."""
        return tables.link_quality(self.up), tables.downlink_rate(self.down)

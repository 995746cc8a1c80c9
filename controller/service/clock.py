"""Where a slot stands: between boundaries, collecting reports, or waiting for a decision. Time is passed in."""

from __future__ import annotations

import math
from typing import Literal

from controller.service.engine import collect_seconds

Phase = Literal["between", "collect", "decide"]


class SlotClock:
    """The deadlines of one slot after the other, all absolute, so that no lateness adds up.

    A clock that was held up for more than a slot goes on with the slot that time has reached.
    """

    def __init__(self, slot_seconds: float, decide_deadline_seconds: float) -> None:
        self.slot_seconds = slot_seconds
        self.decide_deadline_seconds = decide_deadline_seconds
        self.origin_seconds = math.inf  # of slot 0
        self.slot = -1  # the last one that was entered
        self.phase: Phase = "between"
        self._collect_until = math.inf
        self._decide_until = math.inf

    def boundary_seconds(self, slot: int) -> float:
        """Start of a slot."""
        return self.origin_seconds + slot * self.slot_seconds

    def due(self, now: float) -> bool:
        """Whether the next slot has begun."""
        return self.phase == "between" and now >= self.boundary_seconds(self.slot + 1)

    def enter(self, now: float) -> None:
        """Begin to collect the reports of the slot that just ended."""
        reached = math.floor((now - self.origin_seconds) / self.slot_seconds)
        self.slot = max(self.slot + 1, reached)
        self.phase = "collect"
        self._collect_until = self.boundary_seconds(self.slot) + collect_seconds(self.slot_seconds)

    def collected(self, now: float) -> bool:
        """Whether waiting for reports is over."""
        return now >= self._collect_until

    def close(self, now: float) -> None:
        """Reports are closed, the policy has the word: until its deadline, or the next slot if that comes first."""
        self.phase = "decide"
        self._decide_until = min(now + self.decide_deadline_seconds, self.boundary_seconds(self.slot + 1))

    def decide_over(self, now: float) -> bool:
        """Whether the policy's deadline has passed."""
        return now >= self._decide_until

    def settle(self) -> None:
        """A decision, or none, is settled for this slot."""
        self.phase = "between"

    def next_seconds(self) -> float:
        """The next moment at which time alone changes something."""
        if self.phase == "collect":
            return self._collect_until
        return self._decide_until if self.phase == "decide" else self.boundary_seconds(self.slot + 1)

"""When a UE's tasks arrive: generated some slots ahead by one thread, read by two."""

from __future__ import annotations

import bisect
import math

from controller.model.arrivals import ArrivalProcess
from testbed.messages import Start

_AHEAD_SECONDS = 2.0


class ArrivalSchedule:
    """Absolute arrival times, append-only: task ``n`` arrives at ``times[n]``, whatever the node is doing then.

    ``extend`` belongs to the I/O thread. Reading ``times`` from another thread needs no lock: it only grows.
    """

    def __init__(self, process: ArrivalProcess, start: Start) -> None:
        self._process = process
        self._start = start
        self.times: list[float] = []
        self._rates: list[float] = []  # nominal, by slot
        self.end_seconds = math.inf  # no task arrives after it

    def extend(self, now_seconds: float) -> bool:
        """Generate until at least two seconds and two slots ahead. True if there is something new."""
        before = len(self.times)
        ahead = max(_AHEAD_SECONDS, 2 * self._start.slot_seconds)
        end = self._start.duration_seconds
        while len(self._rates) * self._start.slot_seconds < now_seconds + ahead - self._start.origin_seconds:
            self._rates.append(self._process.rate_per_second)
            for offset in self._process.next_slot().tolist():
                if end is None or offset < end:
                    self.times.append(self._start.origin_seconds + offset)
        return len(self.times) > before

    def first_task(self, now_seconds: float) -> int:
        """The first task of this process: 0, unless it takes the place of one that died while the lab was running."""
        return 0 if now_seconds <= self._start.origin_seconds else bisect.bisect_left(self.times, now_seconds)

    def first_boundary(self, now_seconds: float) -> int:
        """The first slot whose start lies ahead."""
        return max(0, math.ceil((now_seconds - self._start.origin_seconds) / self._start.slot_seconds))

    def rate_per_second(self, slot: int) -> float:
        """Nominal rate of a slot that :meth:`extend` has reached."""
        return self._rates[slot]

    def slot_at(self, seconds: float) -> int:
        """The slot that a time lies in; -1 before the first."""
        return max(-1, math.floor((seconds - self._start.origin_seconds) / self._start.slot_seconds))

    def boundary_seconds(self, slot: int) -> float:
        """When a slot starts."""
        return self._start.origin_seconds + slot * self._start.slot_seconds

"""When a UE's tasks arrive: generated some slots ahead by one thread, read by two."""

from __future__ import annotations

import math

from controller.model.arrivals import ArrivalProcess
from controller.service.protocol import Start

_AHEAD_SECONDS = 2.0


class ArrivalSchedule:
    """Absolute arrival times: task ``n`` arrives at ``arrival_seconds(n)``, whatever the node is doing then.

    ``extend`` and ``forget`` belong to the I/O thread. Asking from another thread needs no lock: what it may still ask
    for stays as it is.
    """

    def __init__(self, process: ArrivalProcess, start: Start) -> None:
        self._process = process
        self._start = start
        self._times: dict[int, float] = {}  # by task, from the first that somebody still needs
        self._tasks = 0
        self._forgotten_tasks = 0
        self._rates: dict[int, float] = {}  # nominal, by slot; as above
        self._slots = 0
        self._forgotten_slots = 0
        self.end_seconds = math.inf  # no task arrives after it

    def extend(self, now_seconds: float) -> bool:
        """Generate until at least two seconds and two slots ahead. True if there is something new."""
        before = self._tasks
        ahead = max(_AHEAD_SECONDS, 2 * self._start.slot_seconds)
        end = self._start.duration_seconds
        while self._slots * self._start.slot_seconds < now_seconds + ahead - self._start.origin_seconds:
            self._rates[self._slots] = self._process.rate_per_second
            self._slots += 1
            for offset in self._process.next_slot().tolist():
                if end is None or offset < end:
                    self._times[self._tasks] = self._start.origin_seconds + offset
                    self._tasks += 1
        return self._tasks > before

    def arrival_seconds(self, task: int) -> float | None:
        """When a task arrives; None if :meth:`extend` has not reached it."""
        return self._times.get(task)

    def forget(self, before_task: int, before_slot: int) -> None:
        """Nobody asks for earlier tasks and slots any more: a lab serves for days."""
        for task in range(self._forgotten_tasks, before_task):
            self._times.pop(task, None)
        for slot in range(self._forgotten_slots, before_slot):
            self._rates.pop(slot, None)
        self._forgotten_tasks = max(self._forgotten_tasks, before_task)
        self._forgotten_slots = max(self._forgotten_slots, before_slot)

    def first_task(self, now_seconds: float) -> int:
        """The first task of this process: 0, unless it takes the place of one that died while the lab was running.

        Before anything is forgotten.
        """
        if now_seconds <= self._start.origin_seconds:
            return 0
        return next((task for task, arrival in self._times.items() if arrival >= now_seconds), self._tasks)

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

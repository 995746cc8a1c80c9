"""Deadlines: a thread that keeps absolute times."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from testbed.node.threads import AgentThread

#: Sleeping is late by 0.06 ms (p50) to 0.25 ms (p99) under SCHED_FIFO, so the last stretch is spun.
SPIN_SECONDS = 0.15e-3


class DeadlineThread(AgentThread):
    """Calls back at absolute CLOCK_MONOTONIC times, in order.

    It is apart from the thread that computes, so that it can run above all computing threads of the host: a stage
    that finished early must end at its target although other nodes occupy every core. Callbacks get the real time of
    their release and must only hand over (append to a deque, set a :class:`Wakeup`).
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._counter = itertools.count()
        self._lock = threading.Lock()

    def submit(self, deadline_seconds: float, callback: Callable[[float], None]) -> None:
        """From any thread. A deadline that has passed is released at once."""
        with self._lock:
            entry = (deadline_seconds, next(self._counter), callback)
            heapq.heappush(self._heap, entry)
            first = self._heap[0] is entry
        if first:
            self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            with self._lock:
                deadline = self._heap[0][0] if self._heap else None
            now = time.monotonic()
            if deadline is None:
                self._wake.wait()
            elif deadline - now > SPIN_SECONDS:
                self._wake.wait(deadline - now - SPIN_SECONDS)
            else:
                while (now := time.monotonic()) < deadline:
                    pass
                with self._lock:
                    callback = heapq.heappop(self._heap)[2]
                callback(now)

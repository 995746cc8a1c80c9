"""Deadlines: a wake-up that crosses threads and ZeroMQ pollers, and a thread that keeps absolute times."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import threading
import time
from collections.abc import Callable

#: Sleeping is late by 0.06 ms (p50) to 0.25 ms (p99) under SCHED_FIFO, so the last stretch is spun.
SPIN_SECONDS = 0.15e-3


class Wakeup:
    """An eventfd: set from any thread or signal handler, waited for alone or in a poller (:meth:`fileno`)."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._fd

    def set(self) -> None:
        try:
            os.eventfd_write(self._fd, 1)
        except BlockingIOError:
            return  # the counter is at its limit: the reader is woken already

    def clear(self) -> None:
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return  # nothing was set

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Until set or timed out (``None``: for ever); clears. Microsecond resolution, unlike ``poll``."""
        if timeout_seconds is not None:
            timeout_seconds = max(timeout_seconds, 0.0)
        if not select.select([self._fd], [], [], timeout_seconds)[0]:
            return False
        self.clear()
        return True

    def close(self) -> None:
        os.close(self._fd)


class DeadlineThread:
    """Calls back at absolute CLOCK_MONOTONIC times, in order.

    It is apart from the thread that computes, so that it can run above all computing threads of the host: a stage
    that finished early must end at its target although other nodes occupy every core. Callbacks get the real time of
    their release and must only hand over (append to a deque, set a :class:`Wakeup`).
    """

    def __init__(self, name: str) -> None:
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._counter = itertools.count()
        self._lock = threading.Lock()
        self._changed = Wakeup()
        self._stopping = False
        self._started = threading.Event()
        self.tid = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Returns when :attr:`tid` is known."""
        self._thread.start()
        self._started.wait()

    def submit(self, deadline_seconds: float, callback: Callable[[float], None]) -> None:
        """From any thread. A deadline that has passed is released at once."""
        with self._lock:
            entry = (deadline_seconds, next(self._counter), callback)
            heapq.heappush(self._heap, entry)
            first = self._heap[0] is entry
        if first:
            self._changed.set()

    def stop(self) -> None:
        self._stopping = True
        self._changed.set()
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        self.tid = threading.get_native_id()
        self._started.set()
        while not self._stopping:
            with self._lock:
                deadline = self._heap[0][0] if self._heap else None
            now = time.monotonic()
            if deadline is None:
                self._changed.wait()
            elif deadline - now > SPIN_SECONDS:
                self._changed.wait(deadline - now - SPIN_SECONDS)
            else:
                while (now := time.monotonic()) < deadline:
                    pass
                with self._lock:
                    callback = heapq.heappop(self._heap)[2]
                callback(now)

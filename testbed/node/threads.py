"""What the threads of agents have in common: how they begin, tell who they are, wait and end; and what wakes them."""

from __future__ import annotations

import os
import select
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable


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


class Inbox:
    """What other threads leave for one to do, in their order; ``wake`` is set when there is something."""

    def __init__(self, wake: Wakeup) -> None:
        self.wake = wake
        self._actions: deque[Callable[[], object]] = deque()

    def post(self, action: Callable[[], object]) -> None:
        """From any thread."""
        self._actions.append(action)
        self.wake.set()

    def work(self) -> None:
        """Do all that is there, in the thread whose inbox it is."""
        while self._actions:
            self._actions.popleft()()


class AgentThread(ABC):
    """A thread that others schedule by its :attr:`tid` (real-time priority, cgroup) and end with :meth:`stop`.

    Its life is :meth:`_run`, which waits on ``_wake``, alone or in a poller, and returns once ``_stopping`` is set.
    """

    def __init__(self, name: str, *, stop_seconds: float = 1.0) -> None:
        """``stop_seconds``: :meth:`stop` waits no longer for what the thread is about."""
        self.tid = 0
        self._wake = Wakeup()
        self._stopping = False
        self._stop_seconds = stop_seconds
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Returns when :attr:`tid` is known."""
        self._thread.start()
        assert self._thread.native_id is not None  # it has started
        self.tid = self._thread.native_id

    def stop(self) -> None:
        """From another thread."""
        self._stopping = True
        self._interrupt()
        self._thread.join(self._stop_seconds)

    def _interrupt(self) -> None:
        """Wake the thread, whatever it waits for."""
        self._wake.set()

    @abstractmethod
    def _run(self) -> None:
        """In the thread."""

"""When the host's CPUs stood still: what a hypervisor takes, no shaper of this host can send in.

HTB repays a late wake-up only up to its bucket (0.5 ms of the rate). A wire that had something to send while its CPU
stood still for longer has lost that time for good, and a measurement of its rate has to know.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

#: Waking up takes some tens of microseconds where nothing is wrong.
_NOTABLE_SECONDS = 0.2e-3
_PRIORITY = 98


@dataclass(frozen=True)
class Pauses:
    """Arrays (pauses,), of all CPUs: when each began and ended (CLOCK_MONOTONIC)."""

    starts_seconds: NDArray[np.float64]
    ends_seconds: NDArray[np.float64]

    def within(self, start_seconds: float, end_seconds: float) -> list[tuple[float, float]]:
        """The parts of a window in which any CPU stood still, in order and apart from each other."""
        found: list[tuple[float, float]] = []
        for begin, end in zip(self.starts_seconds, self.ends_seconds, strict=True):
            begin, end = max(float(begin), start_seconds), min(float(end), end_seconds)
            if found and begin <= found[-1][1]:
                found[-1] = found[-1][0], max(found[-1][1], end)
            elif begin < end:
                found.append((begin, end))
        return found

    def seconds(self, start_seconds: float, end_seconds: float) -> float:
        """How much of a window that is."""
        return sum(end - begin for begin, end in self.within(start_seconds, end_seconds))


class PauseProbe:
    """Watches every CPU while in the context: a process on each, above all of a lab's threads, that wakes periodically
    and notes when it could not. Needs root; every 0.5 ms takes some hundredths of each CPU.
    """

    def __init__(self, period_seconds: float = 0.5e-3) -> None:
        self._period_seconds = period_seconds

    def __enter__(self) -> PauseProbe:
        spawn = multiprocessing.get_context("spawn")
        self._ends: list[Connection] = []
        self._processes = []
        for cpu in sorted(os.sched_getaffinity(0)):
            mine, theirs = spawn.Pipe()
            process = spawn.Process(target=_watch, args=(cpu, self._period_seconds, theirs), daemon=True)
            process.start()
            theirs.close()
            self._ends.append(mine)
            self._processes.append(process)
        for end in self._ends:
            end.recv()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.found()

    def found(self) -> Pauses:
        """End watching; what was seen. Empty after the first call."""
        pauses: list[tuple[float, float]] = []
        for end, process in zip(self._ends, self._processes, strict=True):
            with contextlib.suppress(OSError):
                end.send(None)
                pauses += end.recv()
            end.close()
            process.join()
        self._ends, self._processes = [], []
        both = np.array(sorted(pauses), dtype=np.float64).reshape(-1, 2)
        return Pauses(both[:, 0], both[:, 1])


def _watch(cpu: int, period_seconds: float, end: Connection) -> None:
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    pauses: list[tuple[float, float]] = []
    end.send(None)
    due = time.monotonic()
    while not end.poll():
        due = max(due + period_seconds, time.monotonic())
        time.sleep(max(due - time.monotonic(), 0.0))
        woken = time.monotonic()
        if woken - due > _NOTABLE_SECONDS:
            pauses.append((due, woken))
    end.send(pauses)

"""Being on time: a real-time priority, memory that stays in RAM, no garbage collection, and sleeping to a deadline."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import time

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
#: Woken this much before a deadline, the rest is spent watching the clock: timers are late by 0.1-0.2 ms at times.
SPIN_SECONDS = 200e-6


def be_punctual(priority: int) -> list[str]:
    """Make the calling thread SCHED_FIFO (0: leave it), lock the memory, stop the collector.

    Returns what the host refused, a line for each; but for the priority. With cgroup v1 a node's own group has no
    real-time run time, so nothing in it can take one: the lab gives it from outside, once everybody is there, and
    :func:`is_realtime` tells whether it did.
    """
    refused = []
    if priority:
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        refused.append(f"locking memory was refused ({os.strerror(ctypes.get_errno())})")
    gc.collect()
    gc.freeze()
    gc.disable()
    return refused


def is_realtime() -> bool:
    """Whether the calling thread has a real-time priority, whoever gave it."""
    return os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)


def sleep_until(deadline_seconds: float) -> None:
    """Return at a CLOCK_MONOTONIC time, never before."""
    while (left := deadline_seconds - time.monotonic()) > 0:
        if left > SPIN_SECONDS:
            time.sleep(left - SPIN_SECONDS)

"""Processes that end with the one that started them, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def follow(parent: int, number: signal.Signals) -> None:
    """Have the kernel send this process the signal when its parent ends (prctl(2)); at once if that has happened."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def end_with_parent() -> None:
    """Of a command that tidies up on SIGTERM: to be called between fork and exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))

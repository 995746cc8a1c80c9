"""The process of an agent that computes stages, from its first line to its last."""

from __future__ import annotations

import ctypes
import logging
import signal
import sys
from collections.abc import Callable
from typing import Protocol

import torch

from testbed.node.last_words import accounted
from testbed.protocol.configs import Config

#: A thread that waits for the interpreter gets it after this: the I/O thread must not hold up a stage for 5 ms.
SWITCH_INTERVAL_SECONDS = 0.1e-3

# glibc's mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_NEVER_BYTES = 1 << 30


class Agent(Protocol):
    """A program with stages."""

    def request_stop(self, reason: str) -> None:
        """Safe in a signal handler."""

    def run(self) -> None:
        """Returns when all that is to be recorded has been sent."""


def serve(config: Config, make: Callable[[], Agent]) -> None:
    """The life of an agent's process: one thread per stage for torch, then serve until Stop or SIGTERM.

    Raises SystemExit(1) when one of its threads has ended.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    torch.set_num_threads(1)
    keep_memory()
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    with accounted(config.node, config.lab_directory):
        agent = make()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: agent.request_stop(signal.Signals(received).name))
        agent.run()


def keep_memory() -> None:
    """Have freed memory stay with the process; where the C library is not glibc, nothing happens.

    A stage frees tensors of megabytes and the next one takes as many. What goes back to the kernel in between comes
    again page by page: 5000 faults, which made a head of 5 ms take 13 ms, in some processes and at some times.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for setting, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _NEVER_BYTES), (_TRIM_THRESHOLD, _NEVER_BYTES)):
            mallopt(setting, value)

"""The process of an agent that computes stages, from its first line to its last."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from typing import Protocol

import torch

#: A thread that waits for the interpreter gets it after this: the I/O thread must not hold up a stage for 5 ms.
SWITCH_INTERVAL_SECONDS = 0.1e-3


class Agent(Protocol):
    """A program with stages."""

    def request_stop(self, reason: str) -> None:
        """Safe in a signal handler."""

    def run(self) -> None:
        """Returns when all that is to be recorded has been sent."""


def serve(make: Callable[[], Agent]) -> None:
    """The life of an agent's process: one thread per stage for torch, then serve until Stop or SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    agent = make()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: agent.request_stop(signal.Signals(received).name))
    agent.run()

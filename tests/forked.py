"""Processes of tests that start at once: forked from one that has imported what they need, and runs no second thread.

Each import of torch is more than a second of CPU. A process that is forked here hears nothing of what was patched, or
put into the environment, after the first of them was started; folder and import path are those of whoever starts it.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from functools import cache
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

#: Of these, what the tests that were collected have imported.
PROGRAMS = ("testbed.programs.edge.main", "testbed.programs.ue.main", "testbed.programs.player.player")


def forked(target: Callable[[str], object], argument: str) -> BaseProcess:
    """A process that calls ``target``; not yet started."""
    return _context().Process(target=target, args=(argument,))


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([name for name in PROGRAMS if name in sys.modules])
    return context

"""How numerical routines are compiled: cached on disk, without the GIL, with IEEE division (x / 0 is inf, no error)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from numba import njit

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function, compiled at its first call; kept on disk for the next process where there is a place for it."""
    try:
        kept: Callable[P, R] = njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # "no locator available": neither beside the source nor in a home can anything be written
        kept = njit(nogil=True, error_model="numpy")(function)
    return kept

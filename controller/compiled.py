"""How numerical routines are compiled: cached on disk, without the GIL, with IEEE division (x / 0 is inf, no error)."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numba import config as numba_config
from numba import njit

P = ParamSpec("P")
R = TypeVar("R")

_config: Any = numba_config
#: What a routine has taken in from elsewhere, by the function that it was made of.
_TAKEN: dict[Any, str] = {}


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function, compiled at its first call; kept on disk for the next process where there is a place for it.

    Numba compiles anew when the function's own file has changed, but constants and routines that the file imports are
    compiled into it as well: the folder that it is kept in is named by them.
    """
    _TAKEN[function] = taken = _taken(getattr(function, "__globals__", {}))
    before = _config.CACHE_DIR
    _config.CACHE_DIR = str(_kept_in(before) / taken)  # read when the dispatcher is made, below
    try:
        kept: Callable[P, R] = njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # "no locator available": neither there nor in a home can anything be written
        kept = njit(nogil=True, error_model="numpy")(function)
    finally:
        _config.CACHE_DIR = before
    return kept


def _kept_in(chosen: str) -> Path:
    """The user's choice (NUMBA_CACHE_DIR), or beside the sources; numba goes on to a home if that cannot be written."""
    return Path(chosen) if chosen else Path(__file__).with_name("__pycache__") / "numba"


def _taken(names: Mapping[str, Any]) -> str:
    """A digest of all that a file has so far, its imports in any case, and that would be compiled into a routine."""
    told = sorted(
        f"{name}={text}" for name, value in names.items() if not name.startswith("__") for text in _told(value)
    )
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def _told(value: Any) -> Iterator[str]:
    if isinstance(value, bool | int | float | complex | str | bytes | tuple):
        yield repr(value)
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
    elif (source := getattr(value, "py_func", None)) is not None and source in _TAKEN:
        yield f"{_digest(inspect.getfile(source))}{_TAKEN[source]}"
    elif inspect.ismodule(value) and value.__name__.startswith("controller."):
        yield _digest(str(value.__file__))


@cache
def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()

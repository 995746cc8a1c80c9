"""How long a call takes, by the same loop in every benchmark."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def seconds_each(call: Callable[[], object], repeats: int) -> NDArray[np.float64]:
    """Wall time of each of ``repeats`` calls, after one that is not counted: it compiles and fills caches."""
    call()
    times = np.empty(repeats)
    for number in range(repeats):
        began = time.perf_counter()
        call()
        times[number] = time.perf_counter() - began
    return times


def median_seconds(call: Callable[[], object], repeats: int = 30) -> float:
    return float(np.median(seconds_each(call, repeats)))

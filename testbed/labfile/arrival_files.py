"""Arrival times from a file: one time in seconds per line, ``#`` comments; and what is odd about them."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from testbed.errors import InputError
from testbed.text_files import read_text
from testbed.traces.clock import EPOCH_SECONDS, FINER_EPOCHS

_SLOW_SECONDS = 30.0
_DENSE_PER_SECOND = 1000.0
MAX_TIMES = 5_000_000


@dataclass(frozen=True)
class ArrivalFile:
    """``times_seconds`` from the start of a run, sorted; ``first_seconds``: what was taken from all of them."""

    times_seconds: tuple[float, ...]
    first_seconds: float


def mean_rate_per_second(times_seconds: tuple[float, ...]) -> float:
    """Tasks over the time until the last one, at least a second: one time alone has no rate of its own."""
    return len(times_seconds) / max(times_seconds[-1], 1.0)


def read_arrivals(path: Path) -> ArrivalFile:
    """Times since 1970 are counted from the first one on. Raises InputError with file and line."""
    try:
        modified = path.stat().st_mtime_ns
    except OSError:  # read_text says what is the matter
        modified = 0
    return _read_as_of(path, modified)


@functools.lru_cache(maxsize=32)
def _read_as_of(path: Path, _modified_ns: int) -> ArrivalFile:
    allowed = "one time in seconds per line"
    times: list[float] = []
    for number, line in enumerate(read_text(path, "arrivals file", allowed).splitlines(), start=1):
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise InputError(
                "not an arrival time",
                where=f"{path}, line {number}",
                value=text[:80],
                allowed="seconds from the start, >= 0",
            )
        times.append(value)
    if not times:
        raise InputError("the arrivals file holds no time", where=str(path), allowed=allowed)
    if len(times) > MAX_TIMES:
        raise InputError("too many arrival times", where=str(path), value=len(times), allowed=f"up to {MAX_TIMES}")
    times.sort()
    for least, unit, divisor in FINER_EPOCHS:
        if times[-1] >= least:
            raise InputError(
                f"these are times in {unit} since 1970",
                where=str(path),
                value=f"{times[0]:.17g} to {times[-1]:.17g}",
                allowed="seconds from the start",
                fix=f"Subtract the first one from all and divide by {divisor:.0f}.",
            )
    first = times[0] if times[0] >= EPOCH_SECONDS else 0.0
    if times[-1] - first >= EPOCH_SECONDS:
        raise InputError(
            "the times span more than three years",
            where=str(path),
            value=f"{times[0]:.17g} to {times[-1]:.17g}",
            allowed="seconds from the start",
        )
    return ArrivalFile(tuple(time - first for time in times), first)


def doubts(arrivals: ArrivalFile) -> list[str]:
    """What is odd about the times, with their mean and peak and the unit that they may really have."""
    times = np.array(arrivals.times_seconds)
    ahead = np.searchsorted(times, times + 1.0, side="left") - np.arange(times.size)
    rates = (
        f"{times.size} tasks, mean {mean_rate_per_second(arrivals.times_seconds):.3g} /s, at most {int(ahead.max())} "
        f"in a second"
    )
    found = []
    if arrivals.first_seconds:
        found.append(f"times since 1970 ({_date(arrivals.first_seconds)}): counted from the first one on; {rates}")
    gap = float(times[-1] - times[0]) / (times.size - 1) if times.size > 1 else 0.0
    if times.size >= 3 and gap >= _SLOW_SECONDS:
        found.append(f"a task every {gap:.3g} s in the mean; if the times are in ms, divide them by 1000; {rates}")
    elif times[0] >= 3600:
        found.append(f"the first task arrives after {times[0]:g} s; {rates}")
    if times.size >= 100 and gap < 1 / _DENSE_PER_SECOND:
        found.append(f"more than {_DENSE_PER_SECOND:.0f} tasks a second: are the times in seconds? {rates}")
    return found


def _date(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"

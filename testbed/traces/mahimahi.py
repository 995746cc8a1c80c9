"""Traces of Mahimahi (``mm-link``): one line per chance to deliver 1504 bytes, its time in whole milliseconds.

Netravali et al., "Mahimahi: accurate record-and-replay for HTTP", USENIX ATC 2015. The file repeats with the period of
its last time. Bytes are counted as Mahimahi counts them: 1504 for a full packet, where Ethernet (and so our wires)
counts 1514; a played trace carries 0.7 % fewer packets than Mahimahi's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from testbed.errors import InputError
from testbed.text_files import read_text
from testbed.traces.trace import MAX_STEPS, Floats, Trace

DELIVERY_BITS = 1504 * 8
DEFAULT_BIN_SECONDS = 0.1
#: Times in ms since 1970 are above it; so is no trace that anybody recorded from its start on.
_LATEST_MILLISECONDS = 10**11


def read_mahimahi(up: Path, down: Path | None = None, bin_seconds: float = DEFAULT_BIN_SECONDS) -> Trace:
    """Rates per bin. The bits of every bin are the file's, and so is the mean, to the last bit.

    ``down``: its own file, or the same as ``up``. When two files differ in length the shorter one repeats, as it does
    in Mahimahi. The last bin is cut at the file's end. Raises InputError with file and line.
    """
    if not bin_seconds >= 1e-3:
        raise InputError("the bin is too short", value=bin_seconds, allowed="0.001 s (the files' resolution) or more")
    chances_up = _read(up)
    chances_down = chances_up if down is None else _read(down)
    period = max(int(chances_up[-1]), int(chances_down[-1]))
    if period / 1000.0 / bin_seconds > MAX_STEPS:
        longer = up if period == int(chances_up[-1]) else down
        raise InputError(
            f"the trace is too long for bins of {bin_seconds:g} s",
            where=str(longer),
            value=f"{period / 1000.0:g} s",
            allowed=f"up to {MAX_STEPS} bins",
            fix="Its lines are times in ms from its start: is that their unit? If so, import it with a wider --bin.",
        )
    starts = np.arange(0.0, period / 1000.0 - 1e-9, bin_seconds)
    edges = np.append(starts, period / 1000.0)
    return Trace(
        times_seconds=starts,
        up=_rates(chances_up, edges),
        down=_rates(chances_down, edges),
        kind="rate",
        duration_seconds=float(edges[-1]),
    )


def _read(path: Path) -> Floats:
    """Times in ms, sorted as in the file."""
    times: list[int] = []
    text = read_text(path, "trace", "whole milliseconds, one a line")
    for number, line in enumerate(text.splitlines(), start=1):
        word = line.strip()
        where = f"{path}, line {number}"
        if not word:
            continue
        if not (word.isascii() and word.isdigit()):
            raise InputError("not a Mahimahi line", where=where, value=line[:80], allowed="whole milliseconds, >= 0")
        if len(word) > 18 or int(word) > _LATEST_MILLISECONDS:
            raise InputError(
                "the time is not one from the start of the trace",
                where=where,
                value=line[:80],
                allowed=f"whole milliseconds, up to {_LATEST_MILLISECONDS}",
                fix="Times since 1970: subtract the first one from all. Microseconds: divide by 1000.",
            )
        if times and int(word) < times[-1]:
            raise InputError("times must not fall", where=where, value=line, allowed=f"{times[-1]} or more")
        times.append(int(word))
    if not times or times[-1] == 0:
        raise InputError("a trace needs a line after 0 ms", where=str(path), allowed="whole milliseconds, one a line")
    return np.array(times, dtype=np.float64)


def _rates(chances: Floats, edges: Floats) -> Floats:
    """Bit/s per bin; ``chances`` repeats until the last edge. A chance at the very end belongs to the last bin."""
    # the files' resolution is 1 ms: what is nearer to an edge than rounding lies on it
    at = np.round(edges * 1000.0, 6)
    period = chances[-1]
    rounds = np.floor(at / period)
    inside = at - rounds * period
    # before each edge: the last chance of a round lies at its very end, which is not before the start of the next
    at_its_end = np.count_nonzero(chances == period) * ((inside == 0) & (rounds > 0))
    counts = rounds * chances.size - at_its_end + np.searchsorted(chances, inside, side="left")
    # up to the last one, what lies on it included
    counts[-1] = rounds[-1] * chances.size + (np.searchsorted(chances, inside[-1], side="right") if inside[-1] else 0)
    return np.asarray(np.diff(counts) * DELIVERY_BITS / np.diff(edges), dtype=np.float64)

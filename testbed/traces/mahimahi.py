"""Traces of Mahimahi (``mm-link``): one line per chance to deliver 1504 bytes, its time in whole milliseconds.

Netravali et al., "Mahimahi: accurate record-and-replay for HTTP", USENIX ATC 2015. The file repeats with the period of
its last time. Bytes are counted as Mahimahi counts them: 1504 for a full packet, where Ethernet (and so our wires)
counts 1514; a played trace carries 0.7 % fewer packets than Mahimahi's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from testbed.errors import InputError
from testbed.traces.trace import Floats, Trace

DELIVERY_BITS = 1504 * 8
DEFAULT_BIN_SECONDS = 0.1


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
    starts = np.arange(0.0, period / 1000.0 - 1e-9, bin_seconds)
    edges = np.append(starts, period / 1000.0)
    return Trace(
        times_seconds=starts,
        up=_rates(chances_up, period, edges),
        down=_rates(chances_down, period, edges),
        kind="rate",
        duration_seconds=float(edges[-1]),
    )


def _read(path: Path) -> Floats:
    """Times in ms, sorted as in the file."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise InputError(f"cannot read the trace: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise InputError("not a text file", where=str(path), allowed="whole milliseconds, one a line") from None
    times: list[int] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        where = f"{path}, line {number}"
        if not text.isdigit():
            raise InputError("not a Mahimahi line", where=where, value=line, allowed="whole milliseconds, >= 0")
        if times and int(text) < times[-1]:
            raise InputError("times must not fall", where=where, value=line, allowed=f"{times[-1]} or more")
        times.append(int(text))
    if not times or times[-1] == 0:
        raise InputError("a trace needs a line after 0 ms", where=str(path), allowed="whole milliseconds, one a line")
    return np.array(times, dtype=np.float64)


def _rates(chances: Floats, period_ms: int, edges: Floats) -> Floats:
    """Bit/s per bin; ``chances`` repeats until ``period_ms``. A chance at the very end belongs to the last bin."""
    own_period = int(chances[-1])
    rounds = -(-period_ms // own_period)
    times = (chances[None, :] + own_period * np.arange(rounds)[:, None]).ravel()
    counts, _ = np.histogram(times[times <= period_ms] / 1000.0, bins=edges)
    return np.asarray(counts * DELIVERY_BITS / np.diff(edges), dtype=np.float64)

"""Trace files: a CSV that describes itself, read strictly.

    # testbed trace 1
    # kind=gain
    # duration_seconds=60
    # note=rayleigh, Doppler 0.2 Hz, 200 m, seed 7, ue 0
    time_seconds,up,down
    0,3.1415e-11,2.7182e-11
    0.1,...

The column line and the rows are all that is needed: a file without a ``kind`` takes it from whoever reads it, one
without a duration ends as long after its last time as that is after the one before (one row: after 1 s). Values have
nine digits, and the same trace gives the same bytes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np

from testbed.errors import InputError
from testbed.traces.mahimahi import read_mahimahi
from testbed.traces.trace import Kind, Trace

COLUMNS = "time_seconds,up,down"
_MAGIC = "# testbed trace 1"
_KEYS = ("kind", "duration_seconds", "note")
MAHIMAHI_SUFFIXES = (".up", ".down")


def write_trace(trace: Trace, path: Path, note: str = "") -> None:
    """Write a trace; parents are made."""
    if "\n" in note:
        raise ValueError("a note is one line")
    lines = [_MAGIC, f"# kind={trace.kind}", f"# duration_seconds={trace.duration_seconds:.9g}"]
    if note:
        lines.append(f"# note={note}")
    lines.append(COLUMNS)
    rows = zip(trace.times_seconds.tolist(), trace.up.tolist(), trace.down.tolist(), strict=True)
    lines.extend(f"{time:.9g},{up:.9g},{down:.9g}" for time, up, down in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="ascii" if note.isascii() else "utf-8", newline="\n")


def load_trace(path: Path, kind: Kind | None = None, down: Path | None = None) -> Trace:
    """A trace file of ours or, by its suffix ``.up`` or ``.down``, of Mahimahi (the same way up and down).

    ``kind``: what the reader expects. ``down``: the downlink's own file, of the same kind; of ours its ``down`` column
    counts. Raises InputError with file and line.
    """
    files = [path] if down is None else [path, down]
    if path.suffix in MAHIMAHI_SUFFIXES:
        if kind not in (None, "rate"):
            raise InputError(
                "a Mahimahi file holds rates", where=str(path), value=kind, allowed="rate", fix="Say kind: rate."
            )
        if any(each.suffix not in MAHIMAHI_SUFFIXES for each in files):
            raise InputError("the uplink's trace is Mahimahi's, the downlink's is not", where=str(down))
        return read_mahimahi(path, down)
    if down is None:
        return read_trace(path, kind)
    if down.suffix in MAHIMAHI_SUFFIXES:
        raise InputError("the downlink's trace is Mahimahi's, the uplink's is not", where=str(down))
    return _joined(read_trace(path, kind), read_trace(down, kind), str(down))


def _joined(up: Trace, down: Trace, where: str) -> Trace:
    """Up of one, down of the other; the shorter one repeats."""
    if up.kind != down.kind:
        raise InputError("the two directions are of different kinds", where=where, value=down.kind, allowed=up.kind)
    duration = max(up.duration_seconds, down.duration_seconds)
    times = {0.0}
    for trace in (up, down):
        number = 0
        while (time := trace.step_time(number, "loop")) < duration:
            times.add(time)
            number += 1
    ordered = np.array(sorted(times))
    return Trace(ordered, up.sampled(ordered)[0], down.sampled(ordered)[1], up.kind, duration)


def read_trace(path: Path, kind: Kind | None = None) -> Trace:
    """A trace file of ours. Raises InputError with file and line for anything that is not as the module says."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read the trace: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise InputError("not a text file", where=str(path), allowed=f"a CSV with the columns {COLUMNS}") from None
    header: dict[str, str] = {}
    first_row = 0
    for number, line in enumerate(lines, start=1):
        if line.startswith("#"):
            _read_header(line, header, f"{path}, line {number}")
        elif line.replace(" ", "") == COLUMNS:
            first_row = number + 1
            break
        else:
            raise InputError("not the column line", where=f"{path}, line {number}", value=line, allowed=COLUMNS)
    if not first_row:
        raise InputError("no column line", where=str(path), allowed=COLUMNS)
    rows: list[tuple[float, float, float]] = []
    for number, line in enumerate(lines[first_row - 1 :], start=first_row):
        rows.append(_read_row(line, rows[-1][0] if rows else None, f"{path}, line {number}"))
    if not rows:
        raise InputError("a trace without a row", where=str(path), allowed="at least one row after the column line")
    return _trace(rows, header, kind, str(path))


def _read_header(line: str, header: dict[str, str], where: str) -> None:
    if line.rstrip() == _MAGIC:
        return
    key, equals, value = line[1:].strip().partition("=")
    if not equals or key not in _KEYS:
        raise InputError(
            "unknown header line",
            where=where,
            value=line,
            allowed=f"{_MAGIC!r} and # KEY=VALUE, KEY: {', '.join(_KEYS)}",
        )
    if key != "note" and key in header:
        raise InputError(f"{key} is given twice", where=where, value=line)
    header[key] = value


def _read_row(line: str, previous_seconds: float | None, where: str) -> tuple[float, float, float]:
    fields = line.split(",")
    if len(fields) != 3:
        raise InputError("not a row of three values", where=where, value=line, allowed=COLUMNS)
    values = []
    for name, text in zip(COLUMNS.split(","), fields, strict=True):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} is not a value", where=where, value=text, allowed="a finite number, >= 0")
        values.append(value)
    if previous_seconds is None and values[0] != 0:
        raise InputError("the first time is not 0", where=where, value=fields[0], allowed="0")
    if previous_seconds is not None and values[0] <= previous_seconds:
        raise InputError("times must rise", where=where, value=fields[0], allowed=f"above {previous_seconds:g}")
    return values[0], values[1], values[2]


def _trace(rows: list[tuple[float, float, float]], header: dict[str, str], kind: Kind | None, where: str) -> Trace:
    kinds: tuple[Kind, ...] = get_args(Kind)
    named = header.get("kind")
    if named is not None and named not in kinds:
        raise InputError("unknown kind", where=where, value=named, allowed=", ".join(kinds))
    if named is not None and kind is not None and named != kind:
        raise InputError("the trace is of another kind than it is used for", where=where, value=named, allowed=kind)
    resolved = next((known for known in kinds if known == (named or kind)), None)
    if resolved is None:
        raise InputError(
            "the kind is not known", where=where, fix=f"Add a line '# kind=KIND', one of {', '.join(kinds)}."
        )
    times, up, down = zip(*rows, strict=True)
    duration = 2 * times[-1] - times[-2] if len(times) > 1 else 1.0
    if "duration_seconds" in header:
        text = header["duration_seconds"]
        try:
            duration = float(text)
        except ValueError:
            duration = math.nan
        if not (math.isfinite(duration) and duration > times[-1]):
            raise InputError(
                "duration_seconds is not a value", where=where, value=text, allowed=f"a number above {times[-1]:g}"
            )
    if resolved == "loss" and max(*up, *down) > 1:
        raise InputError("a loss is more than 1", where=where, value=max(*up, *down), allowed="ratios, 0 to 1")
    return Trace(times, up, down, resolved, duration)  # type: ignore[arg-type]  # tuples become arrays

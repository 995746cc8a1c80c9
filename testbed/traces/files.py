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
nine digits, and the same trace gives the same bytes. Blank lines and a byte order mark mean nothing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np

from testbed.errors import InputError
from testbed.text_files import read_text
from testbed.traces.arrays import array_format
from testbed.traces.layouts import COLUMNS, MAGIC, TITLES, guess, import_command, way_out
from testbed.traces.mahimahi import read_mahimahi
from testbed.traces.trace import MAX_STEPS, Kind, Trace
from testbed.traces.value_units import LARGEST

_KEYS = ("kind", "duration_seconds", "note")
MAHIMAHI_SUFFIXES = (".up", ".down")
_OTHER_UNITS: dict[Kind, str] = {
    "gain": "A gain is a linear power ratio: L dB of path loss are 10^(-L/10), 120 dB 1e-12: `{command} --unit dB`.",
    "rate": "A rate is in bit/s.",
    "delay": "A delay is in seconds: divide ms by 1000: `{command} --unit ms`.",
    "loss": "A loss is a ratio: divide percent by 100: `{command} --unit %`.",
}


def write_trace(trace: Trace, path: Path, note: str = "") -> None:
    """Write a trace; parents are made."""
    if "\n" in note:
        raise ValueError("a note is one line")
    lines = [MAGIC, f"# kind={trace.kind}", f"# duration_seconds={trace.duration_seconds:.9g}"]
    if note:
        lines.append(f"# note={note}")
    lines.append(COLUMNS)
    rows = zip(trace.times_seconds.tolist(), trace.up.tolist(), trace.down.tolist(), strict=True)
    lines.extend(f"{time:.9g},{up:.9g},{down:.9g}" for time, up, down in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="ascii" if note.isascii() else "utf-8", newline="\n")


def load_trace(path: Path, kind: Kind | None = None, down: Path | None = None) -> Trace:
    """A trace file of ours or, by its suffix ``.up`` or ``.down`` or by what it holds, of Mahimahi.

    ``kind``: what the reader expects. ``down``: the downlink's own file, of the same kind; of ours its ``down`` column
    counts, of Mahimahi's without one both ways are the same. Raises InputError with file and line.
    """
    files = [path] if down is None else [path, down]
    if is_mahimahi(path):
        if kind not in (None, "rate"):
            raise InputError(
                "a Mahimahi file holds rates", where=str(path), value=kind, allowed="rate", fix="Say kind: rate."
            )
        if not all(is_mahimahi(each) for each in files):
            raise InputError("the uplink's trace is Mahimahi's, the downlink's is not", where=str(down))
        return read_mahimahi(path, down).without_repeats()
    if down is None:
        return read_trace(path, kind).without_repeats()
    if is_mahimahi(down):
        raise InputError("the downlink's trace is Mahimahi's, the uplink's is not", where=str(down))
    return joined(read_trace(path, kind), read_trace(down, kind), str(down)).without_repeats()


def is_mahimahi(path: Path) -> bool:
    """By what it holds; by its suffix where that says nothing. Raises InputError for a file that cannot be read."""
    found = guess(_text(path))
    return found == "mahimahi" or (found is None and path.suffix in MAHIMAHI_SUFFIXES)


def joined(up: Trace, down: Trace, where: str) -> Trace:
    """Up of one, down of the other; the shorter one repeats. Raises InputError, naming ``where``."""
    if up.kind != down.kind:
        raise InputError("the two directions are of different kinds", where=where, value=down.kind, allowed=up.kind)
    duration = max(up.duration_seconds, down.duration_seconds)
    times = {0.0}
    for trace in (up, down):
        if len(trace) > 1 and len(trace) * duration / trace.duration_seconds > MAX_STEPS:
            raise InputError(
                "one direction's trace is so short that the other is too long for it",
                where=where,
                value=f"{trace.duration_seconds:g} s and {duration:g} s",
                allowed=f"{MAX_STEPS} steps with all repetitions",
            )
        number = 0
        while (time := trace.step_time(number, "loop")) < duration:
            times.add(time)
            number += 1
    # nine digits, as in files: rounding makes two of one time, and one just before the end
    nearest = 2e-9 * duration
    ordered = np.array(sorted(time for time in times if time < duration - nearest))
    ordered = ordered[np.diff(ordered, prepend=-duration) > nearest]
    return Trace(ordered, up.sampled(ordered)[0], down.sampled(ordered)[1], up.kind, duration)


def read_trace(path: Path, kind: Kind | None = None) -> Trace:
    """A trace file of ours. Raises InputError with file and line for anything that is not as the module says."""
    text = _text(path)
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    header: dict[str, str] = {}
    first_row = 0
    for index, (number, line) in enumerate(lines, start=1):
        if line.startswith("#"):
            _read_header(line, header, f"{path}, line {number}")
        elif line.replace(" ", "") == COLUMNS:
            first_row = index
            break
        else:
            raise InputError(
                "not the column line",
                where=f"{path}, line {number}",
                value=line[:80],
                allowed=COLUMNS,
                fix=way_out(text, path),
            )
    if not first_row:
        raise InputError("no column line", where=str(path), allowed=COLUMNS)
    if len(lines) - first_row > MAX_STEPS:
        raise InputError("too many rows", where=str(path), value=len(lines) - first_row, allowed=f"up to {MAX_STEPS}")
    resolved = _kind(header.get("kind"), kind, str(path))
    rows: list[tuple[float, float, float]] = []
    for number, line in lines[first_row:]:
        rows.append(_read_row(line, rows[-1][0] if rows else None, resolved, f"{path}, line {number}"))
    if not rows:
        raise InputError("a trace without a row", where=str(path), allowed="at least one row after the column line")
    return _trace(rows, header, resolved, str(path))


def _text(path: Path) -> str:
    """Raises InputError, for a file of arrays with the command that takes it."""
    arrays = array_format(path)
    if arrays is not None:
        raise InputError(
            "not a text file",
            where=str(path),
            allowed=f"a CSV with the columns {COLUMNS}",
            fix=f"This looks like {TITLES[arrays]}: {import_command(path, '--step STEP')}",
        )
    return read_text(path, "trace", f"a CSV with the columns {COLUMNS}")


def _read_header(line: str, header: dict[str, str], where: str) -> None:
    if line.rstrip() == MAGIC:
        return
    key, equals, value = line[1:].strip().partition("=")
    if not equals or key not in _KEYS:
        raise InputError(
            "unknown header line",
            where=where,
            value=line[:80],
            allowed=f"{MAGIC!r} and # KEY=VALUE, KEY: {', '.join(_KEYS)}",
        )
    if key != "note" and key in header:
        raise InputError(f"{key} is given twice", where=where, value=line[:80])
    header[key] = value


def _kind(named: str | None, wanted: Kind | None, where: str) -> Kind:
    kinds: tuple[Kind, ...] = get_args(Kind)
    if named is not None and named not in kinds:
        raise InputError("unknown kind", where=where, value=named, allowed=", ".join(kinds))
    if named is not None and wanted is not None and named != wanted:
        raise InputError("the trace is of another kind than it is used for", where=where, value=named, allowed=wanted)
    resolved = next((known for known in kinds if known == (named or wanted)), None)
    if resolved is None:
        raise InputError(
            "the kind is not known",
            where=where,
            fix=f"Add a line '# kind=KIND', one of {', '.join(kinds)}, or import it with --unit.",
        )
    return resolved


def _read_row(line: str, previous_seconds: float | None, kind: Kind, where: str) -> tuple[float, float, float]:
    fields = line.split(",")
    if len(fields) != 3:
        raise InputError("not a row of three values", where=where, value=line[:80], allowed=COLUMNS)
    values = []
    for name, text in zip(COLUMNS.split(","), fields, strict=True):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        largest = math.inf if name == "time_seconds" else LARGEST[kind]
        if not (math.isfinite(value) and 0 <= value <= largest):
            allowed = "a finite number, >= 0" + ("" if math.isinf(largest) else f", at most {largest:g}")
            fix = "" if name == "time_seconds" or math.isnan(value) else _OTHER_UNITS[kind]
            fix = fix.format(command="testbed trace import FILE --out OUT.csv")
            raise InputError(f"{name} is not a value", where=where, value=text[:80], allowed=allowed, fix=fix)
        values.append(value)
    if previous_seconds is None and values[0] != 0:
        raise InputError(
            "the first time is not 0", where=where, value=fields[0], allowed="0", fix="Subtract it from every time."
        )
    if previous_seconds is not None and values[0] <= previous_seconds:
        raise InputError("times must rise", where=where, value=fields[0], allowed=f"above {previous_seconds:g}")
    return values[0], values[1], values[2]


def _trace(rows: list[tuple[float, float, float]], header: dict[str, str], kind: Kind, where: str) -> Trace:
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
    if not (math.isfinite(duration) and duration > times[-1]):
        raise InputError("the last step has no length", where=where, value=times[-1], allowed="times in seconds")
    return Trace(times, up, down, kind, duration)  # type: ignore[arg-type]  # tuples become arrays

"""Recorded traces as other people keep them: which format a file has, and its rates as a trace of ours.

- ``seconds-mbps``: two columns, seconds and Mbit/s, no header (what adaptive-streaming research passes around);
- ``gnettrack``: the CSV of G-NetTrack Pro, columns ``Timestamp``, ``DL_bitrate``, ``UL_bitrate`` in kbit/s; several
  rows in one second are averaged, ``-`` is missing;
- ``hsdpa``: the log of the Norwegian 3G commutes: Unix time, ms, latitude, longitude, bytes and ms since the last row.

Times are counted from the first one; a value holds until the next time. A file of one direction serves both.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from testbed.errors import InputError
from testbed.text_files import read_text
from testbed.traces.trace import Trace

COLUMNS = "time_seconds,up,down"
MAGIC = "# testbed trace 1"

Foreign = Literal["seconds-mbps", "gnettrack", "hsdpa"]
Format = Literal["testbed", "mahimahi", Foreign]
#: How each is called in notes and errors.
TITLES: dict[Format, str] = {
    "testbed": "a trace of ours",
    "mahimahi": "Mahimahi's, a line per 1504 bytes, its time in ms",
    "seconds-mbps": "two columns, seconds and Mbit/s",
    "gnettrack": "a log of G-NetTrack, rates in kbit/s",
    "hsdpa": "a log of bytes and ms per row, as of the Norwegian 3G commutes",
}
#: Of one user on any radio: above it a column is not in Mbit/s, or a row lies about its time.
_MOST_BITS_PER_SECOND = 1e11

_Rows = list[tuple[float, float, float]]  # seconds, up, down in bit/s


def guess(text: str) -> Format | None:
    """What a file's text looks like, from its first lines; None: like nothing that is read here."""
    lines = [line.strip() for line in text[:20_000].splitlines() if line.strip()]
    if not lines:
        return None
    if lines[0].startswith(MAGIC) or any(line.replace(" ", "") == COLUMNS for line in lines[:5]):
        return "testbed"
    if all(line.isascii() and line.isdigit() for line in lines[:5]):
        return "mahimahi"
    if "timestamp" in lines[0].lower() and re.search(r"\b[ud]l_bitrate\b", lines[0].lower()):
        return "gnettrack"
    widths = {len(_numbers(line)) for line in lines[:5]}
    return "seconds-mbps" if widths == {2} else "hsdpa" if widths == {6} else None


def way_out(text: str, path: Path) -> str:
    """What to do with a file that is no trace of ours, for an error."""
    found = guess(text)
    if found is not None:
        return f"This looks like {TITLES[found]}: testbed trace import {path} --out {path.with_suffix('.csv').name}"
    first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        if mark in first:
            return f"Its columns are separated by {name}: write commas, and a point in decimal numbers."
    return f"Other formats are read by `testbed trace import`: {', '.join(get_args(Foreign))}, mahimahi."


def read_foreign(path: Path, kind: Foreign) -> Trace:
    """Rates of a recorded trace. Raises InputError with file and line."""
    text = read_text(path, "trace", TITLES[kind])
    reader: Callable[[str, Path], tuple[_Rows, float | None]] = {
        "seconds-mbps": _seconds_mbps,
        "gnettrack": _gnettrack,
        "hsdpa": _hsdpa,
    }[kind]
    rows, end = reader(text, path)
    if not rows:
        raise InputError("a trace without a row", where=str(path), allowed=TITLES[kind])
    begin = rows[0][0]
    times, up, down = zip(*((time - begin, up, down) for time, up, down in rows), strict=True)
    last = times[-1] - times[-2] if len(times) > 1 else 1.0
    duration = times[-1] + last if end is None else end - begin
    if not (math.isfinite(duration) and duration > times[-1]):
        raise InputError("the last step has no length", where=str(path), value=times[-1], allowed=TITLES[kind])
    return Trace(times, up, down, "rate", duration).without_repeats()  # type: ignore[arg-type]  # become arrays


def _numbers(line: str) -> list[float]:
    """The values of a row; empty unless all of them are finite numbers."""
    try:
        values = [float(word) for word in re.split(r"[\s,;]+", line.strip())]
    except ValueError:
        return []
    return values if all(math.isfinite(value) for value in values) else []


def _row(line: str, width: int, where: str, allowed: str) -> list[float]:
    values = _numbers(line)
    if len(values) != width or (width == 2 and values[1] < 0):
        raise InputError("not a row of this format", where=where, value=line[:80], allowed=allowed)
    return values


def _add(rows: _Rows, time: float, up: float, down: float, where: str) -> None:
    if rows and not time > rows[-1][0]:
        raise InputError("times must rise", where=where, value=time, allowed=f"above {rows[-1][0]:g}")
    if not max(up, down) <= _MOST_BITS_PER_SECOND:
        raise InputError(
            "this is no rate of a radio link",
            where=where,
            value=f"{max(up, down):.3g} bit/s",
            allowed=f"up to {_MOST_BITS_PER_SECOND:.0e} bit/s",
            fix="Is the file of another format, or in another unit? See testbed trace import --help.",
        )
    rows.append((time, up, down))


def _seconds_mbps(text: str, path: Path) -> tuple[_Rows, float | None]:
    rows: _Rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            where = f"{path}, line {number}"
            seconds, mbits = _row(line, 2, where, "seconds and Mbit/s")
            _add(rows, seconds, mbits * 1e6, mbits * 1e6, where)
    return rows, None


def _hsdpa(text: str, path: Path) -> tuple[_Rows, float | None]:
    """A row tells what came since the one before: its rate holds up to its time."""
    rows: _Rows = []
    end: float | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        _, milliseconds, _, _, received, elapsed = _row(line, 6, where, "Unix time, ms, latitude, longitude, bytes, ms")
        if not (elapsed > 0 and received >= 0):
            raise InputError("a row without a time", where=where, value=line[:80], allowed="bytes >= 0 in ms > 0")
        rate = received * 8 / (elapsed / 1000.0)
        _add(rows, (milliseconds - elapsed) / 1000.0 if end is None else end, rate, rate, where)
        end = milliseconds / 1000.0
        if not end > rows[-1][0]:
            raise InputError("times must rise", where=where, value=milliseconds, allowed=f"above {rows[-1][0] * 1e3:g}")
    return rows, end


def _gnettrack(text: str, path: Path) -> tuple[_Rows, float | None]:
    lines = text.splitlines()
    head = next(index for index, line in enumerate(lines) if line.strip())
    delimiter = max(",;\t", key=lines[head].count)
    names = [name.strip().lower() for name in next(csv.reader([lines[head]], delimiter=delimiter))]
    columns = {name: names.index(name) for name in ("timestamp", "ul_bitrate", "dl_bitrate") if name in names}
    if "timestamp" not in columns or len(columns) < 2:
        raise InputError("not the column line", where=str(path), allowed="Timestamp, DL_bitrate, UL_bitrate")
    seconds: list[tuple[float, list[float], list[float], str]] = []  # with all rates of that second, each way
    for number, line in enumerate(lines[head + 1 :], start=head + 2):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        fields = next(csv.reader([line], delimiter=delimiter))
        if len(fields) <= max(columns.values()):
            raise InputError("a row is too short", where=where, value=line[:80], allowed=f"{len(names)} values")
        time = _time(fields[columns["timestamp"]].strip(), where)
        if not seconds or time != seconds[-1][0]:
            seconds.append((time, [], [], where))
        for name, found in (("ul_bitrate", seconds[-1][1]), ("dl_bitrate", seconds[-1][2])):
            if name in columns and (word := fields[columns[name]].strip()) not in ("-", ""):
                values = _numbers(word)
                if len(values) != 1 or values[0] < 0:
                    raise InputError(f"{name} is not a value", where=where, value=word[:80], allowed="kbit/s, or -")
                found.append(values[0] * 1e3)
    rows: _Rows = []
    for time, up, down, where in seconds:
        if len(columns) == 2:  # one direction serves both
            up = down = up or down
        if up or down:
            # missing one way: as before
            before = rows[-1][1:] if rows else (0.0, 0.0)
            means = [math.fsum(way) / len(way) if way else old for way, old in zip((up, down), before, strict=True)]
            _add(rows, time, means[0], means[1], where)
    return rows, None


def _time(text: str, where: str) -> float:
    for form in ("%Y.%m.%d_%H.%M.%S", "%Y-%m-%d %H:%M:%S", "%Y.%m.%d %H:%M:%S"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
    raise InputError("not a time", where=where, value=text[:80], allowed="2019.12.14_10.16.30")

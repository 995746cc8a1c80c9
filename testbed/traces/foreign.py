"""Recorded traces as other people keep them, as traces of ours.

Times are counted from the first one; rows of one time are averaged; a value holds until the next time, and so does the
last one that is known where one is missing. A file of one direction serves both.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from testbed.errors import InputError
from testbed.text_files import read_text
from testbed.traces.clock import moment, seconds_from_first
from testbed.traces.layouts import (
    LAYOUTS,
    TITLES,
    Layout,
    TableFormat,
    command_for,
    generic_layout,
    is_date,
)
from testbed.traces.series import Imported, Series, Wanted, make_trace, value_unit
from testbed.traces.text_table import Table, parse_table
from testbed.traces.trace import Floats


def read_foreign(path: Path, form: TableFormat, wanted: Wanted = Wanted()) -> Imported:  # noqa: B008  # frozen
    """A table as a trace. Raises InputError with file and line."""
    table = parse_table(read_text(path, "trace", TITLES[form]))
    if table is None or not table.rows:
        raise InputError("a trace without a row", where=str(path), allowed=TITLES[form])
    layout = _layout(table, form, wanted, path)
    chosen = _chosen(table, layout, wanted, str(path))
    times, clock = _times(chosen, layout, wanted, path)
    ways = [_values(chosen, name, path) if name else None for name in (layout.up, layout.down)]
    if layout.elapsed:
        return _of_bytes(chosen, layout, times, path)
    series = Series(
        times,
        up=ways[0],
        down=ways[1],
        names=(layout.up, layout.down),
        where=tuple(f"{path}, line {line}" for line in chosen.lines),
    )
    found = make_trace(series, layout.unit, wanted, str(path), layout.reference_dbm)
    columns = [f"{what} {name!r}" for what, name in (("up", layout.up), ("down", layout.down)) if name]
    said = f"{f'time {layout.time!r} ({clock})' if layout.time else f'a row every {wanted.step_seconds:g} s'}, "
    said += f"{', '.join(columns)} in {value_unit(series, layout.unit, wanted, str(path))}"
    return dataclasses.replace(found, notes=(said, *found.notes))


def _layout(table: Table, form: TableFormat, wanted: Wanted, path: Path) -> Layout:
    """The columns that are read, all of them there."""
    layout = generic_layout(table) if form == "csv" else LAYOUTS[form]
    names = [name.lower() for name in table.names]
    if layout.width and layout.width != len(table.names):
        raise InputError(
            "not a row of this format",
            where=f"{path}, line {table.lines[0]}",
            value=" ".join(table.rows[0])[:80],
            allowed=TITLES[form],
        )
    if wanted.up or wanted.down:
        # of what the layout says only time and recordings hold for other columns
        layout = dataclasses.replace(layout, up=wanted.up, down=wanted.down, unit="", elapsed="")
    elif form != "csv" and not layout.width:  # a file of one direction has one of them
        up, down = (name if name in names else "" for name in (layout.up, layout.down))
        layout = dataclasses.replace(layout, up=up, down=down)
    if wanted.step_seconds is not None:
        layout = dataclasses.replace(layout, time="")
    elif wanted.time:
        layout = dataclasses.replace(layout, time=wanted.time)
    elif not layout.time or not (layout.up or layout.down):
        raise InputError(
            "it is not clear which columns hold time and values",
            where=str(path),
            value=table.looks(),
            fix=f"Name them: {command_for(table, path)} (without a column of times: --step '1 s').",
        )
    return layout


def _chosen(table: Table, layout: Layout, wanted: Wanted, where: str) -> Table:
    """The rows of one recording. Raises InputError where there are several, and none."""
    keep = np.ones(len(table.rows), dtype=bool)
    for column, value in wanted.where:
        keep &= _column(table, table.index(column, "--where")) == value
    numbers = np.flatnonzero(keep)
    if not numbers.size:
        column = wanted.where[-1][0]
        there = dict.fromkeys(_column(table, table.index(column, "--where")).tolist())
        raise InputError(
            "no row is left",
            where="--where",
            value=", ".join(f"{name}={value}" for name, value in wanted.where),
            allowed=f"{column}: {', '.join(list(there)[:20])}",
        )
    chosen = dataclasses.replace(table, rows=[table.rows[n] for n in numbers], lines=[table.lines[n] for n in numbers])
    names = [name.lower() for name in table.names]
    for column in layout.one_of:
        if column in names:
            values = list(dict.fromkeys(_column(chosen, names.index(column)).tolist()))
            if len(values) > 1:
                raise InputError(
                    "the file holds several recordings",
                    where=where,
                    value=f"{table.names[names.index(column)]}: {', '.join(values[:20])}",
                    fix=f"Choose one: --where {table.names[names.index(column)]}={values[0]}",
                )
    return chosen


def _column(table: Table, index: int) -> NDArray[np.str_]:
    return np.array([row[index] if index < len(row) else "" for row in table.rows], dtype=np.str_)


def _times(table: Table, layout: Layout, wanted: Wanted, path: Path) -> tuple[Floats, str]:
    """Seconds from the first row, shape (rows,), and how they are written."""
    if not layout.time:
        assert wanted.step_seconds is not None
        return np.arange(len(table.rows), dtype=np.float64) * wanted.step_seconds, "rows"
    index = table.index(layout.time, f"{path}, --time" if wanted.time else str(path))
    dates = is_date(table, index)
    numbers = np.empty(len(table.rows))
    for place, (row, line) in enumerate(zip(table.rows, table.lines, strict=True)):
        text = _cell(table, row, index, f"{path}, line {line}")
        found = moment(text) if dates else None
        if not dates:
            try:
                found = table.number(text)
            except ValueError:
                found = None
        if found is None or found != found:
            allowed = "dates as in the first row" if dates else "numbers, or dates such as 2019.12.14_10.16.30"
            raise InputError("not a time", where=f"{path}, line {line}", value=text[:80], allowed=allowed)
        numbers[place] = found
    if dates:
        return numbers - numbers[0], "dates"
    return seconds_from_first(numbers, wanted.time_unit or ("ms" if layout.elapsed else None), layout.time)


def _cell(table: Table, row: list[str], index: int, where: str) -> str:
    if index >= len(row):
        text = table.separator.join(row)[:80]
        raise InputError("a row is too short", where=where, value=text, allowed=f"{len(table.names)} values")
    return row[index]


def _values(table: Table, column: str, path: Path) -> Floats:
    """Of a column, shape (rows,), nan where one is missing."""
    index = table.index(column, str(path))
    values = np.empty(len(table.rows))
    for place, (row, line) in enumerate(zip(table.rows, table.lines, strict=True)):
        where = f"{path}, line {line}"
        text = _cell(table, row, index, where)
        try:
            values[place] = table.number(text)
        except ValueError:
            raise InputError(
                f"{table.names[index]} is not a value", where=where, value=text[:80], allowed="a finite number, or -"
            ) from None
    return values


def _of_bytes(table: Table, layout: Layout, ends_seconds: Floats, path: Path) -> Imported:
    """A row tells what came since the one before: its rate holds up to its time."""
    received, elapsed = _values(table, layout.down, path), _values(table, layout.elapsed, path)
    for row, line, count, milliseconds in zip(table.rows, table.lines, received, elapsed, strict=True):
        if not (milliseconds > 0 and count >= 0):
            raise InputError(
                "a row without a time",
                where=f"{path}, line {line}",
                value=" ".join(row)[:80],
                allowed="bytes >= 0 in ms > 0",
            )
    starts = np.concatenate(([ends_seconds[0] - elapsed[0] / 1e3], ends_seconds[:-1]))
    where = tuple(f"{path}, line {line}" for line in table.lines)
    series = Series(starts - starts[0], None, received / (elapsed / 1e3), ("", "bytes in the ms before"), where)
    end = float(ends_seconds[-1] - starts[0])
    return make_trace(series, "B/s", Wanted(), str(path), None, end_seconds=end)

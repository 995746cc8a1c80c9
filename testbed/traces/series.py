"""Times and raw values of a recording, wherever they were read, as a trace."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from testbed.errors import InputError
from testbed.traces.trace import MAX_STEPS, Floats, Kind, Trace
from testbed.traces.value_units import LARGEST, REFERENCE_DBM, UNITS, spelled, unit_of_name, usual_unit

#: Of one user on any radio: above it a column is not in the unit that it is taken for, or a row lies about its time.
_MOST_BITS_PER_SECOND = 1e11
_SI: dict[Kind, str] = {"rate": "bit/s", "gain": "linear", "delay": "s", "loss": "as a ratio"}


@dataclass(frozen=True)
class Wanted:
    """What the user says of a file; empty or None: what the file says.

    ``time``, ``up``, ``down``: columns, or names of arrays. ``where``: the rows that count, (column, value). ``index``:
    of the leading axes of an array of coefficients, None for an axis that stays; ``axes``: its last ones.
    """

    time: str = ""
    up: str = ""
    down: str = ""
    unit: str = ""
    time_unit: str | None = None
    step_seconds: float | None = None
    where: tuple[tuple[str, str], ...] = ()
    reference_dbm: float | None = None
    index: tuple[int | None, ...] = ()
    axes: tuple[str, ...] = ()

    def of_a_table(self) -> bool:
        """Whether anything is said that tables of numbers alone have."""
        return bool(self.time or self.up or self.down or self.unit or self.where or self.step_seconds)


@dataclass(frozen=True)
class Series:
    """Raw values, nan where they are missing; all of shape (rows,). ``where``: each row's place, for errors."""

    times_seconds: Floats
    up: Floats | None
    down: Floats | None
    names: tuple[str, str]
    where: tuple[str, ...]


@dataclass(frozen=True)
class Imported:
    """A trace, and what was taken for what in reading it."""

    trace: Trace
    notes: tuple[str, ...]


def make_trace(
    series: Series,
    layout_unit: str,
    wanted: Wanted,
    where: str,
    reference_dbm: float | None,
    *,
    end_seconds: float | None = None,
) -> Imported:
    """``layout_unit``: of the values if nobody says otherwise. Without an end the last step is as long as the one
    before. Raises InputError."""
    unit = value_unit(series, layout_unit, wanted, where)
    reference = next((each for each in (wanted.reference_dbm, reference_dbm) if each is not None), REFERENCE_DBM)
    _require_rising(series)
    ways = [None if raw is None else _in_si(raw, unit, reference, series, where) for raw in (series.up, series.down)]
    up, down = (way if way is not None else other for way, other in zip(ways, ways[::-1], strict=True))
    assert up is not None
    assert down is not None
    times, (up, down), averaged = _one_row_a_time(series.times_seconds, (up, down))
    up, down = _filled(up), _filled(down)
    steps = times.size
    known = ~(np.isnan(up) | np.isnan(down))  # all from the first row on that has both
    if not known.any():
        raise InputError("a trace without a row", where=where, allowed=f"values in {unit}")
    times, up, down = times[known], up[known], down[known]
    if times.size > MAX_STEPS:
        raise InputError("too many rows", where=where, value=times.size, allowed=f"up to {MAX_STEPS} steps")
    begin = times[0]
    last = times[-1] - times[-2] if times.size > 1 else 1.0
    duration = float(times[-1] + last if end_seconds is None else end_seconds) - begin
    if not (math.isfinite(duration) and duration > times[-1] - begin):
        raise InputError("the last step has no length", where=where, value=float(times[-1]))
    kind = UNITS[unit].kind
    notes = [UNITS[unit].says.format(reference_dbm=reference)] if UNITS[unit].says else []
    if averaged:
        notes.append(f"rows of one time are averaged: {steps} times in {steps + averaged} rows")
    return Imported(Trace(times - begin, up, down, kind, duration).without_repeats(), tuple(notes))


def value_unit(series: Series, layout_unit: str, wanted: Wanted, where: str) -> str:
    """The unit of both directions' values. Raises InputError where nobody says it."""
    names = [name for name in series.names if name]
    if wanted.unit:
        unit = spelled(wanted.unit)
        if unit is None:
            raise InputError("unknown unit", where="--unit", value=wanted.unit, allowed=", ".join(UNITS))
        return unit
    if layout_unit:
        return layout_unit
    found = {unit_of_name(name) or usual_unit(name) for name in names}
    unit = found.pop() if len(found) == 1 else None
    if unit is None:
        raise InputError(
            "the unit of the values is not known",
            where=where,
            value=", ".join(names),
            allowed=", ".join(UNITS),
            fix="Say it: --unit Mbit/s (dB: gains below 0 or path losses above; dBm: RSRP; m: distances).",
        )
    return unit


def _require_rising(series: Series) -> None:
    falls = np.flatnonzero(np.diff(series.times_seconds) < 0)
    if falls.size:
        row = int(falls[0]) + 1
        raise InputError(
            "times must rise",
            where=series.where[row],
            value=f"{series.times_seconds[row]:.6g} s after the first",
            allowed=f"{series.times_seconds[row - 1]:.6g} s or more",
            fix="Several recordings in one file? Choose one: --where COLUMN=VALUE",
        )


def _in_si(raw: Floats, unit: str, reference_dbm: float, series: Series, where: str) -> Floats:
    """Raises InputError for what cannot be in this unit, with the first such row."""
    kind = UNITS[unit].kind
    largest = _MOST_BITS_PER_SECOND if kind == "rate" else LARGEST[kind]
    try:
        values = UNITS[unit].to_si(raw, reference_dbm)
    except ValueError as error:
        raise InputError(str(error), where=where, fix="Is the column of another unit?") from None
    bad = np.flatnonzero(~np.isnan(raw) & ~((values >= 0) & (values <= largest)))
    if UNITS[unit].may_be_negative is False:
        bad = np.union1d(bad, np.flatnonzero(raw < 0))
    if bad.size:
        what = {"rate": "this is no rate of a radio link", "gain": "this is no gain: nothing amplifies"}
        raise InputError(
            what.get(kind, f"this is no {kind}"),
            where=series.where[int(bad[0])],
            value=f"{raw[bad[0]]:.6g} {unit}",
            allowed=f"0 to {largest:g} {_SI[kind]}",
            fix="Is the file of another format, or in another unit (--unit, --tx-power)?",
        )
    return values


def _one_row_a_time(times: Floats, ways: tuple[Floats, Floats]) -> tuple[Floats, tuple[Floats, Floats], int]:
    """Means over the rows of one time, of those that are not missing; and how many rows went into others."""
    starts = np.flatnonzero(np.diff(times, prepend=-math.inf) > 0)
    if starts.size == times.size:
        return times, ways, 0
    means = []
    for values in ways:
        known = ~np.isnan(values)
        sums = np.add.reduceat(np.where(known, values, 0.0), starts)
        counts = np.add.reduceat(known.astype(np.float64), starts)
        means.append(np.divide(sums, counts, out=np.full(starts.size, np.nan), where=counts > 0))
    return times[starts], (means[0], means[1]), int(times.size - starts.size)


def _filled(values: Floats) -> Floats:
    """The last known value where one is missing."""
    places = np.where(np.isnan(values), 0, np.arange(values.size))
    return np.asarray(values[np.maximum.accumulate(places)])

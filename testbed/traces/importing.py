"""A file of somebody else as a trace of ours: what it is, how it is read, in which steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from testbed.errors import InputError
from testbed.text_files import read_text
from testbed.traces.arrays import array_format, read_arrays
from testbed.traces.files import joined, read_trace
from testbed.traces.foreign import read_foreign
from testbed.traces.layouts import TITLES, Format, guess, import_command, known_formats
from testbed.traces.mahimahi import DEFAULT_BIN_SECONDS, read_mahimahi
from testbed.traces.series import Imported, Wanted
from testbed.traces.text_table import parse_table
from testbed.traces.trace import Trace


@dataclass(frozen=True)
class ReadFile:
    """``notes``: what was taken for what, a line each."""

    trace: Trace
    format: Format
    notes: tuple[str, ...]


def import_file(
    up: Path, down: Path | None, form: Format | None, wanted: Wanted, bin_seconds: float | None
) -> ReadFile:
    """``down``: the downlink's own file. ``form``: None: by the content. ``bin_seconds``: width of the steps; None: as
    in the file. Raises InputError."""
    found = form or _format(up, wanted)
    notes = (f"{up.name} is read as {TITLES[found]}" + ("" if form else " (--format overrules that)"),)
    if found in ("mahimahi", "testbed") and wanted.of_a_table():
        raise InputError("columns and units are those of tables", where="--format", value=found, allowed="csv")
    if found == "mahimahi":
        width = DEFAULT_BIN_SECONDS if bin_seconds is None else bin_seconds
        return ReadFile(read_mahimahi(up, down, width).without_repeats(), found, notes)
    read = _read(up, found, wanted)
    trace = read.trace
    if down is not None:
        other = _read(down, found, wanted)
        trace = joined(trace, other.trace, str(down))
    if bin_seconds is not None:
        try:
            trace = trace.binned(bin_seconds).without_repeats()
        except ValueError as error:
            raise InputError(str(error), where="--bin", fix="Take a wider one.") from None
    return ReadFile(trace, found, (*notes, *read.notes))


def _format(path: Path, wanted: Wanted) -> Format:
    """Of a file by its content. Raises InputError, saying what it looks like."""
    arrays = array_format(path)
    if arrays is not None:
        return arrays
    text = read_text(path, "trace")
    found = guess(text)
    if found in (None, "testbed", "mahimahi") and wanted.of_a_table():
        return "csv"
    if found is not None:
        return found
    table = parse_table(text[:20_000])
    raise InputError(
        "no format that is known",
        where=str(path),
        value="an empty file" if table is None else table.looks(),
        allowed=", ".join(known_formats()),
        fix=f"A column of values alone: {import_command(path, '--format csv', '--up 1', '--unit UNIT', '--step STEP')}",
    )


def _read(path: Path, form: Format, wanted: Wanted) -> Imported:
    if form == "testbed":
        return Imported(read_trace(path), ())
    if form == "npy" or form == "npz" or form == "mat":  # mypy narrows these
        return read_arrays(path, form, wanted)
    assert form != "mahimahi"
    return read_foreign(path, form, wanted)

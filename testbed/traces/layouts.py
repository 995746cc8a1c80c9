"""What recorded files look like: the data sets and tools that are known, and which of them a file is.

docs/trace.md has a row for each, with its source.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from testbed.traces.clock import TIME_UNITS, moment
from testbed.traces.text_table import Table, parse_table
from testbed.traces.value_units import unit_of_name

COLUMNS = "time_seconds,up,down"
MAGIC = "# testbed trace 1"

TableFormat = Literal["gnettrack", "lumos5g", "fcc", "ns3-pathloss", "ns3-rsrp", "pensieve", "hsdpa", "csv"]
ArrayFormat = Literal["npy", "npz", "mat"]
Format = Literal["testbed", "mahimahi", TableFormat, ArrayFormat]
#: How each is called in notes and errors.
TITLES: dict[Format, str] = {
    "testbed": "a trace of ours",
    "mahimahi": "Mahimahi's, a line per 1504 bytes, its time in ms",
    "gnettrack": "a log of G-NetTrack, rates in kbit/s",
    "lumos5g": "Lumos5G's table, Throughput in Mbit/s",
    "fcc": "a table of FCC's Measuring Broadband America, bytes_sec in B/s",
    "ns3-pathloss": "path losses of ns-3's 5G-LENA, dB",
    "ns3-rsrp": "DlRsrpSinrStats of ns-3's LTE module, rsrp in W",
    "pensieve": "two columns, seconds and Mbit/s",
    "hsdpa": "a log of bytes and ms per row, as of the Norwegian 3G commutes",
    "csv": "a table",
    "npy": "an array of NumPy",
    "npz": "arrays of NumPy",
    "mat": "arrays of MATLAB",
}


@dataclass(frozen=True)
class Layout:
    """Columns of a table by their names (any case) or, from 1, by their numbers; empty: there is none.

    ``elapsed``: the values are bytes that came in so many ms before the row's time. ``one_of``: columns that tell
    recordings apart that lie in one file. ``reference_dbm``: see :mod:`testbed.traces.value_units`.
    """

    time: str = ""
    up: str = ""
    down: str = ""
    unit: str = ""
    elapsed: str = ""
    one_of: tuple[str, ...] = ()
    reference_dbm: float | None = None
    #: without a header a table is told by how many columns it has
    width: int = field(default=0)

    def columns(self) -> tuple[str, ...]:
        return tuple(name for name in (self.time, self.up, self.down) if name)


#: With 30 dBm over the 300 subcarriers of 25 resource blocks, the defaults of ns-3's LteEnbPhy.
_NS3_REFERENCE_DBM = 5.23
LAYOUTS: dict[TableFormat, Layout] = {
    "gnettrack": Layout("timestamp", "ul_bitrate", "dl_bitrate", "kbit/s"),
    "lumos5g": Layout(
        "seq_num", "", "throughput", "Mbit/s", one_of=("run_num", "mobility_mode", "trajectory_direction")
    ),
    "fcc": Layout("dtime", "", "bytes_sec", "B/s", one_of=("unit_id", "target")),
    "ns3-pathloss": Layout("time(sec)", "", "pathloss(db)", "dB", one_of=("cellid", "bwpid", "imsi")),
    "ns3-rsrp": Layout(
        "time", "", "rsrp", "W", one_of=("cellid", "imsi", "componentcarrierid"), reference_dbm=_NS3_REFERENCE_DBM
    ),
    "pensieve": Layout("1", "", "2", "Mbit/s", width=2),
    "hsdpa": Layout("2", "", "5", "B", elapsed="6", width=6),
}
_MARKS: dict[TableFormat, tuple[str, ...]] = {
    "gnettrack": ("timestamp",),  # and either rate
    "lumos5g": ("seq_num", "run_num", "throughput"),
    "fcc": ("unit_id", "dtime", "bytes_sec"),
    "ns3-pathloss": ("time(sec)", "pathloss(db)"),
    "ns3-rsrp": ("imsi", "rnti", "rsrp", "sinr"),
}

# words that a generic table's columns are known by, first come first taken
_TIME = ("time", "timestamp", "t", "seconds", "second", "epoch", "datetime", "date", "ts")
_UP = ("up", "ul", "uplink", "upload", "upstream", "txrate")
_DOWN = ("down", "dl", "downlink", "download", "downstream", "rxrate")
_EITHER: tuple[str, ...] = (
    "throughput",
    "bandwidth",
    "bitrate",
    "rate",
    "capacity",
    "pathloss",
    "path_loss",
    "path_gain",
)
_EITHER += ("gain", "rsrp", "distance", "loss", "delay", "rtt", "latency")


def guess(text: str) -> Format | None:
    """What a file's text looks like, from its first lines; None: like nothing that is read here."""
    head = text[:20_000]
    if len(text) > len(head):
        head = head[: head.rfind("\n") + 1]
    lines = [line.strip() for line in head.splitlines() if line.strip()]
    if not lines:
        return None
    if lines[0].startswith(MAGIC) or any(line.replace(" ", "") == COLUMNS for line in lines[:5]):
        return "testbed"
    if all(line.isascii() and line.isdigit() for line in lines[:5]):
        return "mahimahi"
    table = parse_table(head)
    return None if table is None else guess_table(table)


def guess_table(table: Table) -> TableFormat | None:
    """Which of the known tables it is; ``csv``: another one; None: no table of numbers."""
    names = [name.lower() for name in table.names]
    if table.has_header:
        for known, marks in _MARKS.items():
            if all(mark in names for mark in marks) and (
                known != "gnettrack" or any(LAYOUTS[known].up == name or LAYOUTS[known].down == name for name in names)
            ):
                return known
    rows = table.rows[:5]
    if len(table.names) < 2 or not any(_numbers(table, row) for row in rows):
        return None
    if not table.has_header and all(len(row) == len(table.names) == _numbers(table, row) for row in rows):
        for known, layout in LAYOUTS.items():
            if layout.width == len(table.names):
                return known
    return "csv"


def generic_layout(table: Table) -> Layout:
    """Columns of a table that is none of the known ones, as far as their names or their number tell."""
    if not table.has_header:
        return Layout("1", "2", "3" if len(table.names) > 2 else "") if len(table.names) > 1 else Layout(up="1")
    up, down = _named(table, _UP), _named(table, _DOWN)
    time = _named(table, _TIME)
    if not time and (unit_of_name(table.names[0]) in TIME_UNITS or is_date(table, 0)):
        time = table.names[0]
    return Layout(time, up or ("" if down else _named(table, _EITHER)), down)


def way_out(text: str, path: Path) -> str:
    """What to do with a file that is no trace of ours, for an error."""
    found = guess(text)
    if found == "csv":
        table = parse_table(text[:20_000])
        assert table is not None
        return f"It has {table.looks()}. Try: {command_for(table, path)}"
    if found is not None:
        return f"This looks like {TITLES[found]}: {import_command(path)}"
    return f"Other formats are read by `testbed trace import`: {', '.join(sorted(known_formats()))}."


def command_for(table: Table, path: Path) -> str:
    """The command that takes a table, with what cannot be known in capitals."""
    layout = generic_layout(table)
    options = [f"--time {shlex.quote(layout.time)}" if layout.time else "--time COL"]
    options += [f"--up {shlex.quote(layout.up)}"] if layout.up else []
    options += [f"--down {shlex.quote(layout.down)}"] if layout.down else []
    options += [] if layout.up or layout.down else ["--up COL"]
    options += [] if any(unit_of_name(name) for name in (layout.up, layout.down)) else ["--unit UNIT"]
    return import_command(path, *options)


def import_command(path: Path, *options: str) -> str:
    out = path.with_suffix(".csv").name
    out = out if out != path.name else f"{path.stem}-trace.csv"  # not the file itself
    return " ".join(["testbed trace import", shlex.quote(str(path)), *options, "--out", shlex.quote(out)])


def known_formats() -> tuple[Format, ...]:
    """All that ``--format`` takes."""
    return tuple(TITLES)


def _numbers(table: Table, row: list[str]) -> int:
    """Of cells that are a number."""
    count = 0
    for cell in row:
        try:
            count += table.number(cell) == table.number(cell)  # a missing one is none
        except ValueError:
            continue
    return count


def _named(table: Table, words: tuple[str, ...]) -> str:
    """The first column whose name, or a part of it, is one of the words; a whole name goes before a part."""
    plain = [re.sub(r"\W+", "_", name.lower()).strip("_") for name in table.names]
    for parts in ([[name] for name in plain], [[name, *name.split("_")] for name in plain]):
        for word in words:
            for name, found in zip(table.names, parts, strict=True):
                if word in found and name:
                    return name
    return ""


def is_date(table: Table, column: int) -> bool:
    """Whether a column's first cell is a date."""
    return bool(table.rows) and moment(table.rows[0][column]) is not None

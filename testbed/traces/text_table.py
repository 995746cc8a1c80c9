"""Tables of text as people pass them around: any usual separator, decimal commas, a header or none, gaps."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass

from testbed.errors import InputError
from testbed.traces.clock import moment

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", " ": "blanks"}
#: What loggers write for no value; the number is Android's UNAVAILABLE.
_MISSING = {"", "-", "--", "nan", "na", "n/a", "null", "none", "2147483647"}
_DECIMAL_COMMAS = re.compile(r"[-+]?\d+(,\d+)?(\s+[-+]?\d+,\d+)+")


@dataclass(frozen=True)
class Table:
    """Rows of cells without blanks around them; ``lines``: where each row stands in its file, from 1."""

    names: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]
    separator: str
    has_header: bool

    def index(self, column: str, where: str) -> int:
        """Of a column by its name or, from 1, by its number. Raises InputError with the names that there are."""
        for names in (self.names, tuple(name.lower() for name in self.names)):
            for wanted in (column.strip(), column.strip().lower()):
                if wanted in names:
                    return names.index(wanted)
        if column.isascii() and column.isdigit() and 1 <= int(column) <= len(self.names):
            return int(column) - 1
        raise InputError("no such column", where=where, value=column, allowed=", ".join(self.names)[:400])

    def number(self, text: str) -> float:
        """Of a cell, nan where it is missing. Raises ValueError for what is no finite number."""
        if text.lower() in _MISSING:
            return math.nan
        if "," in text and self.separator != ",":
            text = text.replace(",", ".")
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(text)
        return value

    def looks(self) -> str:
        """What the table looks like, in one line: its columns and first rows."""
        titled = f": {', '.join(self.names)}" if self.has_header else " without names"
        columns = f"{len(self.names)} column{'s' * (len(self.names) != 1)}"
        rows = " | ".join(self.separator.join(row).replace("\t", " ") for row in self.rows[:2])
        return f"{columns} separated by {_SEPARATORS[self.separator]}{titled}"[:300] + f"; first rows: {rows[:160]}"


def parse_table(text: str) -> Table | None:
    """A file's table; None if it has no row. Lines that begin with ``#`` or ``%`` are comments, the last one before
    the rows may hold the names. Without names the columns are called 1, 2, ..."""
    content: list[tuple[int, str]] = []
    comment = ""
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.strip()
        if bare[:1] in ("#", "%"):
            comment = comment if content else bare.lstrip("#% ")
        elif bare and not (not content and bare.lower().startswith("sep=")):
            content.append((number, line))
    if not content:
        return None
    separator = _separator([line for _, line in content[:5]])
    rows, lines = _cells(content, separator)
    if _is_header(rows, separator):
        return Table(tuple(rows[0]), rows[1:], lines[1:], separator, has_header=True)
    (names,), _ = _cells([(0, comment or "-")], separator)
    if len(names) == len(rows[0]) and not all(_is_number(name, separator) for name in names):
        return Table(tuple(names), rows, lines, separator, has_header=True)
    return Table(tuple(str(number + 1) for number in range(len(rows[0]))), rows, lines, separator, has_header=False)


def _separator(lines: list[str]) -> str:
    for mark in (";", "\t"):
        if all(mark in line for line in lines):
            return mark
    return "," if "," in lines[0] and not _DECIMAL_COMMAS.fullmatch(lines[-1].strip()) else " "


def _cells(content: list[tuple[int, str]], separator: str) -> tuple[list[list[str]], list[int]]:
    if separator == " ":
        return [line.split() for _, line in content], [number for number, _ in content]
    rows, lines = [], []
    reader = csv.reader((line for _, line in content), delimiter=separator, skipinitialspace=True)
    try:
        for row in reader:
            rows.append([cell.strip() for cell in row])
            lines.append(content[reader.line_num - 1][0])
    except csv.Error as error:
        number = content[min(reader.line_num, len(content)) - 1][0]
        raise InputError(f"no row of a table: {error}", where=f"line {number}") from None
    return rows, lines


def _is_header(rows: list[list[str]], separator: str) -> bool:
    """Whether the first row holds names: no values, or words above values."""
    first, second = ([_is_value(cell, separator) for cell in row] for row in (rows[0], rows[min(1, len(rows) - 1)]))
    if all(first):
        return False
    below = zip(first, second, strict=False)
    return len(rows) == 1 or not any(first) or any(value and not word for word, value in below)


def _is_value(cell: str, separator: str) -> bool:
    return _is_number(cell, separator) or moment(cell) is not None


def _is_number(cell: str, separator: str) -> bool:
    try:
        Table((), [], [], separator, has_header=False).number(cell)
    except ValueError:
        return False
    return True

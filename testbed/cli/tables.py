"""Tables in a terminal, with all that they say."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def show(table: Table) -> None:
    """Print a table in full: one wider than the terminal, or than the 80 columns of no terminal, loses no names."""
    width = Console(width=_WIDER_THAN_ANY).measure(table).maximum
    Console(width=max(width, Console().width)).print(table, highlight=False)


_WIDER_THAN_ANY = 10_000

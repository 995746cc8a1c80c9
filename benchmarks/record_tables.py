"""The columns of a run's tables in docs/runs.md, as testbed/protocol/records.py declares them.

``python -m benchmarks.pages`` writes them.
"""

from __future__ import annotations

from benchmarks import contract_tables
from testbed.protocol.records import KINDS


def columns() -> str:
    """Every kind of record: what it says, where it is kept, its columns."""
    parts = []
    for record, kind in KINDS.items():
        home = f"`{kind.stream}.parquet`" if kind.table else f"`streams/{kind.stream}.arrows`"
        rows = f", rows with `kind` `{kind.rows}`" if kind.rows else ""
        order = f" Ordered by {', '.join(f'`{name}`' for name in kind.order)}." if kind.order else ""
        parts += [f"**{home}**{rows}: {contract_tables.first_sentence(record)}{order}", ""]
        parts += [*contract_tables.table(record), ""]
    return "\n".join(parts).rstrip()

"""Whether the market of a decentralised policy came to rest: for policies whose ``state()`` has ``settled``."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from testbed.records.stored_table import parts_of
from testbed.records.tables import RunTables

_KEY = "settled"


def settled_ratio(tables: RunTables) -> float | None:
    """Part of the slots in which nobody moved any more when the rounds ended; None for a policy without a market."""
    found: list[float] = []
    for part in parts_of(tables.slots, ["policy_state"]):
        state = part["policy_state"]
        if pa.types.is_map(state.type):  # not in a run without slots
            found += pc.map_lookup(state, query_key=_KEY, occurrence="first").drop_null().to_pylist()
    return sum(found) / len(found) if found else None

"""Whether the market of a decentralised policy came to rest: for policies whose ``state()`` has ``settled``."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from testbed.records.tables import RunTables

_KEY = "settled"


def settled_ratio(tables: RunTables) -> float | None:
    """Part of the slots in which nobody moved any more when the rounds ended; None for a policy without a market."""
    state = tables.slots.column("policy_state")
    if not pa.types.is_map(state.type):  # a run without slots
        return None
    settled = pc.map_lookup(state, query_key=_KEY, occurrence="first").drop_null()
    return float(pc.mean(settled).as_py()) if len(settled) else None

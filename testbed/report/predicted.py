"""What a policy promised and what came: for policies whose ``state()`` has ``predicted_seconds.UE``."""

from __future__ import annotations

import msgspec
import numpy as np

from testbed.records.tables import STAGE_COLUMNS, RunTables, column

_KEY = "predicted_seconds."


class Predicted(msgspec.Struct, frozen=True):
    """One UE's completed tasks, from their start on: who waits for the task before it was not promised otherwise."""

    tasks: int
    predicted_seconds: float  # mean, under the decision that each task took
    measured_seconds: float  # mean of E2E delay less ue_queue
    ratio: float  # measured / predicted
    largest_error_ratio: float  # of a single task


def predictions(tables: RunTables) -> dict[str, Predicted]:
    """By UE. Tasks whose decision promised nothing (that before the policy's first) do not count."""
    promised: dict[tuple[str, int], float] = {}
    slots = tables.slots.select(["ue", "decision_sequence", "policy_state"]).to_pylist()
    for row in slots:
        for key, value in row["policy_state"] or ():
            if key == _KEY + row["ue"]:
                promised.setdefault((row["ue"], row["decision_sequence"]), value)
    if not promised:
        return {}
    done = tables.tasks.filter(column(tables.tasks, "status") == "completed")
    found: dict[str, list[tuple[float, float]]] = {}
    for row in done.select(["ue", "decision_sequence", "e2e_delay_seconds", STAGE_COLUMNS["ue_queue"]]).to_pylist():
        expected = promised.get((row["ue"], row["decision_sequence"]))
        if expected is not None:
            measured = row["e2e_delay_seconds"] - row[STAGE_COLUMNS["ue_queue"]]
            found.setdefault(row["ue"], []).append((expected, measured))
    return {ue: _of(np.array(pairs)) for ue, pairs in sorted(found.items())}


def _of(pairs: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Predicted:
    expected, measured = pairs.T
    return Predicted(
        tasks=len(pairs),
        predicted_seconds=float(expected.mean()),
        measured_seconds=float(measured.mean()),
        ratio=float(measured.mean() / expected.mean()),
        largest_error_ratio=float(np.abs(measured / expected - 1).max()),
    )

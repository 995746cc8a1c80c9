"""What a policy promised and what came: for policies whose ``state()`` has ``predicted_seconds.UE``."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from testbed.records.stored_table import parts_of
from testbed.records.tables import STAGE_COLUMNS, RunTables, Table, column

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
    promised = _promises(tables)
    if not promised:
        return {}
    done = tables.tasks.filter(column(tables.tasks, "status") == "completed")
    ues, sequences = column(done, "ue"), column(done, "decision_sequence")
    measured = column(done, "e2e_delay_seconds") - column(done, STAGE_COLUMNS["ue_queue"])
    found = {}
    for ue, (known, values) in sorted(promised.items()):
        mine = ues == ue
        at = np.minimum(np.searchsorted(known, sequences[mine]), len(known) - 1)
        kept = known[at] == sequences[mine]
        if kept.any():
            found[ue] = _of(values[at[kept]], measured[mine][kept])
    return found


def state_numbers(slots: Table, prefix: str = "") -> Iterator[tuple[pa.Table, NDArray[np.int64], pa.Array, pa.Array]]:
    """The numbers of a policy's ``state()`` whose names begin so, by parts of the slots.

    Yields the part (``ue``, ``decision_sequence``), and of each number its row there, its name and its value.
    """
    for part in parts_of(slots, ["ue", "decision_sequence", "policy_state"]):
        states = part["policy_state"].combine_chunks()
        bounds = states.offsets.to_numpy()
        begin, count = bounds[0], bounds[-1] - bounds[0]
        names, values = states.keys.slice(begin, count), states.items.slice(begin, count)
        wanted = pc.starts_with(names, prefix)
        rows = np.repeat(np.arange(len(states)), np.diff(bounds))[wanted.to_numpy(zero_copy_only=False)]
        yield part, rows, names.filter(wanted), values.filter(wanted)


def _promises(tables: RunTables) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """By UE, numbers of decisions in order, and the seconds that the policy first promised with each."""
    found: dict[str, list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = {}
    for part, rows, names, values in state_numbers(tables.slots, _KEY):
        ues = column(part, "ue")[rows]
        own = ues == np.array([name.removeprefix(_KEY) for name in names.to_pylist()], dtype=object)
        ues, numbers = ues[own], values.to_numpy(zero_copy_only=False)[own]
        sequences = column(part, "decision_sequence")[rows[own]]
        for ue in set(ues):
            found.setdefault(ue, []).append((sequences[ues == ue], numbers[ues == ue]))
    promised = {}
    for ue, pieces in found.items():
        sequences, numbers = (np.concatenate(one) for one in zip(*pieces, strict=True))
        known, first = np.unique(sequences, return_index=True)
        promised[ue] = known, numbers[first]
    return promised


def _of(expected: NDArray[np.float64], measured: NDArray[np.float64]) -> Predicted:
    return Predicted(
        tasks=len(expected),
        predicted_seconds=float(expected.mean()),
        measured_seconds=float(measured.mean()),
        ratio=float(measured.mean() / expected.mean()),
        largest_error_ratio=float(np.abs(measured / expected - 1).max()),
    )

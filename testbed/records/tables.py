"""From the record streams of a run, alive or dead, to its Parquet tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from controller.contract import STAGES
from testbed.errors import InputError
from testbed.protocol.records import kinds_of, table_names
from testbed.records.run_format import require_known
from testbed.records.stored_table import PART_ROWS, StoredTable, parts_of
from testbed.records.streams import SCHEMAS, Stream, stream_parts, streams_directory

#: Stamps of a task in order; a stage lies between two neighbours, so the stages of a task sum to its E2E delay.
STAMPS = (
    "arrival_seconds",
    "head_start_seconds",
    "head_end_seconds",
    "transfer_start_seconds",
    "received_seconds",
    "tail_start_seconds",
    "tail_end_seconds",
    "result_received_seconds",
)
STAGE_COLUMNS = {stage: f"stage_{stage}_seconds" for stage in STAGES}


#: In memory (of a simulation), or where it lies.
Table: TypeAlias = pa.Table | StoredTable


class RunTables:
    """The tables of a run, as in its directory, by name as attributes; of those that are not given, there are no rows.

    ``tasks`` has a row per task that arrived: the fields of TaskRecord (NaN or null where the task never got there),
    ``status`` also ``in_flight``; ``e2e_delay_seconds`` and ``stage_*_seconds``; ``announced`` (its arrival was
    recorded) and ``records`` (how often its end was: anything but 1 for an ended task is an error of the testbed).
    """

    def __init__(self, tasks: Table, **others: Table) -> None:
        given = {"tasks": tasks, **others}
        self.by_name: dict[str, Table] = {
            name: given.pop(name) if name in given else SCHEMAS[name].empty_table() for name in table_names()
        }
        if given:
            raise TypeError(f"a run has no tables {', '.join(given)}")

    def __getattr__(self, name: str) -> Table:
        if name == "by_name" or name not in self.by_name:  # while it is unpickled there is not even the former
            raise AttributeError(f"a run has no table {name!r}, but {', '.join(table_names())}")
        return self.by_name[name]

    def replaced(self, **tables: Table) -> RunTables:
        """The same with some tables in place of their own."""
        return RunTables(**{**self.by_name, **tables})


def column(table: Table, name: str) -> NDArray[Any]:
    """A column of a table, in memory or stored, as a numpy array; of text an array of objects, each text once."""
    values = table[name]
    if not pa.types.is_string(values.type):
        plain: NDArray[Any] = values.to_numpy(zero_copy_only=False)
        return plain
    encoded = values.combine_chunks().dictionary_encode()
    texts = np.array([*encoded.dictionary.to_pylist(), None], dtype=object)
    found: NDArray[Any] = texts[encoded.indices.fill_null(len(texts) - 1).to_numpy(zero_copy_only=False)]
    return found


def finalise(run_directory: Path, died: Mapping[str, str] = MappingProxyType({})) -> RunTables:
    """Turn the streams into Parquet and return the tables. Idempotent; a living run gives its state so far.

    However long the run was, a part of it is in memory at a time; of every row only the numbers that order them.

    ``died``: programs that ended before the run, by node, besides those that said so themselves.

    Raises InputError if the directory has neither streams nor tables.
    """
    require_known(run_directory)
    directory = streams_directory(run_directory)
    if not stream_parts(directory, "tasks"):
        return read_tables(run_directory)
    ended, arrived, events = (Stream(directory, name) for name in ("tasks", "arrivals", "events"))
    _write(run_directory, "tasks", joined(ended, arrived, {**died, **deaths(events.read())}))
    for name in table_names():
        if name != "tasks":
            _write(run_directory, name, _ordered(Stream(directory, name), kinds_of(name)[0].order))
    return read_tables(run_directory)


def _ordered(stream: Stream, keys: Sequence[str]) -> Iterator[pa.Table]:
    """Parts of a stream by its keys; what they do not tell apart, and all without keys, in the order of writing."""
    yield stream.schema.empty_table()
    if not keys:
        yield from stream.parts()
        return
    sort_keys = [(key, "ascending") for key in keys]
    order = pc.sort_indices(stream.read(keys), sort_keys=sort_keys).to_numpy().astype(np.int64)
    for begin in range(0, len(order), PART_ROWS):
        yield stream.take(order[begin : begin + PART_ROWS])


def write_tables(tables: RunTables, run_directory: Path) -> None:
    """One Parquet file per table."""
    for name, table in tables.by_name.items():
        parts = parts_of(table, table.schema.names)
        _write(run_directory, name, itertools.chain([table.schema.empty_table()], parts))


def _write(run_directory: Path, name: str, parts: Iterator[pa.Table]) -> None:
    """One table of at least one part."""
    path = run_directory / f"{name}.parquet"
    partial = path.with_suffix(".parquet.partial")
    first = next(parts)
    with pq.ParquetWriter(partial, first.schema, compression="zstd") as writer:
        for part in itertools.chain([first], parts):
            if len(part):
                writer.write_table(part.replace_schema_metadata(first.schema.metadata), row_group_size=PART_ROWS)
    partial.replace(path)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """One table, or some of its columns. Raises InputError for a run of another version, FileNotFoundError."""
    stored = open_table(path)
    return stored.to_table() if columns is None else stored.select(columns)


def open_table(path: Path) -> StoredTable:
    """One table of a run where it lies. Raises InputError for a run of another version, FileNotFoundError."""
    require_known(path.parent)
    return StoredTable.open(path)


def read_tables(run_directory: Path) -> RunTables:
    """The tables of a finished run, where they lie. Raises InputError where they are not, or are of another version."""
    try:
        paths = {name: run_directory / f"{name}.parquet" for name in table_names()}
        return RunTables(
            **{name: open_table(path) for name, path in paths.items() if path.exists() or not kinds_of(name)[0].later}
        )
    except FileNotFoundError as error:
        raise InputError(
            "the run has no records",
            where=str(run_directory),
            allowed="a run directory with streams/*.arrows or *.parquet",
            fix="See its logs/ for why the recorder never wrote.",
        ) from error


def deaths(events: Table) -> dict[str, str]:
    """What programs said of their own end, by node."""
    rows = (events["node"].to_pylist(), events["kind"].to_pylist(), events["text"].to_pylist())
    return {node: text or kind for node, kind, text in zip(*rows, strict=True) if kind == "died"}


@dataclass(frozen=True)
class _TaskRows:
    """What the table of tasks has in each of its rows, as numpy arrays of equal length."""

    ended: NDArray[np.int64]  # the row of its first end in the stream of ends; -1: it has none
    ue: NDArray[np.int32]  # in ``ues``
    ues: pa.Array
    task: NDArray[np.int64]
    arrival_seconds: NDArray[np.float64]
    announced: NDArray[np.bool_]
    records: NDArray[np.int64]


def _task_rows(ended: Stream, arrived: Stream) -> _TaskRows:
    """One row per task that ended or arrived, in the order of arrival."""
    key = ["ue", "task", "arrival_seconds"]
    both = pa.concat_tables([ended.read(key), arrived.read(key)])
    named = both["ue"].combine_chunks().dictionary_encode()
    by_name = np.argsort(named.dictionary.to_numpy(zero_copy_only=False))
    ue = np.argsort(by_name).astype(np.int32)[named.indices.to_numpy()]
    task, arrival = both["task"].to_numpy(), both["arrival_seconds"].to_numpy()
    order = np.lexsort((task, ue))  # stable: of one task its ends come first, in the order of writing
    changes = (np.diff(ue[order]) != 0) | (np.diff(task[order]) != 0)
    begins = np.flatnonzero(np.concatenate([[True], changes])[: len(order)])
    first, rows = order[begins], np.diff(begins, append=len(order))
    records = np.add.reduceat((order < len(ended)).astype(np.int64), begins)
    last = np.lexsort((task[first], ue[first], arrival[first]))
    first, rows, records = first[last], rows[last], records[last]
    return _TaskRows(
        ended=np.where(first < len(ended), first, -1),
        ue=ue[first],
        ues=named.dictionary.take(pa.array(by_name)),
        task=task[first],
        arrival_seconds=arrival[first],
        announced=rows > records,
        records=records,
    )


def joined(ended: Stream, arrived: Stream, died: Mapping[str, str]) -> Iterator[pa.Table]:
    """The table of tasks by parts: one row per task, what ended, and what arrived and did not."""
    rows = _task_rows(ended, arrived)
    for begin in range(0, max(len(rows.task), 1), PART_ROWS):  # without tasks one part without rows
        part = slice(begin, begin + PART_ROWS)
        tasks = ended.take(rows.ended[part])
        ues = rows.ues.take(pa.array(rows.ue[part]))
        endless = pc.is_null(tasks["status"])
        where = pc.index_in(ues, value_set=pa.array(list(died), pa.string()))
        why = pc.coalesce(pc.take(pa.array(list(died.values()), pa.string()), where), pa.scalar(""))
        what = pc.if_else(pc.is_valid(where), "failed", "in_flight")
        tasks = _replace(tasks, "ue", ues)
        tasks = _replace(tasks, "task", pa.array(rows.task[part]))
        tasks = _replace(tasks, "arrival_seconds", pa.array(rows.arrival_seconds[part]))
        tasks = _replace(tasks, "status", pc.if_else(endless, what, tasks["status"]))
        tasks = _replace(tasks, "reason", pc.if_else(endless, why, tasks["reason"]))
        tasks = tasks.append_column("announced", pa.array(rows.announced[part]))
        tasks = tasks.append_column("records", pa.array(rows.records[part]))
        yield with_stages(tasks)


def with_stages(tasks: pa.Table) -> pa.Table:
    """Tasks with their E2E delay and stages, from their stamps."""
    stamps = [tasks[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in STAMPS]
    tasks = tasks.append_column("e2e_delay_seconds", pa.array(stamps[-1] - stamps[0]))
    for index, stage in enumerate(STAGES):
        tasks = tasks.append_column(STAGE_COLUMNS[stage], pa.array(stamps[index + 1] - stamps[index]))
    return tasks


def _replace(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)

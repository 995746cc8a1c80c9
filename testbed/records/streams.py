"""The record streams of a run: one Arrow IPC stream per kind of record, readable up to the last flush after a crash."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from testbed.protocol.record import Record
from testbed.protocol.records import KINDS, kinds_of, stream_names
from testbed.records.stored_table import PART_ROWS

_ARROW_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    dict[str, float]: pa.map_(pa.string(), pa.float64()),
}


def _schema(stream: str) -> pa.Schema:
    """Its kinds' fields; of a stream of several, ``kind`` says which a row is, and columns of the others are null."""
    kinds = kinds_of(stream)
    columns = {"kind": pa.string()} if len(kinds) > 1 else {}
    for kind in kinds:
        hints = get_type_hints(kind.record)
        columns |= {name: _ARROW_TYPES[hints[name]] for name in kind.record.__struct_fields__}
    return pa.schema(columns)


#: By name of the stream.
SCHEMAS: dict[str, pa.Schema] = {stream: _schema(stream) for stream in stream_names()}

#: A batch holds what came in a second: each column of it takes more memory than its few values.
MERGED_BATCHES = 500
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def streams_directory(run_directory: Path) -> Path:
    return run_directory / "streams"


def _cell(row: Record, column: str) -> Any:
    if column == "kind" and (rows := KINDS[type(row)].rows):
        return rows
    value = getattr(row, column, None)
    return list(value.items()) if isinstance(value, dict) else value


#: What Arrow raises for a value that its column cannot hold: an integer of 2^63 or more, for one.
UNFIT = (pa.ArrowException, ValueError, TypeError, OverflowError)


def to_batch(rows: Sequence[Record], schema: pa.Schema) -> pa.RecordBatch:
    """Rows as one batch. Raises one of UNFIT."""
    return pa.record_batch(
        [pa.array([_cell(row, field.name) for row in rows], type=field.type) for field in schema], schema=schema
    )


class StreamWriter:
    """Appends batches to one stream file; what :meth:`write` returned from survives a kill -9 of the process.

    A run directory that already has this stream (the recorder was restarted) gets ``NAME-2.arrows`` and so on: the old
    file may end in half a batch, behind which nothing could be read.
    """

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.schema = SCHEMAS[name]
        part = len(stream_parts(directory, name)) + 1
        self.path = directory / (f"{name}.arrows" if part == 1 else f"{name}-{part}.arrows")
        # Unbuffered, so that a full disk is reported by the write that met it.
        self._file = self.path.open("xb", buffering=0)
        self._whole_bytes = 0
        self._append(self.schema.serialize())

    def write(self, rows: Sequence[Record]) -> list[Record]:
        """Append a batch; returns the rows that are not in it, since no column holds their values.

        Raises OSError when the disk is full: then the file ends with the batch before, and may be written to again.
        """
        unfit: list[Record] = []
        try:
            batch = to_batch(rows, self.schema)
        except UNFIT:
            fit: list[Record] = []
            for row in rows:
                (fit if self._fits(row) else unfit).append(row)
            batch = to_batch(fit, self.schema)
        self._append(batch.serialize())
        return unfit

    def close(self) -> None:
        """A stream is as readable without its end, so a full disk is no matter here."""
        with self._file, contextlib.suppress(OSError):
            self._append(_END_OF_STREAM)

    def _fits(self, row: Record) -> bool:
        try:
            to_batch([row], self.schema)
        except UNFIT:
            return False
        return True

    def _append(self, data: Any) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            # Behind a part of a batch nothing could be read.
            self._file.truncate(self._whole_bytes)
            self._file.seek(self._whole_bytes)
            raise
        self._whole_bytes += len(memoryview(data).cast("B"))


def stream_parts(directory: Path, name: str) -> list[Path]:
    """Files of one stream in the order of writing."""
    later = sorted(directory.glob(f"{name}-*.arrows"), key=lambda path: int(path.stem.rpartition("-")[2]))
    first = directory / f"{name}.arrows"
    return [first, *later] if first.exists() else later


@dataclass(frozen=True)
class _Batch:
    """Where a batch lies."""

    path: Path
    offset: int
    first_row: int
    schema: pa.Schema


class Stream:
    """One stream of a run directory, on disk: as many rows as it has when this is made.

    A file that ends in half a batch (its writer died) has what came before. Only where batches lie is kept in memory.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.schema = SCHEMAS[name]
        self._batches: list[_Batch] = []
        self._rows = 0
        for path in stream_parts(directory, name):
            if path.stat().st_size:  # else the disk was full when it was opened
                with contextlib.suppress(StopIteration, pa.ArrowInvalid, OSError):
                    self._find_batches(path)

    def _find_batches(self, path: Path) -> None:
        with pa.OSFile(str(path)) as source:
            reader = pa.ipc.open_stream(source)
            while True:
                offset = source.tell()
                batch = reader.read_next_batch()
                self._batches.append(_Batch(path, offset, self._rows, reader.schema))
                self._rows += len(batch)

    def __len__(self) -> int:
        return self._rows

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows in the order of writing, as tables of about PART_ROWS rows; of none there is no part."""
        names = self.schema.names if columns is None else list(columns)
        whole = (self._read(batch).select(names) for batch in self._batches)
        return merged(whole, pa.schema([self.schema.field(name) for name in names]))

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Some columns (default: all) of all rows."""
        names = self.schema.names if columns is None else list(columns)
        parts = list(self.parts(names))
        empty = pa.schema([self.schema.field(name) for name in names]).empty_table()
        return pa.concat_tables(parts) if parts else empty

    def take(self, rows: NDArray[np.int64]) -> pa.Table:
        """Rows by their number, in that order; -1 gives one of nulls. Only they are in memory at once."""
        wanted = np.unique(rows[rows >= 0])
        firsts = np.array([batch.first_row for batch in self._batches], dtype=np.int64)
        holders, begins = np.unique(np.searchsorted(firsts, wanted, side="right") - 1, return_index=True)
        bounds = itertools.pairwise([*begins.tolist(), len(wanted)])

        def found() -> Iterator[pa.RecordBatch]:
            for holder, (begin, end) in zip(holders.tolist(), bounds, strict=True):
                batch = self._batches[holder]
                yield self._read(batch).take(pa.array(wanted[begin:end] - batch.first_row))

        parts = list(merged(found(), self.schema))
        table = pa.concat_tables(parts).combine_chunks() if parts else self.schema.empty_table()
        return table.take(pa.array(np.searchsorted(wanted, rows), mask=rows < 0))

    def _read(self, batch: _Batch) -> pa.RecordBatch:
        with pa.OSFile(str(batch.path)) as source:
            source.seek(batch.offset)
            return _complete(pa.ipc.read_record_batch(pa.ipc.read_message(source), batch.schema), self.schema)


def merged(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Batches by tables of about PART_ROWS rows or MERGED_BATCHES batches, each in one piece."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += len(batch)
        if rows >= PART_ROWS or len(waiting) >= MERGED_BATCHES:
            yield pa.Table.from_batches(waiting, schema=schema).combine_chunks()
            waiting, rows = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting, schema=schema).combine_chunks()


def read_stream(directory: Path, name: str) -> pa.Table:
    """All whole batches of a stream, in memory."""
    return Stream(directory, name).read()


def _complete(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Columns that records did not have when this was written are null."""
    if batch.schema.equals(schema):
        return batch
    known = {name: batch.column(name) for name in batch.schema.names}
    columns = [known.get(field.name, pa.nulls(len(batch), field.type)) for field in schema]
    return pa.record_batch(columns, schema=schema)

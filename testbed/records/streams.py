"""The record streams of a run: one Arrow IPC stream per kind of record, readable up to the last flush after a crash."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow as pa

from testbed.protocol.messages import (
    ChannelDrops,
    EdgeHealth,
    Event,
    HostHealth,
    LinkStep,
    ModelUpdate,
    NodeHealth,
    Record,
    RoundTrips,
    SegmentRecord,
    SlotRecord,
    TaskArrived,
    TaskRecord,
    UploadRecord,
)

_ARROW_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    dict[str, float]: pa.map_(pa.string(), pa.float64()),
}


def _fields(kind: type) -> dict[str, pa.DataType]:
    hints = get_type_hints(kind)
    return {name: _ARROW_TYPES[hints[name]] for name in kind.__struct_fields__}  # type: ignore[attr-defined]


HEALTH_KINDS: dict[type, str] = {NodeHealth: "node", EdgeHealth: "edge", HostHealth: "host"}

#: Stream name -> schema. ``health`` holds three kinds of rows; columns of the other kinds are null.
SCHEMAS: dict[str, pa.Schema] = {
    "tasks": pa.schema(_fields(TaskRecord)),
    "arrivals": pa.schema(_fields(TaskArrived)),
    "slots": pa.schema(_fields(SlotRecord)),
    "links": pa.schema(_fields(LinkStep)),
    "drops": pa.schema(_fields(ChannelDrops)),
    "round_trips": pa.schema(_fields(RoundTrips)),
    "health": pa.schema(
        {"kind": pa.string(), **_fields(NodeHealth), **_fields(EdgeHealth), **_fields(HostHealth)},
    ),
    "events": pa.schema(_fields(Event)),
    "updates": pa.schema(_fields(ModelUpdate)),
    "segments": pa.schema(_fields(SegmentRecord)),
    "uploads": pa.schema(_fields(UploadRecord)),
}

STREAM_OF: dict[type, str] = {
    TaskRecord: "tasks",
    TaskArrived: "arrivals",
    SlotRecord: "slots",
    LinkStep: "links",
    ChannelDrops: "drops",
    RoundTrips: "round_trips",
    NodeHealth: "health",
    EdgeHealth: "health",
    HostHealth: "health",
    Event: "events",
    ModelUpdate: "updates",
    SegmentRecord: "segments",
    UploadRecord: "uploads",
}

#: A batch holds what came in a second: each column of it takes more memory than its few values.
MERGED_BATCHES = 500
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def streams_directory(run_directory: Path) -> Path:
    return run_directory / "streams"


def _cell(row: Record, column: str) -> Any:
    if column == "kind" and type(row) in HEALTH_KINDS:
        return HEALTH_KINDS[type(row)]
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


def read_stream(directory: Path, name: str) -> pa.Table:
    """All whole batches of a stream. A file that ends in half a batch (its writer died) gives what came before."""
    schema = SCHEMAS[name]
    tables: list[pa.Table] = []
    batches: list[pa.RecordBatch] = []

    def merge() -> None:
        tables.append(pa.Table.from_batches(batches, schema=schema).combine_chunks())
        batches.clear()

    for path in stream_parts(directory, name):
        if not path.stat().st_size:  # the disk was full when it was opened
            continue
        with pa.memory_map(str(path)) as source:
            try:
                reader = pa.ipc.open_stream(source)
                while True:
                    batches.append(_complete(reader.read_next_batch(), schema))
                    if len(batches) >= MERGED_BATCHES:
                        merge()
            except (StopIteration, pa.ArrowInvalid, OSError):
                continue
    merge()
    return pa.concat_tables(tables)


def _complete(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Columns that records did not have when this was written are null."""
    if batch.schema.equals(schema):
        return batch
    known = {name: batch.column(name) for name in batch.schema.names}
    columns = [known.get(field.name, pa.nulls(len(batch), field.type)) for field in schema]
    return pa.record_batch(columns, schema=schema)

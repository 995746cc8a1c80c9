"""From the record streams of a run, alive or dead, to its Parquet tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from controller.contract import STAGES
from testbed.errors import InputError
from testbed.records.streams import SCHEMAS, read_stream, stream_parts, streams_directory

#: Of the tables' columns and their meaning, in the metadata of every file.
TABLE_VERSION = 1
_VERSION_KEY = b"testbed.table_version"
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
_TABLES = ("tasks", "slots", "links", "drops", "round_trips", "health", "events", "updates", "segments", "uploads")


@dataclass(frozen=True)
class RunTables:
    """The tables of a run, as in its directory.

    ``tasks`` has a row per task that arrived: the fields of TaskRecord (NaN or null where the task never got there),
    ``status`` also ``in_flight``; ``e2e_delay_seconds`` and ``stage_*_seconds``; ``announced`` (its arrival was
    recorded) and ``records`` (how often its end was: anything but 1 for an ended task is an error of the testbed).
    """

    tasks: pa.Table
    slots: pa.Table
    links: pa.Table
    drops: pa.Table
    round_trips: pa.Table
    health: pa.Table
    events: pa.Table
    updates: pa.Table = field(default_factory=SCHEMAS["updates"].empty_table)  # models that moved
    segments: pa.Table = field(default_factory=SCHEMAS["segments"].empty_table)  # of tasks that alternate
    uploads: pa.Table = field(default_factory=SCHEMAS["uploads"].empty_table)  # parameters and values on their way


def column(table: pa.Table, name: str) -> NDArray[Any]:
    """A column as a numpy array (objects for text)."""
    values: NDArray[Any] = table[name].to_numpy(zero_copy_only=False)
    return values


def finalise(run_directory: Path, died: Mapping[str, str] = MappingProxyType({})) -> RunTables:
    """Turn the streams into Parquet and return the tables. Idempotent; a living run gives its state so far.

    ``died``: programs that ended before the run, by node, besides those that said so themselves.

    Raises InputError if the directory has neither streams nor tables.
    """
    directory = streams_directory(run_directory)
    if not stream_parts(directory, "tasks"):
        return read_tables(run_directory)
    streams = {name: read_stream(directory, name) for name in SCHEMAS}
    tables = RunTables(
        tasks=_join(streams["tasks"], streams["arrivals"], {**died, **deaths(streams["events"])}),
        slots=streams["slots"].sort_by([("slot", "ascending"), ("ue", "ascending")]),
        links=streams["links"].sort_by("applied_seconds"),
        drops=streams["drops"],
        round_trips=streams["round_trips"],
        health=streams["health"],
        events=streams["events"].sort_by("monotonic_seconds"),
        updates=streams["updates"],
        segments=streams["segments"].sort_by([(key, "ascending") for key in ("ue", "task", "start_seconds")]),
        uploads=streams["uploads"].sort_by([(key, "ascending") for key in ("ue", "task", "queued_seconds")]),
    )
    write_tables(tables, run_directory)
    return tables


def write_tables(tables: RunTables, run_directory: Path) -> None:
    """One Parquet file per table."""
    for name in _TABLES:
        path = run_directory / f"{name}.parquet"
        partial = path.with_suffix(".parquet.partial")
        table: pa.Table = getattr(tables, name)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _VERSION_KEY: str(TABLE_VERSION)})
        pq.write_table(table, partial, compression="zstd")
        partial.replace(path)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """One table, or some of its columns. Raises InputError for one of another version, FileNotFoundError."""
    table = pq.read_table(path, columns=None if columns is None else list(columns))
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"1").decode()  # none: before there were versions
    if version != str(TABLE_VERSION):
        raise InputError(
            "the table was written by another version of the testbed",
            where=str(path),
            value=f"version {version}",
            allowed=str(TABLE_VERSION),
            fix="If the run's streams/ are there, remove the *.parquet and make them anew: testbed report RUN.",
        )
    return table


def read_tables(run_directory: Path) -> RunTables:
    """The tables of a finished run. Raises InputError where they are not, or are of another version."""
    try:
        paths = {name: run_directory / f"{name}.parquet" for name in _TABLES}
        for later in ("updates", "segments", "uploads"):  # a run may be from before models moved
            if not paths[later].exists():
                del paths[later]
        return RunTables(**{name: read_table(path) for name, path in paths.items()})
    except FileNotFoundError as error:
        raise InputError(
            "the run has no records",
            where=str(run_directory),
            allowed="a run directory with streams/*.arrows or *.parquet",
            fix="See its logs/ for why the recorder never wrote.",
        ) from error


def deaths(events: pa.Table) -> dict[str, str]:
    """What programs said of their own end, by node."""
    rows = (events["node"].to_pylist(), events["kind"].to_pylist(), events["text"].to_pylist())
    return {node: text or kind for node, kind, text in zip(*rows, strict=True) if kind == "died"}


def _join(ended: pa.Table, arrived: pa.Table, died: Mapping[str, str]) -> pa.Table:
    """One row per task: what ended, and what arrived and did not."""
    key = ["ue", "task"]
    counts = ended.group_by(key).aggregate([([], "count_all")]).rename_columns([*key, "records"])
    first = _first_of_each(ended)
    announced = _first_of_each(arrived)
    announced = announced.append_column("announced", pa.array(np.ones(len(announced), dtype=bool)))
    tasks = announced.rename_columns({"arrival_seconds": "announced_seconds"}).join(
        first, keys=key, join_type="full outer"
    )
    tasks = tasks.join(counts, keys=key, join_type="left outer")
    endless = pc.is_null(tasks["status"])
    where = pc.index_in(tasks["ue"], value_set=pa.array(list(died), pa.string()))
    why = pc.coalesce(pc.take(pa.array(list(died.values()), pa.string()), where), pa.scalar(""))
    what = pc.if_else(pc.is_valid(where), "failed", "in_flight")
    tasks = _replace(tasks, "status", pc.if_else(endless, what, tasks["status"]))
    tasks = _replace(tasks, "reason", pc.if_else(endless, why, tasks["reason"]))
    tasks = _replace(tasks, "records", pc.coalesce(tasks["records"], pa.scalar(0, pa.int64())))
    tasks = _replace(tasks, "announced", pc.coalesce(tasks["announced"], pa.scalar(False)))
    tasks = _replace(tasks, "arrival_seconds", pc.coalesce(tasks["arrival_seconds"], tasks["announced_seconds"]))
    tasks = tasks.select([*SCHEMAS["tasks"].names, "announced", "records"]).sort_by(
        [("arrival_seconds", "ascending"), ("ue", "ascending"), ("task", "ascending")]
    )
    return with_stages(tasks)


def with_stages(tasks: pa.Table) -> pa.Table:
    """Tasks with their E2E delay and stages, from their stamps."""
    stamps = [tasks[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in STAMPS]
    tasks = tasks.append_column("e2e_delay_seconds", pa.array(stamps[-1] - stamps[0]))
    for index, stage in enumerate(STAGES):
        tasks = tasks.append_column(STAGE_COLUMNS[stage], pa.array(stamps[index + 1] - stamps[index]))
    return tasks


def _first_of_each(table: pa.Table) -> pa.Table:
    numbered = table.append_column("row", pa.array(np.arange(len(table))))
    firsts = numbered.group_by(["ue", "task"]).aggregate([("row", "min")])["row_min"].to_numpy()
    return table.take(np.sort(firsts))


def _replace(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)

"""A table of a run where it lies on disk: only the columns that are being looked at are in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

#: Rows that are read and written at once: the row groups of the Parquet files.
PART_ROWS = 1 << 14


class StoredTable:
    """The part of :class:`pyarrow.Table` that is used here, over a Parquet file.

    Rows that :meth:`filter` left out are left out of each column when it is read. What replaces the file later is not
    seen.
    """

    def __init__(self, file: pq.ParquetFile, chosen: pa.BooleanArray | None = None, rows: int | None = None) -> None:
        self._file = file
        self._chosen = chosen
        self._rows = file.metadata.num_rows if rows is None else rows

    @classmethod
    def open(cls, path: Path) -> StoredTable:
        """Raises FileNotFoundError."""
        return cls(pq.ParquetFile(path))

    @property
    def schema(self) -> pa.Schema:
        return self._file.schema_arrow

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        return self.select([name])[name]

    def select(self, names: Sequence[str]) -> pa.Table:
        """Some columns, in memory. Raises KeyError for one that the table lacks."""
        missing = [name for name in names if name not in self.schema.names]
        if missing:
            raise KeyError(missing[0])
        table = self._file.read(columns=list(names), use_threads=False)
        return table if self._chosen is None else table.filter(self._chosen)

    def filter(self, chosen: NDArray[np.bool_]) -> StoredTable:
        """The rows for which ``chosen`` is true, of the rows that are left."""
        mask = np.asarray(chosen, dtype=bool)
        rows = int(mask.sum())
        if self._chosen is not None:
            whole = self._chosen.to_numpy(zero_copy_only=False)
            whole[whole] = mask
            mask = whole
        return StoredTable(self._file, pa.array(mask), rows)

    def parts(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns by groups of at most PART_ROWS rows, in order."""
        begin = 0
        for batch in self._file.iter_batches(PART_ROWS, columns=list(names), use_threads=False):
            part = pa.Table.from_batches([batch])
            yield part if self._chosen is None else part.filter(self._chosen.slice(begin, len(batch)))
            begin += len(batch)

    def to_table(self) -> pa.Table:
        return self.select(self.schema.names)

    def to_pylist(self) -> list[dict[str, Any]]:
        """Of a table that has few rows however long a run was."""
        rows: list[dict[str, Any]] = self.to_table().to_pylist()
        return rows


def parts_of(table: Any, names: Sequence[str]) -> Iterator[pa.Table]:
    """Some columns of a table by parts; of one in memory there is one part."""
    if isinstance(table, StoredTable):
        yield from table.parts(names)
    else:
        yield table.select(list(names)).combine_chunks()

"""How a kind of record declares itself: whose it is to make, the stream that holds it, the table that it becomes.

Programs that record must not load Arrow, so this says it in words of its own; :mod:`testbed.records` reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from controller.service.protocol import Message

Speaker = Literal["ue", "edge", "player", "controller", "operator", "service"]


class Record(Message, frozen=True):
    """What a program of a lab records: one msgpack frame, pushed to the recorder. Its fields are columns."""


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Kind:
    """A kind of record, as declared."""

    record: type[Record]
    stream: str  # of the run directory: streams/NAME.arrows
    by: tuple[Speaker, ...]  # who may record it; an operator may record anything
    table: bool  # whether the stream becomes NAME.parquet
    order: tuple[str, ...]  # columns by which the table is ordered; (): as it came
    rows: str  # what column ``kind`` says, in a stream that several kinds share
    later: bool  # whether a run may be from before there were such records
    values: Mapping[str, frozenset[str]]  # all that a field may say which is counted by its value, from a UE


#: By class. Whoever wants all of them takes records.py's KINDS: here are those that were declared so far.
DECLARED: dict[type[Record], Kind] = {}


def recorded(
    stream: str,
    *,
    by: Sequence[Speaker] = (),
    table: bool = True,
    order: Sequence[str] = (),
    rows: str = "",
    later: bool = False,
    values: Mapping[str, Sequence[str]] | None = None,
) -> Callable[[type[R]], type[R]]:
    """A class of records becomes a kind, with the fields of :class:`Kind`. Raises ValueError for one that cannot be."""

    def declare(record: type[R]) -> type[R]:
        counted = {name: frozenset(allowed) for name, allowed in (values or {}).items()}
        unknown = {*order, *counted} - set(record.__struct_fields__)
        if unknown:
            raise ValueError(f"{record.__name__} has no {', '.join(sorted(unknown))}")
        kind = Kind(record, stream, tuple(by), table, tuple(order), rows, later, counted)
        for other in DECLARED.values():
            if other.stream == stream and not _share(kind, other):
                raise ValueError(f"{record.__name__} and {other.record.__name__} cannot share the stream {stream}")
        DECLARED[record] = kind
        return record

    return declare


def _share(one: Kind, other: Kind) -> bool:
    """Whether two kinds can share a stream: rows say which they are, and become one table in one order."""
    told_apart = bool(one.rows and other.rows and one.rows != other.rows)
    return told_apart and (one.table, one.order) == (other.table, other.order)

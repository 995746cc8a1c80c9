"""A metric declares itself: what it is, and from which records it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from testbed.protocol.records import SlotRecord

#: Cuts of a UE that have a series of their own, and the label of all others.
LABELLED_CUTS = 50
OTHER_CUTS = "other"

R = TypeVar("R")
#: Values with the labels of their series.
Samples = Iterable[tuple[tuple[str, ...], float]]


@dataclass
class Memory:
    """What an exporter knows from the records before."""

    cut_in_use: dict[str, str] = field(default_factory=dict)  # by UE
    _cuts: dict[str, set[str]] = field(default_factory=dict)  # of each UE, that have a series
    _last_slot: int = -1
    _first_row: SlotRecord | None = None

    def cut_label(self, ue: str, cut: str) -> str:
        """A DAG has more cuts than a time series database takes labels: from the fiftieth on they share one."""
        known = self._cuts.setdefault(ue, set())
        if cut not in known:
            if len(known) >= LABELLED_CUTS:
                return OTHER_CUTS
            known.add(cut)
        return cut

    def begins_slot(self, row: SlotRecord) -> bool:
        """Whether a row is the first of its slot: a row per UE repeats what belongs to the slot."""
        if row.slot > self._last_slot:
            self._last_slot, self._first_row = row.slot, row
        return row is self._first_row


@dataclass(frozen=True)
class Source:
    """A kind of record, and which values (by a metric's label names) one of it brings."""

    record: type
    samples: Callable[[Any, Memory, tuple[str, ...]], Samples]


def one(record: type[R], value: Callable[[R], float | None]) -> Source:
    """One value (None: none) of each record, which has fields that are called as the metric's labels."""

    def samples(row: R, _: Memory, labels: tuple[str, ...]) -> Samples:
        found = value(row)
        return [] if found is None else [(tuple(getattr(row, label) for label in labels), found)]

    return Source(record, samples)


def many(record: type[R], values: Callable[[R, Memory], Samples]) -> Source:
    """Any number of values of each record."""
    return Source(record, lambda row, memory, _: values(row, memory))


@dataclass(frozen=True)
class Metric:
    """Base units. No task ids as labels; lab, run and policy are labels of the target."""

    name: str  # without ``testbed_`` before and Prometheus's ending behind it
    kind: Literal["counter", "gauge", "histogram", "info"]
    text: str
    labels: tuple[str, ...] = ()
    of: tuple[Source, ...] = ()
    #: values of the labels but ``ue`` whose series are there at 0 before a record is, with those of every UE
    from_start: Mapping[str, tuple[str, ...]] | None = None
    #: a program's own count, which begins at 0 when it is started again
    running_total: bool = False
    #: of a gauge: each value comes on top of those before, and may be below 0
    adds_up: bool = False
    buckets: tuple[float, ...] = ()
    more: str = ""  # what the documentation says besides the text

    @property
    def series(self) -> str:
        """As Prometheus calls it."""
        return f"testbed_{self.name}" + {"counter": "_total", "info": "_info"}.get(self.kind, "")

"""A fidelity figure declares itself: what it is, from what it comes, what it may be at most and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from testbed.records.manifest import Manifest
from testbed.records.tables import RunTables
from testbed.report.fidelity.limits import NOT_MEASURED, Value

T = TypeVar("T")
Unit = Literal["s", "ratio", "count"]


@dataclass(frozen=True)
class Evidence:
    """The records of a run, and what several figures make of them, worked out once."""

    tables: RunTables
    manifest: Manifest
    _known: dict[Callable[[Evidence], Any], Any] = field(default_factory=dict)

    def once(self, work: Callable[[Evidence], T]) -> T:
        """What ``work`` makes of these records, from the second time on as it was made first."""
        if work not in self._known:
            self._known[work] = work(self)
        return cast(T, self._known[work])


class Limit(NamedTuple):
    """The most that a figure may be, where stages and trace player run SCHED_FIFO, and where they do not."""

    realtime: float
    ordinary: float


class Wider(NamedTuple):
    """What a run may allow beyond the limit, and in which words the documentation says so."""

    of: Callable[[Evidence], float]
    words: str


class Headline(NamedTuple):
    """How a figure is said in ``summary.json`` and in the line at the end of a run, and which in turn it is there."""

    place: int
    text: str


class JudgedFigure(msgspec.Struct, frozen=True):
    """One figure of one run, as in ``fidelity.json``. Without a limit it only informs."""

    name: str
    value: Value
    unit: Unit
    limit: float | None
    ok: bool
    meaning: str


@dataclass(frozen=True)
class Figure:
    """One figure of every run; all limits are upper limits, and ratios are of 1."""

    name: str
    unit: Unit
    meaning: str
    of: Callable[[Evidence], Value]
    limit: Limit | float | None = None
    why: str = ""  # the limit is what it is, in Markdown
    wider: Wider | None = None
    #: broken by a host that is too slow, too busy or not there: the reason is looked for
    timed: bool = False
    headline: Headline | None = None
    #: what else is to be said of one run, behind the meaning
    detail: Callable[[Evidence], str] = lambda _: ""

    def limits(self) -> Limit | None:
        return Limit(self.limit, self.limit) if isinstance(self.limit, int | float) else self.limit

    def limit_of(self, *, realtime: bool) -> float:
        """The limit of a run that asks for no wider one. Raises ValueError without a limit."""
        limits = self.limits()
        if limits is None:
            raise ValueError(f"{self.name} has no limit")
        return limits.realtime if realtime else limits.ordinary

    def judge(self, run: Evidence, *, realtime: bool) -> JudgedFigure:
        """The figure of a run and whether it keeps its limit. One that this run cannot give passes."""
        value = self.of(run)
        if not isinstance(value, str):
            value = float(value)  # numpy's own numbers have no JSON
        limit = None if self.limit is None else self.limit_of(realtime=realtime)
        if limit is not None and self.wider is not None:
            limit = max(limit, self.wider.of(run))
        ok = limit is None or isinstance(value, str) or value <= limit
        return JudgedFigure(self.name, value, self.unit, limit, ok, self.meaning + self.detail(run))


def largest(values: Iterable[Value]) -> Value:
    measured = [float(value) for value in values if value != NOT_MEASURED]
    return max(measured, default=NOT_MEASURED)


def quantile(values: NDArray[np.float64], q: float) -> Value:
    return float(np.quantile(values, q)) if len(values) else NOT_MEASURED


def ratio(part: float, whole: float) -> Value:
    return part / whole if whole else NOT_MEASURED


def relative_error(part: float, whole: float) -> Value:
    return abs(part / whole - 1.0) if whole else NOT_MEASURED

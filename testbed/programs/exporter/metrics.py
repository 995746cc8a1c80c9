"""Every metric that a lab exports, and how records become metrics.

Counters of known UEs start at 0, so that a rate over the first second of a run is right. Figures for papers come from
the run's Parquet files: a quantile out of these histograms is only as fine as its bucket.
"""

from __future__ import annotations

import itertools
import platform
from collections import defaultdict
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as MetricFamily
from prometheus_client.registry import Collector

import testbed
from controller.contract import Scenario
from testbed.programs.exporter.metric import Memory, Metric, Source
from testbed.programs.exporter.system_metrics import (
    BUILD,
    CPU_METRICS,
    HOST_CPU,
    HOST_METRICS,
    HOST_RUNNING,
    LINK_METRICS,
    START_METRICS,
    UNREADABLE,
)
from testbed.programs.exporter.task_metrics import DECISION_METRICS, MODEL_METRICS, TASK_METRICS
from testbed.protocol.record import Record
from testbed.runtime.host.host_load import TICKS_PER_SECOND, cpu_ticks, running_tasks

FROM_RECORDS = (
    *(*START_METRICS, *TASK_METRICS, *DECISION_METRICS, *MODEL_METRICS),
    *(*LINK_METRICS, *CPU_METRICS, *HOST_METRICS),
)
#: Every metric, in the order of the exposition and of docs/monitoring.md.
METRICS = (*FROM_RECORDS, HOST_CPU, HOST_RUNNING)


class Metrics:
    """The metrics of one lab, fed with its records."""

    def __init__(self, scenario: Scenario, policy: str) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._memory = Memory()
        build = Info(f"testbed_{BUILD.name}", BUILD.text, registry=self.registry)
        build.info({"version": testbed.__version__, "python": platform.python_version(), "policy": policy})
        ues = tuple(str(ue.name) for ue in scenario.ues)
        self._series = {metric.name: _Series(metric, ues, self.registry) for metric in FROM_RECORDS if metric != BUILD}
        self._takers: dict[type, list[tuple[_Series, Source]]] = defaultdict(list)
        for metric in FROM_RECORDS:
            for source in metric.of:
                self._takers[source.record].append((self._series[metric.name], source))
        self.registry.register(HostCollector())
        self._take(scenario)

    def take(self, record: Record) -> None:
        """Book one record. Raises ValueError where no series takes its numbers."""
        self._take(record)

    def take_unreadable(self) -> None:
        """Book a record that could not be read."""
        self._series[UNREADABLE.name].book((), 1)

    def _take(self, row: object) -> None:
        for series, source in self._takers.get(type(row), ()):
            for labels, value in source.samples(row, self._memory, series.metric.labels):
                series.book(labels, value)


class _Series:
    """The series of one metric."""

    def __init__(self, metric: Metric, ues: tuple[str, ...], registry: CollectorRegistry) -> None:
        self.metric = metric
        self._totals: dict[tuple[str, ...], float] = {}  # the last ones
        self._books: dict[tuple[str, ...], Callable[[float], None]] = {}  # looking a series up takes most of the time
        name, text, labels = f"testbed_{metric.name}", metric.text, metric.labels
        self._family: Counter | Gauge | Histogram
        match metric.kind:
            case "counter":
                self._family = Counter(name, text, labels, registry=registry)
            case "gauge":
                self._family = Gauge(name, text, labels, registry=registry)
            case _:
                self._family = Histogram(name, text, labels, buckets=metric.buckets, registry=registry)
        if metric.from_start is not None:
            known = {"ue": ues, **metric.from_start}
            for values in itertools.product(*(known[label] for label in labels)):
                self._family.labels(*values)

    def book(self, labels: tuple[str, ...], value: float) -> None:
        """Raises ValueError where the kind of metric does not take the value."""
        if self.metric.running_total:
            last = self._totals.get(labels, 0.0)
            self._totals[labels] = value
            value = value - last if value >= last else value  # started again
        book = self._books.get(labels)
        if book is None:
            book = self._books[labels] = self._book_of(labels)
        book(value)

    def _book_of(self, labels: tuple[str, ...]) -> Callable[[float], None]:
        child = self._family.labels(*labels) if labels else self._family
        if isinstance(child, Histogram):
            return child.observe
        return child.set if isinstance(child, Gauge) and not self.metric.adds_up else child.inc


class HostCollector(Collector):
    """Busy, idle and stolen CPU time of the whole host, read when Prometheus asks."""

    def collect(self) -> Iterator[MetricFamily]:
        ticks = cpu_ticks()
        times = CounterMetricFamily(f"testbed_{HOST_CPU.name}", HOST_CPU.text, labels=HOST_CPU.labels)
        for mode, spent in (("busy", ticks.busy), ("idle", ticks.idle), ("steal", ticks.steal)):
            times.add_metric([mode], spent / TICKS_PER_SECOND)
        yield times
        yield GaugeMetricFamily(f"testbed_{HOST_RUNNING.name}", HOST_RUNNING.text, value=running_tasks())

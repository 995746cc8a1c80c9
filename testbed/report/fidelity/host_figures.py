"""How the host did during a run, and what probably made a run late."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa

from testbed.records.manifest import Manifest
from testbed.records.tables import RunTables, column
from testbed.report.fidelity.figure import Evidence, Figure, Limit, quantile
from testbed.report.fidelity.limits import NOT_MEASURED, Value

#: Less CPU time of other processes than this (in cores, over the run or in any second) is not worth a word.
NAMED_CORES = 0.2
#: ... and stolen time.
NAMED_STEAL = 0.01
#: ... and pauses.
NAMED_PAUSE_SECONDS = 2e-3
#: The recorder looks every second; a gap like this means that even it got no CPU.
SILENT_SECONDS = 3.0
FULL_RATIO = 0.9


def host_samples(tables: RunTables) -> pa.Table:
    """Samples of the host while tasks arrived; all of them in a run too short to have any."""
    host = tables.health.filter(column(tables.health, "kind") == "host")
    arrivals = column(tables.tasks, "arrival_seconds")
    if not len(arrivals):
        return host
    times = column(host, "monotonic_seconds")
    during = host.filter((times >= arrivals.min()) & (times <= arrivals.max() + 1.0))
    return during if len(during) else host


def mean_of(host: pa.Table, name: str) -> Value:
    values = _known(host, name)
    return float(values.mean()) if len(values) else NOT_MEASURED


def quantile_of(host: pa.Table, name: str, q: float) -> Value:
    return quantile(_known(host, name), q)


def _known(host: pa.Table, name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if name not in host.schema.names:  # a run of an older version
        return np.empty(0)
    values: np.ndarray[tuple[int], np.dtype[np.float64]] = column(host, name).astype(np.float64)
    return values[np.isfinite(values)]


def throttled_ratio(tables: RunTables) -> Value:
    """Of the node that was throttled most, over the time in which tasks arrived."""
    arrivals = column(tables.tasks, "arrival_seconds")
    health = tables.health.filter(column(tables.health, "kind") == "node")
    if not len(health) or not len(arrivals):
        return NOT_MEASURED
    nodes, times = column(health, "node"), column(health, "monotonic_seconds")
    throttled = column(health, "throttled_seconds")
    worst: Value = NOT_MEASURED
    for node in set(nodes):
        mine = (nodes == node) & (times >= arrivals.min())
        if mine.sum() < 2:
            continue
        ratio = float(np.ptp(throttled[mine]) / np.ptp(times[mine]))
        worst = ratio if worst == NOT_MEASURED else max(float(worst), ratio)
    return worst


def causes(tables: RunTables, manifest: Manifest) -> list[str]:
    """What the host's accounts say about a run that was late, the strongest first; one sentence if nothing."""
    host = host_samples(tables)
    found = [*_foreign(host, manifest.cores)]
    steal = mean_of(host, "steal_ratio")
    if steal != NOT_MEASURED and float(steal) >= NAMED_STEAL:
        found.append(f"the hypervisor gave {float(steal):.1%} of the CPU time to others")
    found += _paused(host)
    times = column(host, "monotonic_seconds")
    gap = float(np.diff(times).max()) if len(times) > 1 else 0.0
    if gap >= SILENT_SECONDS:
        found.append(f"ordinary processes, the recorder among them, got no CPU for {gap:.1f} s")
    busy, own = mean_of(host, "busy_ratio"), mean_of(host, "lab_cores")
    if not found and busy != NOT_MEASURED and own != NOT_MEASURED and float(busy) >= FULL_RATIO:
        found.append(
            f"the lab itself fills this host: it used {float(own):.2g} of {manifest.cores} cores, and the kernel the"
            f" rest; lower edge.cpus, speed or count, or take a larger host"
        )
    return found or [
        "none seen: no other process took CPU time, the hypervisor reports none stolen, and no CPU was seen to stand"
        " still"
    ]


def paused_ratio(host: pa.Table) -> Value:
    """For how much of the time any CPU of the host stood still."""
    paused = _known(host, "paused_seconds")
    return float(paused.sum() / _known(host, "elapsed_seconds").sum()) if len(paused) else NOT_MEASURED


def _paused(host: pa.Table) -> list[str]:
    longest = quantile_of(host, "longest_pause_seconds", 1.0)
    if longest == NOT_MEASURED or float(longest) < NAMED_PAUSE_SECONDS:
        return []
    ratio = float(paused_ratio(host))
    return [
        f"the host's CPUs stood still for {ratio:.1%} of the time, at most {float(longest) * 1e3:.1f} ms at once: a"
        " virtual machine that others share, firmware, or a kernel that did not let go"
    ]


def _foreign(host: pa.Table, cores: int) -> list[str]:
    used = column(host, "foreign_cores").astype(np.float64)
    if not len(used) or not np.isfinite(used).any() or np.nanmax(used) < NAMED_CORES:
        return []
    taken: dict[str, float] = defaultdict(float)
    seconds = 0.0
    columns = (column(host, name).tolist() for name in ("foreign_top", "foreign_top_cores", "elapsed_seconds"))
    for top, top_cores, elapsed in zip(*columns, strict=True):
        if top is not None:
            seconds += elapsed
            taken[top] += top_cores * elapsed
    names = sorted((name for name in taken if name), key=lambda name: -taken[name])[:3]
    most = ", ".join(f"{name} {taken[name] / seconds:.2f}" for name in names)
    return [
        f"processes that are not the lab's used {np.nanmean(used):.2f} of {cores} cores"
        f" (at most {np.nanmax(used):.2f} in a second); most of it: {most}"
    ]


def _host(run: Evidence) -> pa.Table:
    return host_samples(run.tables)


def _receiver_lateness(run: Evidence) -> Value:
    edge = run.tables.health.filter(column(run.tables.health, "kind") == "edge")
    return quantile(column(edge, "receiver_lateness_p99_seconds"), 0.5)


def _waiting_tasks(run: Evidence) -> Value:
    running = quantile_of(run.once(_host), "running_tasks", 0.9)
    return running if running == NOT_MEASURED else float(running) / run.manifest.cores


HOST_FIGURES = (
    Figure(
        "receiver_lateness_p99_seconds",
        "s",
        "lateness of the edge's receiver (median over reports of the 99th percentile)",
        of=_receiver_lateness,
        limit=Limit(realtime=0.020, ordinary=0.050),
        timed=True,
    ),
    Figure(
        "throttled_ratio",
        "ratio",
        "part of the run for which the most throttled node was held at its cap",
        of=lambda run: throttled_ratio(run.tables),
        limit=0.01,
        timed=True,
    ),
    Figure(
        "steal_ratio",
        "ratio",
        "CPU time that the hypervisor gave to others",
        of=lambda run: mean_of(run.once(_host), "steal_ratio"),
        limit=0.05,
    ),
    Figure(
        "longest_pause_seconds",
        "s",
        "the longest time for which a CPU of the host stood still",
        of=lambda run: quantile_of(run.once(_host), "longest_pause_seconds", 1.0),
    ),
    Figure(
        "paused_ratio",
        "ratio",
        "the part of the time in which a CPU of the host stood still",
        of=lambda run: paused_ratio(run.once(_host)),
    ),
    Figure(
        "waiting_tasks_per_core",
        "count",
        "the host's run queue over its cores (90th percentile)",
        of=_waiting_tasks,
        limit=8.0,
        why="beyond it ordinary threads (the recorder, policies) wait for tens of ms",
        timed=True,
    ),
    Figure(
        "busy_ratio",
        "ratio",
        "the host's cores in use, mean",
        of=lambda run: mean_of(run.once(_host), "busy_ratio"),
    ),
    Figure(
        "lab_cores",
        "count",
        "cores that the lab's processes used, mean",
        of=lambda run: mean_of(run.once(_host), "lab_cores"),
    ),
    Figure(
        "foreign_cores",
        "count",
        "cores that processes used which are not the lab's, mean",
        of=lambda run: mean_of(run.once(_host), "foreign_cores"),
    ),
)

"""CPU accounting of a lab's nodes, read from their cgroups, wherever the nodes live."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from testbed.errors import TestbedError
from testbed.protocol.records import NodeHealth
from testbed.runtime.processes.child import stat_fields


class NodeSampler:
    """Samples the nodes of one lab. ``groups()``: the directory of each node in the CPU controller.

    It is asked again as long as one of them is gone: a container that was made again has another one.
    """

    def __init__(self, groups: Callable[[], Mapping[str, str]]) -> None:
        self._ask = groups
        self._groups = groups()
        self.pids: frozenset[int] = frozenset()  # of all nodes, at the last sample

    def sample(self) -> list[NodeHealth]:
        """Nodes whose group is gone are left out."""
        found = []
        pids: set[int] = set()
        if not all(Path(directory).is_dir() for directory in self._groups.values()):
            with suppress(TestbedError):  # torn: the others are where they were
                self._groups = self._ask()
        for node, directory in ((node, Path(group)) for node, group in self._groups.items()):
            try:
                periods, seconds = throttled(directory)
                members = processes(directory)
            except OSError:  # ENOENT, and ENODEV for a group that is going
                continue
            pids |= set(members)
            used = cpu_seconds(members)
            found.append(NodeHealth(node, time.monotonic(), used, periods, seconds))
        self.pids = frozenset(pids)
        return found


def throttled(directory: Path) -> tuple[int, float]:
    """(periods, seconds) that a group's cap has held it back so far. Raises OSError if there is no such group."""
    fields = dict(line.split() for line in (directory / "cpu.stat").read_text().splitlines())
    # cgroup v1 says throttled_time in ns, v2 throttled_usec; without a cap v2 says neither
    seconds = int(fields.get("throttled_time", 0)) / 1e9 + int(fields.get("throttled_usec", 0)) / 1e6
    return int(fields.get("nr_throttled", 0)), seconds


def processes(directory: Path) -> list[int]:
    """The living processes of a group. Raises OSError if there is no such group."""
    return [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time that living processes have used."""
    # Not the group's own account: stage threads leave the group when they become SCHED_FIFO (cgroup v1).
    fields = [found for pid in pids if (found := stat_fields(pid))]
    return sum(int(found[11]) + int(found[12]) for found in fields) / os.sysconf("SC_CLK_TCK")

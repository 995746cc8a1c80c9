"""What the kernel counts for the whole host: CPU time by kind, and threads that run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CpuTicks:
    """Time of all CPUs together since boot, 1 / :data:`TICKS_PER_SECOND` s each (proc(5))."""

    busy: int
    idle: int  # also while waiting for disks
    steal: int  # a hypervisor ran something else

    @property
    def total(self) -> int:
        return self.busy + self.idle + self.steal


def cpu_ticks() -> CpuTicks:
    """Read now."""
    with Path("/proc/stat").open(encoding="ascii") as file:
        user, nice, system, idle, iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return CpuTicks(user + nice + system + irq + softirq, idle + iowait, steal)


def running_tasks() -> int:
    """Threads that run or want to."""
    return int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0])

"""The host under a lab: its CPU time, run queue and pauses, and which processes took time that were not the lab's."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path

from testbed.protocol.records import HostHealth
from testbed.runtime.host.host_load import TICKS_PER_SECOND, cpu_ticks, running_tasks
from testbed.runtime.host.pauses import PauseProbe
from testbed.runtime.processes.child import stat_fields
from testbed.runtime.processes.discovery import LAB_VARIABLE

#: Looking at every process takes 20 us for each; on a host with many it is done less often: this part of the time.
SCAN_RATIO = 0.02

#: Wakes every CPU so often to see whether it stands still: about a hundredth of each.
PAUSE_PERIOD_SECONDS = 2e-3

_KERNEL_THREAD = 0x0020_0000  # PF_KTHREAD
_FIFO_OR_RR = ("1", "2")
# places in stat_fields, which begin at field 3 of proc(5)
_PARENT, _FLAGS, _USER, _SYSTEM, _START, _PRIORITY, _POLICY = 1, 6, 11, 12, 19, 37, 38

_Key = tuple[int, str]  # pid and start time: a pid may come again

#: Whether a process, by its pid and its environment ("NAME=value" each), is one of ours.
Ours = Callable[[int, Collection[bytes]], bool]


def of_lab(lab: str, run_id: str) -> Ours:
    """A lab's processes: forked or launched ones carry its name, those in containers the run's id."""
    markers = frozenset({f"{LAB_VARIABLE}={lab}".encode(), f"TESTBED_RUN_ID={run_id}".encode()})
    return lambda _, environment: not markers.isdisjoint(environment)


class HostSampler:
    """Samples the host; the first sample is about the time since it was made.

    ``ours`` tells which processes count as the lab's, besides this one and those that it comes from.

    CPU time by process is exact, but one that ended since the last sample is not seen: many short ones count for
    less than they took.
    """

    def __init__(self, ours: Ours) -> None:
        self._ours = ours
        self._ancestors = _ancestors()
        self._owned: dict[_Key, bool] = {}
        self._last_ticks = cpu_ticks()
        self._last_scan, self._next_scan = time.monotonic(), 0.0
        self._last_used = self._scan(frozenset())
        self._probe = PauseProbe(PAUSE_PERIOD_SECONDS)
        self._foreign = (0.0, 0.0, "", 0.0)  # of the lab, of others, the greatest of them and its own

    def sample(self, lab_pids: Collection[int], malformed_records: int) -> HostHealth:
        """``lab_pids``: processes that are known to be the lab's, besides those that say so themselves."""
        now = time.monotonic()
        before, self._last_ticks = self._last_ticks, cpu_ticks()
        ticks = self._last_ticks.total - before.total
        busy, steal = self._last_ticks.busy - before.busy, self._last_ticks.steal - before.steal
        elapsed = now - self._last_scan
        if now >= self._next_scan:
            self._foreign = self._compare(self._scan(lab_pids), elapsed)
            self._last_scan = now
            self._next_scan = now + (time.monotonic() - now) / SCAN_RATIO
        lab, foreign, top, top_cores = self._foreign
        pauses = self._probe.take()
        return HostHealth(
            monotonic_seconds=now,
            busy_ratio=busy / ticks if ticks else 0.0,
            steal_ratio=steal / ticks if ticks else 0.0,
            running_tasks=running_tasks(),
            malformed_records=malformed_records,
            elapsed_seconds=elapsed,
            lab_cores=lab,
            foreign_cores=foreign,
            foreign_top=top,
            foreign_top_cores=top_cores,
            paused_seconds=pauses.seconds() if self._probe.watching else math.nan,
            longest_pause_seconds=pauses.longest_seconds if self._probe.watching else math.nan,
        )

    def close(self) -> None:
        self._probe.close()

    def _scan(self, lab_pids: Collection[int]) -> dict[_Key, int]:
        """Ticks that every process of user space has used so far."""
        used: dict[_Key, int] = {}
        owned: dict[_Key, bool] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            pid = int(entry.name)
            fields = stat_fields(pid)
            if not fields or int(fields[_FLAGS]) & _KERNEL_THREAD:
                continue
            key = (pid, fields[_START])
            used[key] = int(fields[_USER]) + int(fields[_SYSTEM])
            known = self._owned.get(key)
            owned[key] = known if known is not None and pid not in lab_pids else self._is_ours(pid, lab_pids)
        self._owned = owned
        return used

    def _is_ours(self, pid: int, lab_pids: Collection[int]) -> bool:
        if pid in lab_pids or pid in self._ancestors:
            return True
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or is somebody else's
            return False
        return self._ours(pid, environment)

    def _compare(self, used: dict[_Key, int], elapsed_seconds: float) -> tuple[float, float, str, float]:
        before, self._last_used = self._last_used, used
        scale = 1.0 / (TICKS_PER_SECOND * max(elapsed_seconds, 1e-3))
        cores = {key: (ticks - before.get(key, 0)) * scale for key, ticks in used.items()}
        lab = sum(value for key, value in cores.items() if self._owned[key])
        others = {key: value for key, value in cores.items() if not self._owned[key] and value > 0}
        if not others:
            return lab, 0.0, "", 0.0
        top = max(others, key=lambda key: others[key])
        return lab, sum(others.values()), describe(top[0]), others[top]


def describe(pid: int) -> str:
    """A process in a few words: its name, its pid, and the highest real-time priority among its threads."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return f"a process that has ended (pid {pid})"
    priority = 0
    for thread in threads:
        fields = stat_fields(int(thread.name))
        if fields and fields[_POLICY] in _FIFO_OR_RR:
            priority = max(priority, int(fields[_PRIORITY]))
    return f"{name} (pid {pid}, real-time priority {priority})" if priority else f"{name} (pid {pid})"


def _ancestors() -> frozenset[int]:
    """This process and those that it comes from: the command that started the lab is none of the others."""
    pids: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in pids:
        pids.add(pid)
        fields = stat_fields(pid)
        pid = int(fields[_PARENT]) if fields else 0
    return frozenset(pids - {1})

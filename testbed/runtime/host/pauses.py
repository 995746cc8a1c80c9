"""When the host's CPUs stood still: what a hypervisor takes, no program of this host can use.

HTB repays a late wake-up only up to its bucket (0.5 ms of the rate). A wire that had something to send while its CPU
stood still for longer has lost that time for good, a trace step is late by it, and whoever judges them has to know.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from testbed.runtime.host.cgroups import CgroupsV1, detect

#: The program prints a line a second, above everything else on its CPU.
SILENT_SECONDS = 4.0
_PROGRAM = Path(__file__).with_name("pause_watch.py")


@dataclass(frozen=True)
class Pauses:
    """Arrays (pauses,), of all CPUs: when each began and ended (CLOCK_MONOTONIC)."""

    starts_seconds: NDArray[np.float64]
    ends_seconds: NDArray[np.float64]

    def within(self, start_seconds: float, end_seconds: float) -> list[tuple[float, float]]:
        """The parts of a window in which any CPU stood still, in order and apart from each other."""
        found: list[tuple[float, float]] = []
        for begin, end in zip(self.starts_seconds, self.ends_seconds, strict=True):
            begin, end = max(float(begin), start_seconds), min(float(end), end_seconds)
            if found and begin <= found[-1][1]:
                found[-1] = found[-1][0], max(found[-1][1], end)
            elif begin < end:
                found.append((begin, end))
        return found

    def seconds(self, start_seconds: float = -np.inf, end_seconds: float = np.inf) -> float:
        """How much of a window that is."""
        return sum(end - begin for begin, end in self.within(start_seconds, end_seconds))

    @property
    def longest_seconds(self) -> float:
        return float(np.max(self.ends_seconds - self.starts_seconds, initial=0.0))


class PauseProbe:
    """Watches the CPUs by a program that wakes on each of them every ``period_seconds``, above all of a lab's threads.

    Every 0.5 ms takes some hundredths of each CPU. :attr:`watching` is False where real-time priorities are refused,
    and once the program has ended or has said nothing for :data:`SILENT_SECONDS`: nothing is seen then.
    """

    def __init__(self, period_seconds: float = 0.5e-3) -> None:
        command = [sys.executable, "-I", "-S", str(_PROGRAM), repr(period_seconds), *_realtime_group()]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        self._rest = b""
        while b"\n" not in self._rest and (part := os.read(self._output, 1 << 16)):
            self._rest += part
        first, _, self._rest = self._rest.partition(b"\n")
        self.watching = bool(first)
        self._heard_seconds = time.monotonic()
        os.set_blocking(self._output, False)

    def take(self) -> Pauses:
        """What was seen since the last call, up to a second ago."""
        while part := self._read():
            self._rest += part
            self._heard_seconds = time.monotonic()
        self.watching &= time.monotonic() < self._heard_seconds + SILENT_SECONDS
        return self._parsed()

    def close(self) -> Pauses:
        """End watching; what was seen since the last :meth:`take`. Empty after the first call."""
        if self._process.returncode is None:
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            deadline = time.monotonic() + SILENT_SECONDS  # it may have been stopped
            while select.select([self._output], [], [], max(0.0, deadline - time.monotonic()))[0]:
                if not (part := self._read()):
                    break
                self._rest += part
            self._process.kill()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process.wait()
        return self._parsed()

    def __enter__(self) -> PauseProbe:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> bytes:
        try:
            return os.read(self._output, 1 << 16)
        except BlockingIOError:
            return b""

    def _parsed(self) -> Pauses:
        whole, newline, rest = self._rest.rpartition(b"\n")
        self._rest = rest if newline else self._rest
        found = [pause for line in whole.splitlines() for pause in json.loads(line)]
        both = np.array(sorted(map(tuple, found)), dtype=np.float64).reshape(-1, 2)
        return Pauses(both[:, 0], both[:, 1])


def _realtime_group() -> list[str]:
    """The tasks file of a group in which threads may be real-time, where ours may not be one (cgroup v1): the root."""
    cgroups = detect()
    return [str(cgroups.cpu_root / "tasks")] if isinstance(cgroups, CgroupsV1) else []

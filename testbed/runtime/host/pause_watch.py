"""Program: watch this host's CPUs, one thread pinned to each, and print when they stood still.

usage: pause_watch.py PERIOD_SECONDS [TASKS_FILE]; TASKS_FILE: of a cgroup that may run real-time threads, to move to.
A first line ``{"cpus": [...]}``, then about every second a line with the list of ``[begin, end]`` (CLOCK_MONOTONIC
seconds) since the line before; it ends when its standard input does. Exit code 1 where real-time priorities are
refused. All of it is above every thread of a lab, the printing too: whoever held the interpreter's lock at a lower
priority would make the others late.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from pathlib import Path

PRIORITY = 98
#: Waking up takes some tens of microseconds where nothing is wrong.
NOTABLE_SECONDS = 0.2e-3
#: On larger hosts, so many of them, evenly: what a hypervisor does to one it does to its neighbours.
MOST_CPUS = 8
_LINE_SECONDS = 1.0

Pause = tuple[float, float]


def watch(cpu: int, period_seconds: float, found: list[list[Pause]]) -> None:
    """Append to the last list of ``found`` until the process ends."""
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError:  # not for us (a cpuset), or offline
        return
    due = time.monotonic()
    while True:
        due = max(due + period_seconds, time.monotonic())
        time.sleep(max(due - time.monotonic(), 0.0))
        woken = time.monotonic()
        if woken - due > NOTABLE_SECONDS:
            found[-1].append((due, woken))


def main() -> int:
    period_seconds = float(sys.argv[1])
    count = os.cpu_count() or 1
    watched = min(count, MOST_CPUS)
    cpus = [number * count // watched for number in range(watched)]
    try:
        for tasks in sys.argv[2:]:
            Path(tasks).write_text(str(os.getpid()), encoding="ascii")
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except OSError:
        return 1
    found: list[list[Pause]] = [[]]
    for cpu in cpus:
        threading.Thread(target=watch, args=(cpu, period_seconds, found), daemon=True).start()
    line: object = {"cpus": cpus}
    ended = False
    try:
        while True:
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
            if ended:
                return 0
            ended = bool(select.select([sys.stdin], [], [], _LINE_SECONDS)[0])
            found.append([])
            line = sorted(found.pop(-2))
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    os._exit(main())  # the watching threads never end

"""A host that is busy with something else: the run's limits hold, or the run says that it is invalid, and why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from testbed.runtime.host.facts import facts
from tests.emulation.conftest import LABS, Bench

pytestmark = [pytest.mark.root, pytest.mark.quiet]

RUN_SECONDS = 6
#: Above every thread of a lab: stages are at 5 and 6, the trace player at 10.
REALTIME_PRIORITY = 50

_LOOP = """
import os, sys, time
core, priority, seconds = map(float, sys.argv[1:])
os.sched_setaffinity(0, {int(core)})
if priority:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(int(priority)))
end = time.monotonic() + seconds
while time.monotonic() < end:
    pass
"""


@contextmanager
def _busy(seconds: float, priority: int = 0) -> Iterator[None]:
    """A loop on each core, which ends by itself: at a real-time priority nobody would get the core to end it."""
    loops = [
        subprocess.Popen([sys.executable, "-S", "-c", _LOOP, str(core), str(priority), str(seconds)])
        for core in facts().cpus
    ]
    try:
        yield
        assert [loop.wait(timeout=60) for loop in loops] == [0] * len(loops), "the loops could not be as asked"
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def _run(bench: Bench, seconds: float, priority: int) -> tuple[int, dict[str, Any], str]:
    """A run that is disturbed while its tasks arrive: exit code, summary and what it said."""
    name, out = bench.name(), bench.folder / "run"
    lab = str(LABS / "tiny.yaml")
    duration = f"{RUN_SECONDS} s"
    process = bench.start("run", lab, "--name", name, "--runtime", "netns", "--duration", duration, "--out", str(out))
    stream = out / "streams" / "tasks.arrows"
    deadline = time.monotonic() + 40
    while not (stream.exists() and stream.stat().st_size > 6000):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no task was recorded"
        time.sleep(0.05)
    with _busy(seconds, priority):
        pass
    _, said = process.communicate(timeout=120)
    summary: dict[str, Any] = json.loads((Path(out) / "summary.json").read_text())
    return process.returncode, summary, said


def test_ordinary_busy_loops_on_every_core_leave_a_run_valid_or_it_says_why(bench: Bench) -> None:
    code, summary, said = _run(bench, seconds=RUN_SECONDS - 2, priority=0)
    if summary["valid"]:
        assert code == 0, said
        return
    assert code == 4, said
    assert summary["invalid_reasons"]
    assert summary["invalid_reasons"][0] in said


def test_busy_loops_above_our_real_time_priority_make_the_run_invalid_and_it_says_why(bench: Bench) -> None:
    if not facts().realtime or os.geteuid() != 0:
        pytest.skip("needs a host on which processes can become SCHED_FIFO")
    code, summary, said = _run(bench, seconds=3, priority=REALTIME_PRIORITY)
    assert not summary["valid"], said
    assert code == 4, said
    named = " ".join(summary["invalid_reasons"])
    # what the loops took: the player's steps came late, or stages ended after their targets
    assert "step_lateness" in named or "overrun" in named or "stage_time_error" in named
    assert "cause: " in named, "and who took it"
    assert summary["invalid_reasons"][0] in said

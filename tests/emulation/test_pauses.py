"""The probe of the host's pauses, on the host."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection

import numpy as np
import psutil
import pytest

from testbed.runtime.host.pauses import PauseProbe, Pauses

HOG_SECONDS = 0.05


def hog(cpu: int, end: Connection) -> None:
    """Keep a CPU from everybody, the probe included; say from when until when."""
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
    time.sleep(HOG_SECONDS)
    begin = time.monotonic()
    while time.monotonic() < begin + HOG_SECONDS:
        pass
    end.send((begin, time.monotonic()))


@pytest.mark.root
@pytest.mark.quiet
def test_a_cpu_that_is_taken_away_is_noticed() -> None:
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe()
    process = spawn.Process(target=hog, args=(min(os.sched_getaffinity(0)), theirs))
    with PauseProbe() as probe:
        process.start()
        begin, end = mine.recv()
        process.join()
        pauses = probe.close()
    assert pauses.seconds(begin, end) >= 0.95 * (end - begin)
    assert pauses.seconds(begin - HOG_SECONDS, begin) <= 0.5 * HOG_SECONDS


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_probe_that_is_gone_does_not_say_that_all_is_well(number: signal.Signals) -> None:
    before = set(psutil.Process().children())
    with PauseProbe() as probe:
        (program,) = set(psutil.Process().children()) - before
        program.send_signal(number)
        deadline = time.monotonic() + 30.0
        while probe.watching:
            assert time.monotonic() < deadline
            probe.take()
            time.sleep(0.05)
    assert not psutil.pid_exists(program.pid)


def test_pauses_of_several_cpus_count_once_where_they_overlap() -> None:
    pauses = Pauses(np.array([1.0, 1.5, 4.0]), np.array([2.0, 3.0, 5.0]))
    assert pauses.within(0.0, 10.0) == [(1.0, 3.0), (4.0, 5.0)]
    assert pauses.within(1.75, 4.5) == [(1.75, 3.0), (4.0, 4.5)]
    assert pauses.within(3.2, 3.8) == []
    assert pauses.seconds(1.75, 4.5) == 1.75

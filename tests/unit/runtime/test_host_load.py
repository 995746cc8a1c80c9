"""The kernel's counts, against those that psutil reads."""

from __future__ import annotations

import os

import psutil
import pytest

from testbed.runtime.host.host_load import TICKS_PER_SECOND, cpu_ticks, running_tasks


def test_cpu_time_by_kind_is_what_psutil_says() -> None:
    expected = psutil.cpu_times()
    found = cpu_ticks()
    busy = expected.user + expected.nice + expected.system + expected.irq + expected.softirq
    within_seconds = 0.1 * (os.cpu_count() or 1) + 0.5  # between the two
    assert found.busy / TICKS_PER_SECOND == pytest.approx(busy, abs=within_seconds)
    assert found.idle / TICKS_PER_SECOND == pytest.approx(expected.idle + expected.iowait, abs=within_seconds)
    assert found.steal / TICKS_PER_SECOND == pytest.approx(expected.steal, abs=within_seconds)
    assert found.total == found.busy + found.idle + found.steal


def test_whoever_asks_is_running() -> None:
    assert running_tasks() >= 1

"""Who uses the host: a busy process of the lab's, and one that is nobody's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from testbed.programs.recorder.host_health import HostSampler, describe, of_lab
from testbed.runtime.processes.child import stat_fields
from testbed.runtime.processes.discovery import LAB_VARIABLE

SPIN = "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: pass"


@pytest.fixture
def spinners() -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
    """(the lab's, somebody else's), at the lowest priority."""
    made = [
        subprocess.Popen(["nice", "-n", "19", sys.executable, "-c", SPIN], env=environment)
        for environment in ({**os.environ, LAB_VARIABLE: "sampled"}, {**os.environ, LAB_VARIABLE: "sampled-2"})
    ]
    yield made[0], made[1]
    for process in made:
        process.kill()
        process.wait()


@pytest.mark.thorough
def test_cpu_time_is_the_labs_or_that_of_others(
    spinners: tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]],
) -> None:
    mine, other = spinners
    sampler = HostSampler(of_lab("sampled", "run-1"))
    used, deadline = 0.0, time.monotonic() + 20
    while used < 0.1 and time.monotonic() < deadline:
        time.sleep(0.3)
        health = sampler.sample([], 3)
        used += health.lab_cores * health.elapsed_seconds
        assert health.malformed_records == 3
        assert 0 <= health.busy_ratio <= 1
        assert f"(pid {mine.pid})" not in health.foreign_top
    assert used >= 0.1
    assert health.foreign_cores > 0
    assert other.poll() is None


def test_processes_that_are_known_to_be_the_labs_need_no_mark(
    spinners: tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]],
) -> None:
    _, other = spinners
    sampler = HostSampler(of_lab("nothing", "run-1"))
    for _ in range(3):
        time.sleep(0.3)
        assert f"(pid {other.pid})" not in sampler.sample([other.pid], 0).foreign_top


def test_a_process_is_named() -> None:
    assert describe(os.getpid()).endswith(f"(pid {os.getpid()})")
    assert "has ended" in describe(1 << 22)


def test_a_name_that_is_cut_within_a_letter_hinders_nobody() -> None:
    name = "é" * 8  # 16 bytes, of which the kernel keeps 15
    program = f"open('/proc/self/comm', 'w').write({name!r}); print('named', flush=True); import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"named\n"
        try:
            fields, described = stat_fields(other.pid), describe(other.pid)
        finally:
            other.kill()
    assert int(fields[1]) == os.getpid()
    assert described.startswith("é" * 7)

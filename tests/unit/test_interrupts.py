"""Signals end a command once, and what it takes down meanwhile is taken down to the end."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.signals import heard

#: Waits to be ended, then takes down for as long as it is told to by its standard input.
COMMAND = """
import sys, time
from testbed import interrupts
interrupts.install()
try:
    with interrupts.held():
        print("held", flush=True)
        sys.stdin.readline()
        print("done", flush=True)
    print("waiting", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    try:
        print("taking down", flush=True)
        sys.stdin.readline()
        print("taken down", file=sys.stderr, flush=True)
    finally:
        sys.exit(interrupts.exit_code())
"""


def start(stderr: int = subprocess.PIPE, before: Callable[[], object] = heard) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        preexec_fn=before,
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=lambda value: str(value),
)
def test_a_signal_takes_down_once_and_gives_its_exit_code(number: signal.Signals, code: int) -> None:
    with start(before=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)) as process:
        assert said(process) == "held"
        tell(process)
        assert [said(process), said(process)] == ["done", "waiting"]
        process.send_signal(number)
        assert said(process) == "taking down"
        for again in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
            process.send_signal(again)
        tell(process)
        _, error = process.communicate(timeout=10)
        assert "taken down" in error
        assert process.returncode == code


def test_a_held_signal_comes_at_the_end() -> None:
    with start() as process:
        assert said(process) == "held"
        process.send_signal(signal.SIGTERM)
        tell(process)
        assert [said(process), said(process)] == ["done", "taking down"]
        tell(process)
        process.communicate(timeout=10)
        assert process.returncode == 143


def test_only_the_third_ctrl_c_leaves_things_as_they_are() -> None:
    with start(before=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)) as process:
        assert said(process) == "held"
        process.send_signal(signal.SIGINT)
        tell(process)
        assert [said(process), said(process)] == ["done", "taking down"]
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        assert "Ctrl-C once more" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=10)
        assert "taken down" not in error


def test_nohup_stays_in_force() -> None:
    with start(before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as process:
        assert said(process) == "held"
        process.send_signal(signal.SIGHUP)
        tell(process)
        assert [said(process), said(process)] == ["done", "waiting"]
        process.kill()


def test_a_terminal_that_closes_does_not_stop_what_is_taken_down() -> None:
    master, terminal = pty.openpty()
    with start(stderr=terminal) as process:
        os.close(terminal)
        assert said(process) == "held"
        os.close(master)  # from now on whoever writes to the terminal gets an error
        process.send_signal(signal.SIGHUP)
        tell(process)
        assert [said(process), said(process)] == ["done", "taking down"]
        tell(process)
        process.communicate(timeout=10)
        assert process.returncode == 129

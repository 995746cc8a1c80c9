"""One command at a time works on a lab; the lock goes with whoever holds it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.errors import InputError
from testbed.runtime.processes import lab_lock as locks
from testbed.runtime.processes.lab_lock import LabBusyError, handed_on, lab_lock


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(locks, "state_root", lambda: tmp_path)
    return tmp_path


def test_a_second_command_is_told_who_does_what(root: Path) -> None:
    with lab_lock("a", "bringing this lab up"):
        assert [stat.S_IMODE(path.stat().st_mode) for path in root.iterdir()] == [0o600]
        for _ in range(2):
            with (
                pytest.raises(LabBusyError, match=f"another command is bringing this lab up, pid {os.getpid()}[.]"),
                lab_lock("a", "taking this lab down"),
            ):
                pass
        with lab_lock("a-b", "running this lab"):
            pass
    assert list(root.iterdir()) == []
    with lab_lock("a", "running this lab"):
        pass


def test_the_lock_goes_with_a_killed_command(root: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from testbed.runtime.processes import lab_lock as locks\n"
        f"locks.state_root = lambda: Path({str(root)!r})\n"
        "with locks.lab_lock('a', 'running this lab'):\n    print('locked', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(LabBusyError, match=f"running this lab, pid {other.pid}[.]"), lab_lock("a", "x"):
            pass
        other.kill()
    with lab_lock("a", "x"):
        pass
    assert list(root.iterdir()) == []


def test_a_lock_that_was_handed_on_lasts_until_both_have_ended(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[[], bool]
) -> None:
    with lab_lock("a", "bringing this lab up") as lock:
        assert handed_on("a", lock) == {locks.LOCK_VARIABLE: f"a:{lock}"}
        inherited = os.dup(lock)  # by the process that the variable is meant for
        monkeypatch.setenv(locks.LOCK_VARIABLE, f"a:{inherited}")
        inner = lab_lock("a", "bringing this lab up")
        assert inner.__enter__() == inherited
        assert locks.LOCK_VARIABLE not in os.environ, "not for the programs of the lab"
    assert refused()
    inner.__exit__(None, None, None)
    assert not refused()


@pytest.fixture
def refused() -> Callable[[], bool]:
    def ask() -> bool:
        try:
            with lab_lock("a", "x"):
                return False
        except LabBusyError:
            return True

    return ask


@pytest.mark.parametrize("value", ["a:0", "b:3", "a:999", "a:", "nonsense"])
def test_a_descriptor_that_is_not_this_labs_is_not_believed(
    root: Path, monkeypatch: pytest.MonkeyPatch, value: str, refused: Callable[[], bool]
) -> None:
    monkeypatch.setenv(locks.LOCK_VARIABLE, value)
    with lab_lock("a", "x"):
        assert refused()


@pytest.mark.parametrize("name", ["..", "a/b", "", "A"])
def test_only_names_of_labs(name: str, root: Path) -> None:
    with pytest.raises(InputError, match="bad lab name"), lab_lock(name, "x"):
        pass

"""One command at a time brings a lab up, runs it or takes it down.

The lock is a file beside the lab's directory, held by ``flock``: it goes with the process that holds it, however that
ends. Without root the command that the user started takes it, and hands its descriptor to the one that does the work
in the lab's user namespace, so that the lock lasts until both have ended.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from testbed.errors import TestbedError
from testbed.runtime.host.state import state_root
from testbed.runtime.processes.discovery import check_lab_name

#: ``LAB:DESCRIPTOR`` of a lock that whoever started this process holds for it.
LOCK_VARIABLE = "TESTBED_LOCK"
_handed_on: set[int] = set()


class LabBusyError(TestbedError):
    """Another command works on this lab."""


@contextmanager
def lab_lock(lab: str, doing: str) -> Iterator[int]:
    """Hold the lab's lock; gives its descriptor, for :func:`handed_on`.

    ``doing`` tells others what goes on, "bringing this lab up". Raises LabBusyError that names who holds it, and
    InputError for a name that no lab can have.
    """
    check_lab_name(lab)
    path = state_root() / f".{lab}.lock"
    lock = _handed(lab, path)
    if lock is None:
        lock = _take(lab, path)
        # not of one that was handed on: its first holder is the one that the user knows, and can end
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()} {doing}".encode(), 0)
    try:
        yield lock
    finally:
        with suppress(OSError):
            if lock not in _handed_on and _same(lock, path):
                path.unlink()
        _handed_on.discard(lock)
        os.close(lock)


def handed_on(lab: str, lock: int) -> dict[str, str]:
    """What a process that inherits the descriptor must have in its environment. The file is then its to remove."""
    _handed_on.add(lock)
    return {LOCK_VARIABLE: f"{lab}:{lock}"}


def _take(lab: str, path: Path) -> int:
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, _, doing = os.pread(lock, 100, 0).decode(errors="replace").partition(" ")
            os.close(lock)
            raise LabBusyError(
                f"another command is {doing or 'at work on this lab'}, pid {pid or 'not known yet'}. "
                f"Wait until it is done, or end it: kill {pid or 'PID'} takes down what it began."
            ) from None
        # Who held it before may have removed the file after we opened it.
        if _same(lock, path):
            return lock
        os.close(lock)


def _handed(lab: str, path: Path) -> int | None:
    owner, _, number = os.environ.get(LOCK_VARIABLE, "").partition(":")
    if owner != lab or not number.isdigit():
        return None
    del os.environ[LOCK_VARIABLE]  # not for the programs of the lab
    lock = int(number)
    try:
        if not _same(lock, path):
            return None
    except OSError:
        return None
    os.set_inheritable(lock, False)
    return lock


def _same(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False

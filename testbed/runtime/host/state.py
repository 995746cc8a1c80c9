"""Where the state of this user's labs lies, and the lock on what labs share of the system."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from testbed.folders import is_own, make_own, private_folder

#: A lock is waited for without a word so long.
QUIET_SECONDS = 2.0


def state_root() -> Path:
    """Where labs keep their state: /run/testbed as root (also of a user namespace), else a private directory.

    XDG_RUNTIME_DIR counts if it is this user's: ``su`` and ``sudo -u`` leave the one of who called them. Raises
    HostError if somebody else owns what it would be.
    """
    if os.geteuid() == 0:
        return make_own(Path("/run/testbed"), 0o755)
    for runtime_directory in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{os.geteuid()}"):
        if runtime_directory.startswith("/") and is_own(Path(runtime_directory)):
            return make_own(Path(runtime_directory) / "testbed", 0o700)
    return private_folder()


@contextmanager
def system_lock() -> Iterator[None]:
    """Labs come and go one at a time where they share something (the root of the cgroup tree).

    Says whom it waits for after :data:`QUIET_SECONDS`.
    """
    # nobody else may open it: a lock needs no more than that
    descriptor = os.open(state_root() / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor) as handle:
        os.fchmod(descriptor, 0o600)  # one of an earlier version
        _lock(handle.fileno())
        yield


def _lock(descriptor: int) -> None:
    deadline = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < deadline:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.005)
        else:
            return
    logging.getLogger("testbed").warning("waiting for %s", _lock_holder(descriptor))
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def _lock_holder(descriptor: int) -> str:
    """Whom a lock waits for, by /proc/locks: ``the system lock of the labs, held by process 12 (testbed)``."""
    inode = os.fstat(descriptor).st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()  # 1: FLOCK ADVISORY WRITE 711 00:1b:4471 0 EOF; "->" marks one that waits
        if "->" not in fields and fields[5].rpartition(":")[2] == str(inode):
            with suppress(OSError):
                name = Path("/proc", fields[4], "comm").read_text().strip()
                return f"the system lock of the labs, held by process {fields[4]} ({name})"
    return "the system lock of the labs"

"""Labs without root: each lives inside a user namespace of its own, in which its owner is root.

A *holder*, process 1 of the new process namespace, keeps the lab's namespaces while anything in it runs. Commands about
the lab are run again inside, by ``nsenter``. Nothing about a holder is kept in a file: it is found by its name and
environment, and told from a later process with its pid by its start time. When a holder dies, the kernel ends
everything inside.

There is no cgroup and no SCHED_FIFO in there: nothing is capped, and stages are timed with ordinary scheduling.

``python -m testbed.runtime.netns.rootless LAB STATE_ROOT RESULT_DESCRIPTOR COMMAND...`` becomes a holder.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import HostError, TestbedError
from testbed.interrupts import ENDING
from testbed.runtime.host import executables, namespaces
from testbed.runtime.host.facts import user_namespace_error
from testbed.runtime.host.state import state_root
from testbed.runtime.processes import discovery
from testbed.runtime.processes.child import import_path, start_ticks, stat_fields
from testbed.runtime.processes.lab_lock import LOCK_VARIABLE, handed_on

HOLDER_VARIABLE = "TESTBED_HOLDER"
_COMMAND_NAME = "tb-holder"
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Holder:
    """One lab's user namespace: process 1 of it as the host sees it."""

    lab: str
    pid: int
    start_ticks: int


def needed() -> bool:
    """Whether commands about a lab have to go through a holder: not root, and not inside one."""
    return os.geteuid() != 0


def require() -> None:
    """Raises HostError, with the ways out, where no user namespace can be made."""
    error = user_namespace_error()
    if not error:
        return
    ways = ["Run as root"]
    if "not installed" in error:
        ways.append("install util-linux")
    for setting, value in (
        ("kernel/unprivileged_userns_clone", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "0"),
        ("user/max_user_namespaces", "10000"),
    ):
        path = Path("/proc/sys") / setting
        present = path.read_text().strip() if path.exists() else value
        if present != value and not (setting.startswith("user/") and int(present) > 0):
            ways.append(f"allow user namespaces with `sysctl -w {setting.replace('/', '.')}={value}`")
    if len(ways) == 1:
        ways.append("allow user namespaces (in a container: its seccomp profile and /proc masks forbid them)")
    raise HostError(
        f"a lab without root needs a user namespace, and none can be made here ({error})", fix=" or ".join(ways) + "."
    )


def holders(lab: str | None = None) -> list[Holder]:
    """Holders of this user, of one lab or of all, found in /proc."""
    marker = f"{HOLDER_VARIABLE}=".encode()
    found: list[Holder] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if entry.stat().st_uid != os.geteuid() or (entry / "comm").read_text() != f"{_COMMAND_NAME}\n":
                continue
            environment = (entry / "environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        for variable in environment:
            owner = variable.removeprefix(marker).decode(errors="replace")
            if variable.startswith(marker) and lab in (None, owner):
                found.append(Holder(owner, int(entry.name), start_ticks(int(entry.name))))
    return sorted(found, key=lambda holder: holder.lab)


def run_in_new(lab: str, command: Sequence[str], lock: int | None = None) -> int:
    """Run a command (``up``, ``run``) in a new holder for ``lab``; returns its exit code.

    The holder stays after the command while programs of the lab run. SIGINT, SIGTERM and SIGHUP go to the command,
    and so does the descriptor ``lock`` of the lab's lock. Raises HostError, TestbedError (there is a holder already).
    """
    discovery.check_lab_name(lab)
    require()
    if holders(lab):
        raise TestbedError(f"lab {lab!r} is up; `testbed down {lab}` first")
    state = state_root()
    read_end, write_end = os.pipe()
    with _collected(ENDING) as came:
        # Closing the terminal must not end a lab that is up: a session of its own.
        starter = subprocess.Popen(
            [sys.executable, "-P", "-m", "testbed.runtime.netns.rootless", lab, str(state), str(write_end), *command],
            env={**_environment(), HOLDER_VARIABLE: lab, **({} if lock is None else handed_on(lab, lock))},
            pass_fds=(write_end,) if lock is None else (write_end, lock),
            start_new_session=True,
        )
        os.close(write_end)
        starter.wait()
        while not select.select([read_end], [], [], _POLL_SECONDS)[0]:
            if came and (found := holders(lab)):  # there is none for a moment after the start
                _tell([holder.pid for holder in found], came)
        with os.fdopen(read_end) as result:
            answer = result.read()
    if not answer:
        raise TestbedError(f"the holder of lab {lab!r} ended before its command did")
    return int(answer)


def run_in_lab(holder: Holder, command: Sequence[str], lock: int | None = None) -> int:
    """Run a command inside a holder, with the caller's terminal; returns its exit code.

    SIGTERM and SIGHUP go to the command (Ctrl-C reaches it from the terminal), and so does the descriptor ``lock`` of
    the lab's lock. Raises TestbedError if the holder has gone.
    """
    with _collected((signal.SIGTERM, signal.SIGHUP)) as came:
        entered = subprocess.Popen(
            _inside(holder, command),
            env={**_environment(), **({} if lock is None else handed_on(holder.lab, lock))},
            pass_fds=() if lock is None else (lock,),
        )
        while True:
            with suppress(subprocess.TimeoutExpired):
                code = entered.wait(_POLL_SECONDS)
                return code if code >= 0 else 128 - code
            if came:  # nsenter does not hand signals on to what it started
                _tell(_children(entered.pid), came)


@contextmanager
def _collected(numbers: Sequence[signal.Signals]) -> Iterator[list[int]]:
    """Signals that come in here are put into a list; those that this process ignores stay ignored."""
    came: list[int] = []
    previous = {
        number: signal.signal(number, lambda received, _: came.append(received))
        for number in numbers
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _tell(pids: Sequence[int], numbers: list[int]) -> None:
    """Send each process the signals, and forget them once somebody has them."""
    for pid in pids:
        for number in numbers:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
    if pids:
        numbers.clear()


def _children(parent: int) -> list[int]:
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if (fields := stat_fields(pid)) and int(fields[1]) == parent]


def output_in_lab(holder: Holder, command: Sequence[str]) -> str:
    """What a command prints inside a holder. Raises TestbedError if the holder has gone or the command fails."""
    result = subprocess.run(_inside(holder, command), env=_environment(), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise TestbedError(result.stderr.strip() or f"{command[0]} failed in lab {holder.lab!r}")
    return result.stdout


def _environment() -> dict[str, str]:
    """Commands are run again without the present directory in their path: they must still import what this one can."""
    return {**os.environ, "PYTHONPATH": import_path()}


def _inside(holder: Holder, command: Sequence[str]) -> list[str]:
    if start_ticks(holder.pid) != holder.start_ticks:
        raise TestbedError(f"the holder of lab {holder.lab!r} (process {holder.pid}) has ended")
    [nsenter] = executables.require("entering a lab", "nsenter")
    return [
        *(nsenter, f"--target={holder.pid}", "--user", "--net", "--mount", "--pid", "--preserve-credentials"),
        *(f"--wd={Path.cwd()}", "--", *command),
    ]


def remove(lab: str, timeout_seconds: float = 5.0) -> None:
    """End a lab from outside: its holder, with everything in it, and its state. Idempotent. Raises TestbedError."""
    discovery.check_lab_name(lab)
    deadline = time.monotonic() + timeout_seconds
    while found := holders(lab):
        for holder in found:
            with suppress(ProcessLookupError):
                os.kill(holder.pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TestbedError(f"the holder of lab {lab!r} does not end although it was killed")
        time.sleep(0.01)
    shutil.rmtree(state_root() / lab, ignore_errors=True)


# ------------------------------------------------------------------------------------------- process 1 of a holder


def hold(lab: str, outer_state: str, result: int, command: Sequence[str]) -> None:
    """Prepare the mounts, run the command, tell its exit code, then reap until no program of the lab is left.

    ``result`` is the descriptor that takes the exit code.
    """
    os.set_inheritable(result, False)
    child: subprocess.Popen[bytes] | None = None
    came: list[int] = []

    def receive(number: int, _: object) -> None:
        if child is None:
            came.append(number)
        else:
            child.send_signal(number)

    for number in ENDING:  # before it can be found by its name: process 1 does not get a signal that it does not handle
        signal.signal(number, receive)
    namespaces.become_root_of_user_namespace()
    Path("/proc/self/comm").write_text(_COMMAND_NAME)
    _cover_run(outer_state)
    lock = os.environ.get(LOCK_VARIABLE, "").rpartition(":")[2]
    # Only the holder itself may carry its marker.
    child = subprocess.Popen(
        command,
        env={name: value for name, value in os.environ.items() if name != HOLDER_VARIABLE},
        pass_fds=(int(lock),) if lock else (),
    )
    if lock:
        os.close(int(lock))  # the command's, not the lab's
    for early in came:
        child.send_signal(early)
    code = child.wait()
    # The caller waits for the end of these, not only for the answer.
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.write(result, str(code if code >= 0 else 128 - code).encode())
    os.close(result)
    while discovery.processes(lab):
        _reap()
        time.sleep(_POLL_SECONDS)


def _cover_run(outer_state: str) -> None:
    """A /run that the lab may write to: its own network namespaces and state, and all else as it is outside."""
    # before they are covered; descriptors of the old mount namespace could not be bound
    state = os.open(outer_state, os.O_PATH | os.O_DIRECTORY)
    run = os.open("/run", os.O_PATH | os.O_DIRECTORY)
    namespaces.mount("tmpfs", Path("/run"), 0, "tmpfs", "mode=755")
    # Logs and state stay readable from outside, also when the holder has died.
    namespaces.bind_mount(f"/proc/self/fd/{state}", state_root())
    outer = Path(f"/proc/self/fd/{run}")
    for entry in outer.iterdir():
        target = Path("/run") / entry.name
        if target == namespaces.NETNS_DIRECTORY or target.exists():
            continue
        # a lab may lie in here (/run/media/...); what cannot be shown (a dead FUSE mount) stays hidden
        with suppress(OSError):
            if entry.is_symlink():
                target.symlink_to(entry.readlink())
                continue
            target.mkdir() if entry.is_dir() else target.touch()
            namespaces.bind_tree(str(entry), target)
    os.close(state)
    os.close(run)


def _reap() -> None:
    """Orphans of the lab become children of process 1."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


if __name__ == "__main__":
    hold(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])

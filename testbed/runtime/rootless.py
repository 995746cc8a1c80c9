"""Labs without root: each lives inside a user namespace of its own, in which its owner is root.

A *holder* (``unshare`` and, as its only child, process 1 of the new process namespace) keeps the lab's namespaces while
anything in it runs. Commands about the lab are run again inside, by ``nsenter``. Nothing about a holder is kept in a
file: it is found by its environment, and told from a later process with its pid by its start time. When a holder dies,
the kernel ends everything inside.

There is no cgroup and no SCHED_FIFO in there: nothing is capped, and stages are timed with ordinary scheduling.

``python -m testbed.runtime.rootless LAB STATE_ROOT -- COMMAND...`` is process 1 of a holder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import HostError, TestbedError
from testbed.runtime import discovery, namespaces
from testbed.runtime.child import start_ticks, stat_fields
from testbed.runtime.host import user_namespace_error

HOLDER_VARIABLE = "TESTBED_HOLDER"
_RESULT_VARIABLE = "TESTBED_HOLDER_RESULT"
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
    parents: dict[int, str] = {}
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        fields = stat_fields(pid)
        if not fields or fields[0] in "ZX":
            continue
        children.setdefault(int(fields[1]), []).append(pid)
        try:
            if entry.stat().st_uid != os.geteuid() or (entry / "comm").read_text().strip() != "unshare":
                continue
            environment = (entry / "environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        for variable in environment:
            if variable.startswith(marker):
                parents[pid] = variable[len(marker) :].decode(errors="replace")
    for parent, owner in sorted(parents.items()):
        if lab in (None, owner):
            found += [Holder(owner, pid, start_ticks(pid)) for pid in children.get(parent, [])]
    return found


def run_in_new(lab: str, command: Sequence[str]) -> int:
    """Run a command (``up``, ``run``) in a new holder for ``lab``; returns its exit code.

    The holder stays after the command while programs of the lab run. SIGINT and SIGTERM go to the command.
    Raises HostError, TestbedError (there is a holder already).
    """
    discovery.check_lab_name(lab)
    require()
    if holders(lab):
        raise TestbedError(f"lab {lab!r} is up; `testbed down {lab}` first")
    state = discovery.state_root()
    read_end, write_end = os.pipe()
    holder = subprocess.Popen(
        [
            *("unshare", "-Urnmpf", "--kill-child", "--mount-proc"),
            *(sys.executable, "-P", "-m", "testbed.runtime.rootless", lab, str(state), "--", *command),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
            HOLDER_VARIABLE: lab,
            _RESULT_VARIABLE: str(write_end),
        },
        pass_fds=(write_end,),
        # Closing the terminal must not end the lab.
        start_new_session=True,
    )
    os.close(write_end)

    def forward(number: int, _: object) -> None:
        for inner in holders(lab):
            with suppress(ProcessLookupError):
                os.kill(inner.pid, number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with os.fdopen(read_end) as result:
            answer = result.read()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if not answer:
        holder.wait()
        raise TestbedError(f"the holder of lab {lab!r} ended before its command did (exit code {holder.returncode})")
    return int(answer)


def run_in_lab(holder: Holder, command: Sequence[str]) -> int:
    """Run a command inside a holder, with the caller's terminal; returns its exit code.

    Raises TestbedError if the holder has gone.
    """
    if start_ticks(holder.pid) != holder.start_ticks:
        raise TestbedError(f"the holder of lab {holder.lab!r} (process {holder.pid}) has ended")
    result = subprocess.run(
        [
            *("nsenter", f"--target={holder.pid}", "--user", "--net", "--mount", "--pid", "--preserve-credentials"),
            *(f"--wd={Path.cwd()}", "--", *command),
        ],
        check=False,
    )
    return result.returncode


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
    shutil.rmtree(discovery.state_root() / lab, ignore_errors=True)


# ------------------------------------------------------------------------------------------- process 1 of a holder


def hold(lab: str, outer_state: str, command: Sequence[str]) -> int:
    """Prepare the mounts, run the command, tell its exit code, then reap until no program of the lab is left."""
    state = os.open(outer_state, os.O_PATH | os.O_DIRECTORY)
    namespaces.mount("tmpfs", Path("/run"), 0, "tmpfs", "mode=755")
    inner_state = discovery.state_root()
    # Logs and state stay readable from outside, also when the holder has died.
    namespaces.bind_mount(f"/proc/self/fd/{state}", inner_state)
    os.close(state)
    result = int(os.environ.pop(_RESULT_VARIABLE))
    os.set_inheritable(result, False)
    # Only the holder itself may carry its marker.
    del os.environ[HOLDER_VARIABLE]
    child = subprocess.Popen(command)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: child.send_signal(received))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    code = child.wait()
    os.write(result, str(code if code >= 0 else 128 - code).encode())
    os.close(result)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    while discovery.processes(lab):
        _reap()
        time.sleep(_POLL_SECONDS)
    return 0


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
    sys.exit(hold(sys.argv[1], sys.argv[2], sys.argv[4:]))

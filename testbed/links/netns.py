"""Doing something inside a network namespace: a short-lived thread enters it, so that the process itself never moves.

Sockets that such a thread opens stay in the namespace, and programs that it starts begin in it. ``os.setns`` exists
from Python 3.12 on; until then the C library's is called.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from testbed.errors import HostError, TestbedError

RUN_NETNS = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

Result = TypeVar("Result")


def in_namespace(name: str, function: Callable[[], Result]) -> Result:
    """The result of ``function``, called inside ``/run/netns/NAME``. Its exceptions pass through.

    Raises TestbedError if there is no such namespace, HostError if the host does not let us enter it.
    """

    def enter() -> None:
        try:
            descriptor = os.open(RUN_NETNS / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise TestbedError(f"there is no network namespace {name!r}: is the lab up?") from None
        try:
            if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
                raise _refused(f"cannot enter the network namespace {name!r}")
        finally:
            os.close(descriptor)

    return _in_thread(enter, function)


def in_new_namespace(function: Callable[[], Result]) -> Result:
    """The result of ``function``, called inside a nameless namespace that ends with the call."""

    def enter() -> None:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            raise _refused("cannot make a network namespace")

    return _in_thread(enter, function)


def _in_thread(enter: Callable[[], None], function: Callable[[], Result]) -> Result:
    results: list[Result] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            enter()
            results.append(function())
        except BaseException as error:  # noqa: BLE001  # raised again by the caller's thread
            errors.append(error)

    thread = threading.Thread(target=body, name="netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _refused(what: str) -> HostError:
    return HostError(
        f"{what}: {os.strerror(ctypes.get_errno())}",
        fix="Run as root, or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1).",
    )


def batch(program: str, lines: Sequence[str], *, force: bool = False) -> None:
    """``ip -batch -`` or ``tc -batch -`` in the calling thread's namespace. Raises TestbedError with what failed.

    ``force`` goes on after a line that fails and then raises nothing.
    """
    if not lines:
        return
    command = [program, *(["-force"] if force else []), "-batch", "-"]
    try:
        answer = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise HostError("making wires", missing=f"the program {program}", fix="apt install iproute2.") from None
    if answer.returncode != 0 and not force:
        reason = " ".join(answer.stderr.split())
        failed = reason.rpartition("-:")[2].rstrip()
        line = f" ({lines[int(failed) - 1]!r})" if failed.isdigit() and 0 < int(failed) <= len(lines) else ""
        raise TestbedError(f"{program} -batch failed: {reason}{line}")


def write_sysctls(values: Mapping[str, str], optional: frozenset[str] = frozenset()) -> None:
    """Write ``net/...`` sysctls of the calling thread's namespace; ``optional`` ones only where the kernel has them.

    Raises HostError for one that is refused or lacks.
    """
    for key, value in values.items():
        path = Path("/proc/sys") / key
        try:
            path.write_text(value, encoding="ascii")
        except FileNotFoundError:
            if key not in optional:
                raise HostError(f"setting {key} to {value}", missing="that sysctl") from None
        except OSError as error:
            raise HostError(f"setting {key} to {value} was refused: {error.strerror}") from None

"""What of ours exists on this system, found from the system itself, and its removal.

A lab file or a record may be lost or wrong; these cannot: names of namespaces (``tb.LAB.NODE``), cgroups
(``testbed/LAB``), the environment of processes (``TESTBED_LAB=LAB``), directories under :func:`state_root`. Lab names
have no dots, and every comparison is with a whole name, so that ``a`` never takes ``a-b``'s.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from testbed.errors import InputError, TestbedError
from testbed.runtime.base import Owned
from testbed.runtime.host import namespaces
from testbed.runtime.host.cgroups import detect
from testbed.runtime.host.state import state_root, system_lock
from testbed.runtime.processes.child import stat_fields
from testbed.runtime.processes.identity import CONTAINER_UID, ID_VARIABLE, is_local, read_identity

LAB_VARIABLE = "TESTBED_LAB"
_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,38}[a-z0-9])?")


def check_lab_name(lab: str) -> None:
    """Raises InputError unless ``lab`` can be part of namespace and path names."""
    if not _NAME.fullmatch(lab):
        raise InputError(
            "bad lab name", value=lab, allowed="up to 40 of a-z, 0-9, '-' and '_', starting and ending with a-z or 0-9"
        )


def markers(lab: str) -> dict[str, str]:
    """Environment by which a process is the lab's."""
    identity = read_identity(state_root() / lab)
    return {LAB_VARIABLE: lab} | ({} if identity is None else {ID_VARIABLE: identity.id})


def processes(lab: str | None = None) -> dict[int, str]:
    """Living processes of this user that carry the marker: pid -> lab. This process and its ancestors are left out,
    and so are those of other containers on this host."""
    found: dict[int, str] = {}
    ours = _self_and_ancestors()
    users = {os.geteuid()} | ({CONTAINER_UID} if os.geteuid() == 0 else set())
    ids: dict[str, set[str]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in ours:
            continue
        try:
            # A lab of the same name may belong to somebody else.
            if entry.stat().st_uid not in users:
                continue
            environment = _environment(entry)
            owner = environment.get(LAB_VARIABLE.encode(), b"").decode(errors="replace")
            if not owner or lab not in (None, owner):
                continue
            if owner not in ids:
                known = read_identity(state_root() / owner) if _NAME.fullmatch(owner) else None
                ids[owner] = {known.id} if known is not None else set()
            if is_local(int(entry.name), environment, ids[owner]):
                found[int(entry.name)] = owner
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def list_owned(lab: str | None = None) -> list[Owned]:
    """Everything of ours (of one lab, or of all) that exists now."""
    owned: list[Owned] = []
    for name in _namespaces("tb."):
        parts = name.split(".")
        if len(parts) == 3 and lab in (None, parts[1]):
            owned.append(Owned(parts[1], "namespace", name))
    cgroups = detect()
    for owner in sorted(cgroups.labs()):
        if lab in (None, owner):
            owned += [Owned(owner, "cgroup", str(path)) for path in cgroups.lab_groups(owner)]
    owned += [Owned(owner, "process", str(pid)) for pid, owner in sorted(processes(lab).items())]
    owned += [
        Owned(entry.name, "directory", str(entry))
        for entry in sorted(state_root().iterdir())
        if entry.is_dir() and _NAME.fullmatch(entry.name) and lab in (None, entry.name)
    ]
    return owned


def remove(lab: str, timeout_seconds: float = 5.0) -> None:
    """Kill and delete everything of a lab; nothing happens if there is nothing. Results are elsewhere and stay.

    What cannot be removed does not keep the rest. Raises TestbedError that tells it, such as a process that survives
    its kill for ``timeout_seconds``.
    """
    check_lab_name(lab)
    trouble: list[str] = []
    steps: list[Callable[[], object]] = [lambda: kill_processes(lab, timeout_seconds)]
    steps += [partial(namespaces.delete, name) for name in _namespaces(f"tb.{lab}.")]
    steps += [lambda: _remove_groups(lab), lambda: _remove_directory(state_root() / lab)]
    for step in steps:
        try:
            step()
        except (TestbedError, OSError) as error:
            trouble.append(str(error))
    if trouble:
        raise TestbedError("; ".join(trouble))


def _remove_groups(lab: str) -> None:
    with system_lock():
        detect().remove(lab)
    for group in detect().lab_groups(lab):
        inside = ", ".join((group / "cgroup.procs").read_text().split()) or "none"
        raise TestbedError(f"the cgroup {group} cannot be removed (processes in it: {inside})")


def _remove_directory(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path)


def kill_processes(lab: str, timeout_seconds: float) -> None:
    """Kill until none is left: one may fork while we look. Raises TestbedError when that takes too long."""
    deadline = time.monotonic() + timeout_seconds
    while living := {*processes(lab), *strays(lab)}:
        for pid in living:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TestbedError(f"processes {sorted(living)} of lab {lab!r} do not end although they were killed")
        time.sleep(0.01)


def strays(lab: str) -> set[int]:
    """Living processes in the lab's cgroups or namespaces, marker or not; this process and its ancestors are left out.

    A program that was started with an environment of its own has no marker.
    """
    found: set[int] = set()
    for group in detect().lab_groups(lab):
        with suppress(OSError):
            found.update(int(line) for line in (group / "cgroup.procs").read_text().split())
    inodes = {
        (namespaces.NETNS_DIRECTORY / name).stat().st_ino
        for name in _namespaces(f"tb.{lab}.")
        if namespaces.exists(name)
    }
    # A name may have been given to a namespace that is not the lab's: everybody else lives in these.
    for shared in ("self", "1"):
        with suppress(OSError):
            inodes.discard(Path(f"/proc/{shared}/ns/net").stat().st_ino)
    if inodes:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if (entry / "ns/net").stat().st_ino in inodes:
                        found.add(int(entry.name))
    # 0: in a process namespace that is not ours
    return {pid for pid in found - _self_and_ancestors() - {0} if stat_fields(pid)[:1] not in ([], ["Z"], ["X"])}


def _namespaces(prefix: str) -> list[str]:
    # Outside of a user namespace, those of a user who is not root are not to be seen: what is there is root's.
    return namespaces.names(prefix) if os.geteuid() == 0 else []


def _environment(process: Path) -> dict[bytes, bytes]:
    variables = (process / "environ").read_bytes().split(b"\0")
    return {name: value for name, _, value in (variable.partition(b"=") for variable in variables)}


def _self_and_ancestors() -> set[int]:
    # `testbed down`, typed in a shell that `testbed exec` opened, must live to finish its work.
    pids = {os.getpid()}
    pid = os.getppid()
    while pid > 0 and pid not in pids:
        pids.add(pid)
        fields = stat_fields(pid)
        if not fields:
            break
        pid = int(fields[1])
    return pids

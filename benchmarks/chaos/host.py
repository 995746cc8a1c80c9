"""What a lab may leave on a host, found in other ways than the testbed finds it, and what must be as it was before."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from benchmarks.chaos.scene import TOKEN, is_alive
from testbed.runtime.host.state import state_root

#: What torch keeps there for all programs of a user.
CACHES = ("torchinductor_",)
Snapshot = Mapping[str, frozenset[str]]


def _lines(*command: str) -> list[str]:
    if shutil.which(command[0]) is None:
        return []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def snapshot() -> Snapshot:
    """Links, queueing disciplines, packet filter rules and real-time caps of the host itself."""
    found = {
        "link": {line.split(":")[1].strip() for line in _lines("ip", "-o", "link")},
        "qdisc": set(_lines("tc", "qdisc", "show")),
        "filter": {re.sub(r"\[\d+:\d+\]", "", line) for line in _lines("iptables-save") if line[:1] != "#"},
        "address": {" ".join(line.split()[1:4]) for line in _lines("ip", "-o", "addr")},
        "real-time cap": set(),
    }
    for path in (
        *Path("/proc/sys/kernel").glob("sched_rt_*"),
        *Path("/sys/fs/cgroup").glob("cpu*/cpu.rt_runtime_us"),
        *Path("/sys/fs/cgroup").glob("cpu*/docker/cpu.rt_runtime_us"),
    ):
        with suppress(OSError):
            found["real-time cap"].add(f"{path} {path.read_text().strip()}")
    return {kind: frozenset(lines) for kind, lines in found.items()}


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """What came and went."""
    result: list[str] = []
    for kind in sorted({*before, *after}):
        was, now = before.get(kind, frozenset()), after.get(kind, frozenset())
        result += [f"{kind} gone: {line}" for line in sorted(was - now)]
        result += [f"{kind} new: {line}" for line in sorted(now - was)]
    return result


def labs_of_others(name: str) -> frozenset[str]:
    """Labs on this host but this one: where they come and go, the host is not as before."""
    names = {path.name.strip(".").removesuffix(".lock") for path in state_root().iterdir()}
    return frozenset(names - {name})


def left_behind(name: str, folder: Path) -> list[str]:
    """Everything of a lab that is still there: processes, namespaces, groups, containers, mounts, files."""
    found = [f"namespace {path.name}" for path in _entries(Path("/run/netns")) if f".{name}." in path.name]
    for tree in _entries(Path("/sys/fs/cgroup")):
        found += [f"cgroup {path}" for path in (*tree.glob(f"testbed/{name}"), *tree.glob(f"*/testbed/{name}"))]
    found += [f"file {path}" for path in _entries(state_root()) if path.name.strip(".").removesuffix(".lock") == name]
    found += [f"container {line}" for line in containers(name)]
    found += [f"mount {line.split()[1]}" for line in Path("/proc/mounts").read_text().splitlines() if name in line]
    found += [f"process {line}" for line in processes(name)]
    found += [f"temporary file {path}" for path in _entries(folder / "tmp") if not path.name.startswith(CACHES)]
    return found


def processes(name: str) -> list[str]:
    """Whatever a command of this lab has started, on the host or in a container, by its environment."""
    marks = {f"{TOKEN}={name}".encode(), f"TESTBED_LAB={name}".encode()}
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            if marks & set((entry / "environ").read_bytes().split(b"\0")) and is_alive(int(entry.name)):
                found.append(f"{entry.name} {(entry / 'comm').read_text().strip()}")
    return found


def containers(name: str, *options: str) -> list[str]:
    return _lines("docker", "ps", "-a", "--filter", f"label=testbed.lab={name}", "--format", "{{.Names}}", *options)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []

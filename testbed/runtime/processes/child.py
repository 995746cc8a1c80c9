"""How a process of a lab comes to life after fork: its cgroups, its namespace, its log, then its program."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from testbed.runtime.host import cgroups, namespaces

LOG_BYTES = 8 << 20
LOG_SECONDS = 2.0


class ChildSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a process runs and what it runs. All paths are absolute."""

    node: str
    program: str  # module with main(config_path)
    config: str
    log: str  # appended to
    namespace: str  # path under /run/netns; empty: the caller's
    cgroups: tuple[str, ...]


class ProcessEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of a lab's ``processes.jsonl``: who started, and how it ended. Written by the process's parent."""

    kind: Literal["start", "exit"]
    node: str
    program: str
    pid: int
    start_ticks: int  # tells a process from a later one with the same pid
    exit_code: int | None = None  # negative: killed by that signal


def enter(group_paths: tuple[str, ...], namespace: str) -> None:
    """Join cgroups, then the network namespace: sockets opened from now on belong to the node.

    Raises HostError, OSError.
    """
    for path in group_paths:
        cgroups.join(Path(path))
    if namespace:
        namespaces.enter(Path(namespace))


def become(spec: ChildSpec) -> None:
    """Turn a freshly forked process into the node's: own session, log, name, place."""
    os.setsid()
    log = os.open(spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.close(null)
    os.environ["TESTBED_NODE"] = spec.node
    Path("/proc/self/comm").write_text(f"tb-{spec.node}"[:15])
    enter(spec.cgroups, spec.namespace)


def run_program(spec: ChildSpec) -> None:
    """Import the program and run its ``main``. What it raises ends up in the log as a traceback."""
    importlib.import_module(spec.program).main(Path(spec.config))


def import_path() -> str:
    """PYTHONPATH of a process that must import what this one can, a user's models and policies, too."""
    return os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)


def start_ticks(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 if there is none."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else 0


def stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on (field 3 of proc(5) is index 0); empty if there is none.

    ``pid`` may be a thread's. The kernel cuts names after 15 bytes, so they need not be text.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def cap_log(path: Path) -> None:
    """Keep a log under :data:`LOG_BYTES` by forgetting its beginning: it lies in memory (/run), for days.

    Its programs append, so that they go on at the new end. Called every :data:`LOG_SECONDS` by their parent.
    """
    with suppress(OSError):
        if path.stat().st_size <= LOG_BYTES:
            return
        with path.open("rb") as log:
            log.seek(-LOG_BYTES // 2, os.SEEK_END)
            log.readline()  # the rest of a line
            kept = log.read()
        os.truncate(path, 0)
        with path.open("ab") as log:
            log.write(b"(what was before this was forgotten: the log had grown too long)\n" + kept)


def record(lab_directory: Path, event: ProcessEvent) -> None:
    """Append one line. Short appends are atomic, so that several parents may write."""
    with (lab_directory / "processes.jsonl").open("ab") as stream:
        # begun by a line feed, too: a line that was torn (a full disk) must not take this one with it
        stream.write(b"\n" + msgspec.json.encode(event) + b"\n")


def read_records(lab_directory: Path) -> list[ProcessEvent]:
    """All lines so far that can be read; none if nothing was started."""
    try:
        lines = (lab_directory / "processes.jsonl").read_bytes().splitlines()
    except FileNotFoundError:
        return []
    decoder = msgspec.json.Decoder(ProcessEvent)
    found: list[ProcessEvent] = []
    for line in filter(None, lines):
        with suppress(msgspec.DecodeError, UnicodeDecodeError):  # torn, or written by another version
            found.append(decoder.decode(line))
    return found

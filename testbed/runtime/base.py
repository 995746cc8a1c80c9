"""Where nodes live: one Protocol, two runtimes (docker, netns)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Role = Literal["ue", "edge", "radio", "controller", "player", "recorder", "exporter"]


@dataclass(frozen=True)
class NodeSpec:
    """A place where processes run, with its own network namespace if it is on a wire."""

    name: str
    role: Role
    #: Reference cores that its stages may use (a UE's maximum speed, the edge's cpus); 0: not limited.
    cpus: float = 0.0
    #: cgroup cap in host cores over a 10 ms period: max(2 s, s + 0.2) reference cores at speed s; 0: none
    quota_host_cores: float = 0.0
    #: What its processes may take; 0: as much as there is.
    memory_bytes: int = 0
    #: The lab file does not ask for that limit: a host that cannot give it is none the worse.
    memory_by_default: bool = False
    network: bool = True
    #: CPUs that it may run on, as the kernel writes them (``0-2,5``); empty: all
    cpu_list: str = ""


@dataclass(frozen=True)
class ProcessSpec:
    """A program of ours to start in (or beside) a node. ``program`` is a module with ``main(config_path)``."""

    node: str
    program: str  # a module, see testbed.runtime.programs
    config: Path
    #: programs that need torch are forked from the process that imported it
    needs_torch: bool = False


@dataclass(frozen=True)
class Owned:
    """Something of ours that exists on this system, found from the system itself."""

    lab: str
    kind: Literal["namespace", "cgroup", "process", "directory", "container", "holder"]
    name: str


@dataclass(frozen=True)
class ProcessStatus:
    node: str
    program: str
    pid: int
    running: bool
    exit_code: int | None = None
    out_of_memory: bool = False  # the kernel killed it (or one of its node's): it had used up the node's memory

    @property
    def how_it_ended(self) -> str:
        """`` with exit code -9: ...``, as the rest of a sentence; empty where nobody knows."""
        code = "" if self.exit_code is None else f" with exit code {self.exit_code}"
        reason = " (killed by the kernel: it had used up its node's memory; the lab file's key 'memory' is the limit)"
        return code + (reason if self.out_of_memory else "")


class Runtime(Protocol):
    """All methods raise HostError for what the host refuses, TestbedError for what failed."""

    name: str
    lab: str

    @property
    def features(self) -> dict[str, Any]:
        """What this host lets the runtime do: ``cgroup`` (v1, v2, none), ``realtime``, ``rootless``."""

    def prewarm(self, imports: Iterable[str] = (), calls: Iterable[Any] = ()) -> None:
        """Start what takes long (importing torch) while the caller does other things. Returns at once."""

    def create(self, nodes: Sequence[NodeSpec]) -> None:
        """Create nodes (in parallel where it pays). Afterwards ``netns_name(node)`` exists under /run/netns."""

    def netns_name(self, node: str) -> str:
        """Name under /run/netns, ``tb.LAB.NODE``; ``ip -n NAME`` works with it in both runtimes."""

    def start(self, processes: Sequence[ProcessSpec]) -> None:
        """Start programs. Returns when they have been started, not when they are ready (they say Hello)."""

    def exec(self, node: str, command: Sequence[str]) -> int:
        """Run a command inside a node with the caller's stdin/stdout; returns its exit code."""

    def logs(self, node: str) -> Path | str:
        """Log of a node."""

    def set_cpu(self, node: str, quota_host_cores: float) -> None:
        """Change the cap in place."""

    def make_realtime(self, node: str, tid: int, priority: int) -> bool:
        """SCHED_FIFO for one thread (tid as the node sees it), from outside. False where the host refuses."""

    def cpu_directory(self, node: str) -> Path | None:
        """The node's group in the CPU controller, with ``cpu.stat`` and ``cgroup.procs``; None where it has none."""

    def processes(self) -> list[ProcessStatus]:
        """Processes of this lab, alive or dead."""

    def remove(self) -> None:
        """Remove everything of this lab. Idempotent; also after a crash."""


def namespace_name(lab: str, node: str) -> str:
    """``tb.LAB.NODE``: lab and node names have no dots, so a prefix ``tb.LAB.`` is unambiguous."""
    return f"tb.{lab}.{node}"


#: Folder of a lab's directory with profiles, scenario and files of policy options: every node may read it.
SHARED = "shared"


#: Where the command line, and what watches a lab, is heard. No node has a dot in its name.
OPERATOR = ".operator"

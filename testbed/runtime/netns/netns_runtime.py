"""The embedded runtime: network namespaces, cgroups, and processes forked from one that has imported torch."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from testbed.errors import InputError, TestbedError
from testbed.runtime.base import OPERATOR, SHARED, NodeSpec, ProcessSpec, ProcessStatus, namespace_name
from testbed.runtime.host import namespaces, realtime
from testbed.runtime.host.cgroups import detect
from testbed.runtime.host.facts import in_user_namespace
from testbed.runtime.host.state import system_lock
from testbed.runtime.netns.launch import Place
from testbed.runtime.processes import discovery
from testbed.runtime.processes.child import ChildSpec, import_path, read_records, stat_fields
from testbed.runtime.processes.identity import ID_VARIABLE, identity_of, read_identity
from testbed.runtime.processes.zygote import Call, Preparation, ZygoteClient

#: Read by OpenMP, MKL and OpenBLAS when they load: each would start a thread per core of the host.
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

#: A host that is very busy takes seconds to start an interpreter.
LAUNCH_SECONDS = 60.0


@dataclass(frozen=True)
class _Launch:
    """A program on its way, and the descriptor that tells once it is recorded."""

    spec: ChildSpec
    started: int


class NetnsRuntime:
    """One lab's nodes. Holds nothing that cannot be found again: any command may construct it for a running lab."""

    name = "netns"

    def __init__(self, lab: str, lab_directory: Path, run_id: str) -> None:
        discovery.check_lab_name(lab)
        self.lab = lab
        self.lab_directory = lab_directory
        self._run_id = run_id
        self._cgroups = detect()
        self._zygote = ZygoteClient(lab_directory)
        self._preparation = Preparation(imports=("torch",))
        self._launched: list[subprocess.Popen[bytes]] = []

    @cached_property
    def features(self) -> dict[str, Any]:
        """What this host lets the runtime do: ``cgroup`` (v1, v2, none), ``realtime``, ``rootless``."""
        with system_lock():
            fifo = realtime.available(self._cgroups)
        return {"cgroup": self._cgroups.version, "realtime": fifo, "rootless": in_user_namespace()}

    # ------------------------------------------------------------------------------------------------------ bring-up

    def prewarm(self, imports: Iterable[str] = (), calls: Iterable[Call] = ()) -> None:
        """Start importing torch, then ``imports``, then make ``calls`` (model loading), while the caller plumbs.

        Returns at once; what fails shows when :meth:`start` needs it. Does nothing if one is alive.
        """
        self._make_directories()
        if not self._zygote.alive():
            self._preparation = Preparation(("torch", *imports), tuple(calls))
            self._zygote.spawn(self._environment(), self._preparation)

    def wait_until_warm(self) -> None:
        """Wait for what :meth:`prewarm` began. Raises TestbedError with its reason if it failed."""
        self._zygote.fork(())

    def create(self, nodes: Sequence[NodeSpec]) -> None:
        """Create what is missing of the nodes' cgroups and namespaces. Raises HostError, InputError."""
        self._make_directories()
        for node in nodes:
            (self.lab_directory / "ipc" / node.name).mkdir(exist_ok=True)
        with system_lock():
            for node in nodes:
                self._cgroups.create(self.lab, node)
            namespaces.create([self.netns_name(node.name) for node in nodes if node.network])

    def start(self, processes: Sequence[ProcessSpec]) -> None:
        """Start programs: those that need torch by fork, the others by themselves.

        Returns when :meth:`processes` knows all of them. Raises TestbedError.
        """
        forked = [self._child(process) for process in processes if process.needs_torch]
        launched = [self._launch(self._child(process)) for process in processes if not process.needs_torch]
        try:
            if forked:
                if not self._zygote.alive():
                    self._zygote.spawn(self._environment(), self._preparation)
                self._zygote.fork(forked)
            for launch in launched:
                self._await_start(launch)
        finally:
            for launch in launched:
                os.close(launch.started)

    def _launch(self, spec: ChildSpec) -> _Launch:
        started, tell = os.pipe()
        with Path(spec.log).open("ab") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "testbed.runtime.netns.launch"),
                    *(str(self.lab_directory), msgspec.json.encode(spec).decode(), str(tell)),
                ],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(tell,),
                start_new_session=True,
            )
        os.close(tell)
        self._launched.append(process)
        return _Launch(spec, started)

    def _await_start(self, launch: _Launch) -> None:
        """Until the launcher has recorded its program: before, nobody could tell that there is one."""
        spec = launch.spec
        if not select.select([launch.started], [], [], LAUNCH_SECONDS)[0]:
            raise TestbedError(f"{spec.program} of {spec.node!r} was not started within {LAUNCH_SECONDS:g} s")
        if not os.read(launch.started, 1):
            lines = Path(spec.log).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise TestbedError(f"{spec.program} of {spec.node!r} could not be started: {' | '.join(lines[-3:])}")

    def _child(self, process: ProcessSpec) -> ChildSpec:
        place = self._place(process.node)
        return ChildSpec(
            node=process.node,
            program=process.program,
            config=str(process.config.absolute()),
            log=str(self.logs(process.node)),
            namespace=place.namespace,
            cgroups=place.cgroups,
        )

    def _place(self, node: str) -> Place:
        name = self.netns_name(node)
        namespace = str(namespaces.NETNS_DIRECTORY / name) if namespaces.exists(name) else ""
        return Place(namespace, tuple(str(path) for path in self._cgroups.groups(self.lab, node)))

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **dict.fromkeys(ONE_THREAD, "1"),
            "PYTHONPATH": import_path(),
            "PYTHONUNBUFFERED": "1",
            discovery.LAB_VARIABLE: self.lab,
            ID_VARIABLE: identity_of(self.lab_directory).id,
            "TESTBED_RUN_ID": self._run_id,
        }

    def _make_directories(self) -> None:
        # Other users of the host have no business at the sockets.
        self.lab_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("ipc", f"ipc/{OPERATOR}", "config", SHARED, "logs"):
            (self.lab_directory / name).mkdir(exist_ok=True)
        identity_of(self.lab_directory)

    # ------------------------------------------------------------------------------------------------ a running lab

    def netns_name(self, node: str) -> str:
        return namespace_name(self.lab, node)

    def exec(self, node: str, command: Sequence[str]) -> int:
        """Run a command inside a node with the caller's terminal; 127 if there is no such command.

        Raises InputError for a node that does not exist.
        """
        place = self._place(node)
        if not place.namespace and node not in self._nodes():
            raise InputError(
                f"lab {self.lab!r} has no such node",
                value=node,
                allowed=", ".join(self._nodes()) or "none: it is not up",
            )
        environment = {**os.environ, discovery.LAB_VARIABLE: self.lab, "TESTBED_NODE": node}
        if (identity := read_identity(self.lab_directory)) is not None:
            environment[ID_VARIABLE] = identity.id
        environment["PYTHONPATH"] = import_path()
        argument = msgspec.json.encode(place).decode()
        result = subprocess.run(
            [sys.executable, "-P", "-m", "testbed.runtime.netns.launch", "--exec", argument, *command],
            env=environment,
            check=False,
        )
        return result.returncode

    def logs(self, node: str) -> Path:
        """Path of a node's log: standard output and error of all its programs."""
        return self.lab_directory / "logs" / f"{node}.log"

    def set_cpu(self, node: str, quota_host_cores: float) -> None:
        """Change a node's cap in place; 0 takes it away. Raises InputError, HostError."""
        self._cgroups.set_quota(self.lab, node, quota_host_cores)

    def make_realtime(self, node: str, tid: int, priority: int) -> bool:
        """SCHED_FIFO for one thread; False where the host refuses. Raises TestbedError if the node has no such thread.

        A node has no process namespace of its own, so that ``tid`` is what the node sees, too. The node says it: it
        might name any process of the host.
        """
        pids = [process.pid for process in self.processes() if process.node == node and process.running]
        if not any(Path(f"/proc/{pid}/task/{tid}").exists() for pid in pids):
            raise TestbedError(f"thread {tid} is none of {node}'s")
        with system_lock():
            return realtime.make_fifo(self._cgroups, tid, priority)

    def processes(self) -> list[ProcessStatus]:
        """All programs that were ever started, oldest first; an exit code is None if their parent was killed, too."""
        for process in self._launched:
            process.poll()
        exits: dict[tuple[int, int], int | None] = {}
        starts = []
        for event in read_records(self.lab_directory):
            if event.kind == "start":
                starts.append(event)
            else:
                exits[event.pid, event.start_ticks] = event.exit_code
        statuses = []
        for event in starts:
            fields = stat_fields(event.pid)
            running = bool(fields) and fields[0] not in "ZX" and int(fields[19]) == event.start_ticks
            code = None if running else exits.get((event.pid, event.start_ticks))
            starved = code == -signal.SIGKILL and self._cgroups.oom_kills(self.lab, event.node) > 0
            statuses.append(ProcessStatus(event.node, event.program, event.pid, running, code, starved))
        return statuses

    def cpu_directory(self, node: str) -> Path | None:
        """The node's group in the CPU controller; None where this host gives us none."""
        return self._cgroups.cpu_group(self.lab, node)

    def cpu_seconds(self, node: str) -> float:
        """CPU time used by the living processes of a node."""
        ticks = 0
        for status in self.processes():
            if status.node == node and status.running and (fields := stat_fields(status.pid)):
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _nodes(self) -> list[str]:
        prefix = self.netns_name("")
        wired = [name.removeprefix(prefix) for name in namespaces.names(prefix)]
        grouped = [path.name for path in self._cgroups.lab_groups(self.lab) if path.name != self.lab]
        return sorted({*wired, *grouped, *(status.node for status in self.processes())})

    # ------------------------------------------------------------------------------------------------------- the end

    def remove(self) -> None:
        """Remove everything of this lab but its results. Idempotent; also after a crash."""
        discovery.remove(self.lab)
        self._zygote.reap()
        for process in self._launched:
            process.wait()
        self._launched.clear()

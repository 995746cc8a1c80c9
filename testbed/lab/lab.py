"""A lab on this system: find it, talk to it, end it.

What is needed to find a lab again is on the system (names, cgroups, processes). :mod:`testbed.lab.create` brings one
up, :mod:`testbed.lab.repair` mends one, :mod:`testbed.lab.removal` removes one in whatever state it is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import zmq

from controller.service.protocol import Message, encode
from testbed import interrupts
from testbed.errors import InputError, TestbedError
from testbed.lab.plan import Program
from testbed.lab.runtimes import runtime_of
from testbed.lab.state import LabState, existing, read_state, write_state
from testbed.labfile.channels import peak_states
from testbed.protocol.client import ControlClient
from testbed.protocol.monitoring import MONITORING_NODES
from testbed.protocol.sockets import records_endpoint
from testbed.runtime.base import OPERATOR, ProcessSpec, ProcessStatus, Runtime
from testbed.runtime.host.state import state_root
from testbed.runtime.netns import rootless
from testbed.runtime.netns.netns_runtime import NetnsRuntime
from testbed.runtime.netns.rootless import Holder
from testbed.runtime.processes.discovery import check_lab_name
from testbed.traces.files import load_trace

if TYPE_CHECKING:
    from testbed.monitoring.bringup import Monitoring


class ElsewhereError(TestbedError):
    """The lab lives in a user namespace of its own: this command has to be run again in there."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(f"lab {holder.lab!r} lives in the user namespace of process {holder.pid}")
        self.holder = holder


class Lab:
    """A lab that exists (or is being made). Any command may construct one for a running lab with :meth:`find`."""

    def __init__(self, state: LabState, runtime: Runtime) -> None:
        self.state = state
        self.runtime = runtime
        self.directory = state_root() / state.name
        self._client: ControlClient | None = None
        self._records: zmq.Socket[bytes] | None = None
        #: While it is being started beside the lab.
        self.monitoring: Future[Monitoring] | None = None

    @classmethod
    def find(cls, name: str | None = None) -> Lab:
        """A lab that exists; without a name, the only one.

        Raises InputError that lists what there is, ElsewhereError if it has to be entered first, LabUnreadableError if
        it is there but nobody can tell what it was made from, HostError if its engine does not answer.
        """
        if name is None:
            labs = existing()
            if len(labs) == 1:
                return cls.find(labs[0])
            what = "no lab is up" if not labs else "several labs are up: name one"
            raise InputError(what, allowed=", ".join(labs), fix="" if labs else "Bring one up with: testbed up FILE")
        check_lab_name(name)
        if rootless.needed() and (holders := rootless.holders(name)):
            raise ElsewhereError(holders[0])
        state, gpu = read_state(name)
        return cls(state, runtime_of(state.runtime, name, state.run_id, gpu=gpu))

    @classmethod
    def find_on_host(cls, name: str) -> Lab:
        """What of a docker lab is on this host, for its removal while its engine does not answer."""
        state, _ = read_state(name)
        return cls(state, NetnsRuntime(name, state_root() / name, state.run_id))

    @property
    def client(self) -> ControlClient:
        if self._client is None:
            self._client = ControlClient(self.directory)
        return self._client

    def record(self, record: Message) -> None:
        """Have something recorded, like any node does."""
        if self._records is None:
            self._records = zmq.Context.instance().socket(zmq.PUSH)
            self._records.setsockopt(zmq.LINGER, 500)
            self._records.setsockopt(zmq.SNDHWM, 1000)
            self._records.connect(records_endpoint(self.directory, OPERATOR))
        with contextlib.suppress(zmq.Again):
            self._records.send(encode(record), zmq.NOBLOCK)

    def update(self, **changes: Any) -> None:
        """Change what is known of the lab, and write it down for whoever finds the lab next."""
        self.state = msgspec.structs.replace(self.state, **changes)
        write_state(self.state)

    def make_realtime(self, nodes: Sequence[str], priority: int) -> None:
        """Make the threads real-time that these nodes named in their Hello; the state says whether all were."""
        hellos = {hello.node: hello for hello in self.client.status().hellos}
        every = self.state.realtime
        for node in nodes:
            hello = hellos[node]
            every &= self.runtime.make_realtime(node, hello.stage_tid, priority)
            for tid in hello.extra_tids:  # what ends stages on time goes before other nodes' stages
                every &= self.runtime.make_realtime(node, tid, priority + 1)
        self.update(realtime=every)

    def process_spec(self, program: Program) -> ProcessSpec:
        """How a program of the plan is started, its config being there."""
        return ProcessSpec(program.node, program.module, self.config_path(program.node), program.needs_torch)

    def config_path(self, node: str) -> Path:
        return self.directory / "config" / f"{node}.json"

    def cpu_groups(self) -> dict[str, str]:
        """The CPU cgroup of each node that has one."""
        return {name: str(path) for name in self.node_names() if (path := self.runtime.cpu_directory(name))}

    def log_text(self, node: str) -> str:
        """What a node's programs wrote; empty if there is nothing."""
        try:
            log = self.runtime.logs(node)
        except TestbedError as error:
            return f"{error}\n"
        if isinstance(log, str):
            return log
        return log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""

    def last_words(self, node: str) -> str:
        """The last line of a node's log as a sentence; empty if it wrote nothing."""
        lines = [line for line in self.log_text(node).splitlines() if line.strip()]
        return f" Its log ends: {lines[-1].strip().removesuffix('.')}." if lines else ""

    @property
    def run_directory(self) -> Path:
        return Path(self.state.run_directory)

    def edge_device(self) -> dict[str, str]:
        """What the edge computes on, and why it is the CPU, for the manifest."""
        edge = next(hello for hello in self.client.status().hellos if hello.role == "edge")
        return {"edge_device": edge.device, "edge_device_reason": edge.device_reason}

    def node_names(self) -> list[str]:
        return [node.name for node in self.state.nodes]

    def logged_nodes(self) -> list[str]:
        """Names that :meth:`log_text` knows."""
        watching = MONITORING_NODES if self.state.urls else ()
        return [*self.node_names(), "zygote", *watching]

    def peak_states(self) -> dict[str, float]:
        """The best channel state of each UE's trace, from the traces that are being played."""
        folder = self.run_directory / "traces"
        return peak_states({path.stem: load_trace(path) for path in folder.glob("*.csv")})

    # ---------------------------------------------------------------------------------------------------- the end

    def process_of(self, node: str) -> ProcessStatus | None:
        """The latest process of a node."""
        found = [process for process in self.runtime.processes() if process.node == node]
        return found[-1] if found else None

    def stop_recorder(self, timeout_seconds: float = 10.0) -> bool:
        """Ask the recorder to flush and end; False if it had to be left."""
        process = self.process_of("recorder")
        if process is None or not process.running:
            return True
        terminate(process.pid)
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            process = self.process_of("recorder")
            if process is None or not process.running:
                return True
            time.sleep(0.02)
        return False

    def _stop_programs(self, timeout_seconds: float) -> None:
        """Everything but the recorder flushes and ends: only then is there an end to what it has to write.

        The controller goes last: agents wait for one that is gone to take their last words.
        """
        deadline = time.monotonic() + timeout_seconds
        kept = ("recorder", *MONITORING_NODES)
        for last in (False, True):
            ending = [p for p in self._running() if p.node not in kept and (p.node == "controller") == last]
            for process in ending:
                terminate(process.pid)
            pids = {process.pid for process in ending}
            while time.monotonic() < deadline and pids & {process.pid for process in self._running()}:
                time.sleep(0.02)

    def _running(self) -> list[ProcessStatus]:
        return [process for process in self.runtime.processes() if process.running]

    def save_logs(self) -> None:
        """Copy the nodes' logs into the run directory: they are part of the record."""
        target = self.run_directory / "logs"
        if not self.run_directory.is_dir():
            return
        target.mkdir(exist_ok=True)
        for node in self.logged_nodes():
            if text := self.log_text(node):
                (target / f"{node}.log").write_text(text, encoding="utf-8")

    def remove(self) -> None:
        """Remove everything of this lab from the system, after its logs and records are safe. Idempotent.

        A signal that comes meanwhile is raised at the end. Raises TestbedError for what could not be removed.
        """
        with interrupts.held():
            self._remove()

    def _remove(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._records is not None:
            self._records.close()
            self._records = None
        with contextlib.suppress(OSError, TestbedError):
            self._stop_programs(timeout_seconds=1.0)
            self.stop_recorder(timeout_seconds=3.0)
        with contextlib.suppress(OSError, TestbedError):
            self._stop_monitoring()
        with contextlib.suppress(OSError):
            self.save_logs()
        self.runtime.remove()

    def _stop_monitoring(self) -> None:
        if self.monitoring is not None:
            wait([self.monitoring])
        if self.state.urls or self.monitoring is not None:
            from testbed.monitoring.bringup import stop_monitoring

            stop_monitoring(self.runtime)
        self.monitoring = None


def terminate(pid: int) -> None:
    """SIGTERM, which a process that was stopped hears when it goes on; nothing happens if it has ended."""
    send(pid, signal.SIGTERM)
    send(pid, signal.SIGCONT)


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process, if it is there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

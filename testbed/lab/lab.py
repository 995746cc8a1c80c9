"""A lab on this system: create it from a plan, find it again, talk to it, remove it.

What is needed to find a lab again is on the system (names, cgroups, processes); ``lab.json`` in its directory only says
what it was made from.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import zmq

from controller.contract import DecentralisedPolicy
from controller.policies import registry
from controller.service.protocol import Message, Status, encode
from testbed import interrupts
from testbed.errors import HostError, InputError, TestbedError, first_line
from testbed.lab.lab_configs import ConfigMaker
from testbed.lab.plan import RADIO, READY_SECONDS, Plan, Program, RuntimeName
from testbed.lab.prepare import Ingredients
from testbed.labfile.channels import peak_states
from testbed.labfile.policy import Notify
from testbed.labfile.schema import Topology, Wanted
from testbed.protocol.client import ControlClient, ControllerSilentError
from testbed.protocol.configs import RecorderConfig, read_config, write_config, write_scenario
from testbed.protocol.monitoring import MONITORING_NODES
from testbed.protocol.sockets import records_endpoint
from testbed.runtime.base import OPERATOR, SHARED, NodeSpec, ProcessSpec, ProcessStatus, Runtime
from testbed.runtime.docker.engine import may_answer
from testbed.runtime.docker.presence import list_containers, remove_containers
from testbed.runtime.host.gpu import check_host
from testbed.runtime.host.realtime import unlimited
from testbed.runtime.host.state import state_root
from testbed.runtime.netns import rootless
from testbed.runtime.netns.netns_runtime import NetnsRuntime
from testbed.runtime.netns.rootless import Holder
from testbed.runtime.processes.discovery import check_lab_name, list_owned, remove
from testbed.runtime.processes.lab_lock import lab_lock
from testbed.runtime.processes.zygote import Call
from testbed.runtime.programs import AGENT_MODULES
from testbed.traces.files import load_trace
from testbed.wires.plumbing import connect

if TYPE_CHECKING:
    from testbed.monitoring.bringup import Monitoring


STATE_FILE = "lab.json"
RESTART_SECONDS = 30.0


class LabState(msgspec.Struct, frozen=True):
    """What a lab was made from (``LAB_DIR/lab.json``)."""

    name: str
    run_id: str
    runtime: RuntimeName
    policy: str
    run_directory: str
    created_utc: str
    resolved_lab: dict[str, Any]
    nodes: tuple[NodeSpec, ...]
    realtime: bool = True  # until a thread could not be made so
    urls: dict[str, str] = {}


class LabUnreadableError(TestbedError):
    """What a lab was made from cannot be read; what it put on the system can still be found and removed."""


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
        self._monitoring: Future[Monitoring] | None = None

    # -------------------------------------------------------------------------------------------------- bring it up

    @classmethod
    def create(cls, ingredients: Ingredients, runtime: Runtime, notify: Notify) -> Lab:
        """Carry out the plan. On any error (Ctrl-C included) what was made is removed again, and the error goes on."""
        topology, plan = ingredients.topology, ingredients.plan
        state = LabState(
            name=topology.name,
            run_id=ingredients.run_id,
            runtime=plan.runtime,
            policy=topology.policy.name,
            run_directory=str(ingredients.run_directory),
            created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            resolved_lab=topology.normalised(),
            nodes=plan.nodes,
        )
        lab = cls(state, runtime)
        try:
            lab._carry_out(ingredients, notify)
        except BaseException:
            lab.remove()
            raise
        return lab

    def _carry_out(self, ingredients: Ingredients, notify: Notify) -> None:
        topology, plan = ingredients.topology, ingredients.plan
        notify(f"creating {len(plan.nodes)} nodes")
        self.prewarm(topology, ingredients.folder)
        self.runtime.create(plan.nodes)
        self._write_state()
        write_scenario(ingredients.scenario, self.directory / SHARED / "scenario.json")
        self._begin_monitoring(topology, notify)
        notify(f"connecting {len(plan.wires)} wires")
        connect(plan.wires, self.runtime.netns_name, radio=RADIO)
        notify(f"starting {len(plan.programs)} programs")
        self.runtime.start(self._configure(ingredients))
        notify(f"waiting until {len(plan.ready)} nodes are ready")
        self.await_ready(READY_SECONDS)
        self._await_monitoring(notify)
        if note := unlimited():
            notify(f"warning: {note}")
        for group in plan.realtime:
            self._make_realtime(group.nodes, group.priority)

    def prewarm(self, topology: Topology, folder: Path) -> None:
        """Start loading what the agents need; ``folder``: the lab file's."""
        self.runtime.prewarm(_agent_imports(topology), _preload(topology, folder.absolute()))

    def _begin_monitoring(self, topology: Topology, notify: Notify) -> None:
        """In a thread: the lab does not wait for Prometheus, nor for the registry that may have Grafana."""
        wanted = topology.monitoring
        if wanted.prometheus == wanted.grafana == "off":
            return

        def start() -> Monitoring:
            from testbed.monitoring.bringup import start_monitoring

            return start_monitoring(
                self.runtime,
                run_id=self.state.run_id,
                policy=self.state.policy,
                lab_directory=self.directory,
                run_directory=self.run_directory,
                scenario_path=self.directory / SHARED / "scenario.json",
                prometheus=wanted.prometheus,
                grafana=wanted.grafana,
                notify=notify,
            )

        starter = ThreadPoolExecutor(1)
        self._monitoring = starter.submit(start)
        starter.shutdown(wait=False)

    def _await_monitoring(self, notify: Notify) -> None:
        """Raises HostError if the lab requires what this host has not."""
        if self._monitoring is None:
            return
        monitoring = self._monitoring.result()
        for note in monitoring.notes:
            notify(note)
        self.state = msgspec.structs.replace(self.state, urls=monitoring.urls)
        self._write_state()

    def _configure(self, ingredients: Ingredients) -> list[ProcessSpec]:
        maker = ConfigMaker(ingredients, self.directory, self.runtime.netns_name("radio"), self._cpu_groups())
        specs: list[ProcessSpec] = []
        for program in ingredients.plan.programs:
            path = self.directory / "config" / f"{program.node}.json"
            write_config(maker.config_of(program), path)
            specs.append(ProcessSpec(program.node, program.module, path, program.needs_torch))
        return specs

    def _cpu_groups(self) -> dict[str, str]:
        return {name: str(path) for name in self.node_names() if (path := self.runtime.cpu_directory(name))}

    def _write_state(self) -> None:
        path = self.directory / STATE_FILE
        partial = path.with_suffix(".partial")
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(self.state), indent=1))
        partial.replace(path)

    def _make_realtime(self, nodes: tuple[str, ...], priority: int) -> None:
        hellos = {hello.node: hello for hello in self.client.status().hellos}
        every = self.state.realtime
        for node in nodes:
            hello = hellos[node]
            every &= self.runtime.make_realtime(node, hello.stage_tid, priority)
            for tid in hello.extra_tids:  # what ends stages on time goes before other nodes' stages
                every &= self.runtime.make_realtime(node, tid, priority + 1)
        self.state = msgspec.structs.replace(self.state, realtime=every)
        self._write_state()

    def await_ready(self, timeout_seconds: float) -> None:
        """Return when every expected node has said Hello. Raises TestbedError naming who has not, and why."""
        deadline = time.monotonic() + timeout_seconds
        status: Status | None = None
        while time.monotonic() < deadline:
            with contextlib.suppress(ControllerSilentError):
                status = self.client.status(timeout_seconds=0.5)
                if status.state == "stopped":
                    raise TestbedError(f"the controller cannot begin: {status.error}")
                if status.state != "waiting":
                    return
            self._raise_if_dead()
            time.sleep(0.02)
        absent = "the controller" if status is None else ", ".join(sorted({*status.expected} - {*status.ready}))
        raise TestbedError(f"not ready after {timeout_seconds:g} s: {absent}.{self.last_words(absent)}")

    def _raise_if_dead(self) -> None:
        dead = [one for one in self.runtime.processes() if not one.running and one.node not in MONITORING_NODES]
        if dead:
            first = dead[0]
            raise TestbedError(
                f"{first.node} ({first.program}) ended{first.how_it_ended} while the lab came up."
                f"{self.last_words(first.node)}"
            )

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

    # ------------------------------------------------------------------------------------------------- find it again

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
        state, gpu = _read_state(name)
        return cls(state, runtime_of(state.runtime, name, state.run_id, gpu=gpu))

    @classmethod
    def find_on_host(cls, name: str) -> Lab:
        """What of a docker lab is on this host, for its removal while its engine does not answer."""
        state, _ = _read_state(name)
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

    # ------------------------------------------------------------------------------------------------------- repair

    def dead_programs(self, plan: Plan) -> list[Program]:
        """Programs of the plan of which no process runs; one that waits to be told its program does not."""
        running = {process.node for process in self.runtime.processes() if process.running and process.program}
        return [program for program in plan.programs if program.node not in running]

    def restart(self, programs: Sequence[Program], priority: int) -> None:
        """Start programs again from the configs that are there, and wait until they are ready. Raises TestbedError."""
        before = self._instances()
        self.runtime.start(
            [
                ProcessSpec(
                    program.node,
                    program.module,
                    self.directory / "config" / f"{program.node}.json",
                    program.needs_torch,
                )
                for program in programs
            ]
        )
        path = self.directory / "config" / "recorder.json"
        write_config(msgspec.structs.replace(read_config(path, RecorderConfig), cpu_groups=self._cpu_groups()), path)
        staged = [program.node for program in programs if program.role in ("ue", "edge")]
        greeting = [program.node for program in programs if program.role in ("ue", "edge", "player")]
        deadline = time.monotonic() + RESTART_SECONDS
        while time.monotonic() < deadline:
            now = self._instances()
            if all(now.get(node) not in (None, before.get(node)) for node in greeting):
                if self.state.realtime:
                    self._make_realtime(tuple(staged), priority)
                return
            time.sleep(0.05)
        raise TestbedError(f"not ready {RESTART_SECONDS:g} s after their restart: {', '.join(greeting)}")

    def _instances(self) -> dict[str, tuple[int, float]]:
        """Which process of each node has said Hello last."""
        return {hello.node: (hello.pid, hello.began_seconds) for hello in self.client.status().hellos}

    def end(self, node: str, timeout_seconds: float = 3.0) -> None:
        """End a node's program, by force if it does not by itself. Raises TestbedError if that does not help either."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + timeout_seconds
            while time.monotonic() < deadline:
                process = self.process_of(node)
                if process is None or not process.running:
                    return
                _send(process.pid, number)
                time.sleep(0.02)
        raise TestbedError(f"the program of {node} does not end although it was killed")

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
        if self._monitoring is not None:
            wait([self._monitoring])
        if self.state.urls or self._monitoring is not None:
            from testbed.monitoring.bringup import stop_monitoring

            stop_monitoring(self.runtime)
        self._monitoring = None


def _agent_imports(topology: Topology) -> tuple[str, ...]:
    """With the policy's module, where a part of the policy runs in the UEs: half a second that their first answer has
    not to wait for."""
    policy = registry.create(topology.policy.name, topology.policy.options)
    return (*AGENT_MODULES, type(policy).__module__) if isinstance(policy, DecentralisedPolicy) else AGENT_MODULES


def _preload(topology: Topology, folder: Path) -> list[Call]:
    """Models are built once per lab, too: the agents share their weights by copy-on-write."""
    return [
        Call("testbed.node.preload:preload", (model, topology.seed, str(folder)))
        for model in sorted({ue.model for ue in topology.expand()})
    ]


def terminate(pid: int) -> None:
    """SIGTERM, which a process that was stopped hears when it goes on; nothing happens if it has ended."""
    _send(pid, signal.SIGTERM)
    _send(pid, signal.SIGCONT)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _read_state(name: str) -> tuple[LabState, Wanted]:
    """What a lab was made from, and whether its edge has a GPU. Raises InputError, LabUnreadableError."""
    path = state_root() / name / STATE_FILE
    try:
        state = msgspec.json.decode(path.read_bytes(), type=LabState)
        gpu: Wanted = state.resolved_lab["edge"]["gpu"]
    except FileNotFoundError:
        raise InputError("no such lab is up", value=name, allowed=", ".join(existing()) or "none is up") from None
    except (msgspec.DecodeError, UnicodeDecodeError, OSError, LookupError, TypeError) as error:
        raise LabUnreadableError(
            f"what lab {name!r} was made from cannot be read ({path}: {first_line(error)}), as after a full disk or by "
            f"another version of the testbed. Take it down with: testbed down {name}"
        ) from error
    return state, gpu


def existing() -> list[str]:
    """Names of all labs that have anything on this system, alive or in pieces."""
    labs = {owned.lab for owned in list_owned()}
    with contextlib.suppress(TestbedError):  # labs are known by their directories, too
        labs |= {owned.lab for owned in list_containers()}
    if rootless.needed():
        labs |= {holder.lab for holder in rootless.holders()}
    return sorted(labs)


def check_gpu(kind: RuntimeName, gpu: Wanted) -> None:
    """Before anything is started: raises HostError when a GPU is required and the edge cannot have one."""
    if kind == "docker":
        from testbed.runtime.docker.engine_gpu import check_engine

        check_engine(gpu)
    else:
        check_host(gpu)


def runtime_of(
    kind: RuntimeName, lab: str, run_id: str, *, gpu: Wanted = "off", notify: Notify = lambda _: None
) -> Runtime:
    """The runtime object of a lab. ``gpu`` and ``notify`` matter to one that is to be created."""
    if kind == "docker":
        from testbed.runtime.docker.docker_runtime import DockerRuntime

        return DockerRuntime(lab, state_root() / lab, run_id, gpu=gpu, progress=notify)
    return NetnsRuntime(lab, state_root() / lab, run_id)


@dataclass(frozen=True)
class Removal:
    """What became of a lab that was to be removed."""

    lab: str
    done: str  # empty: nothing to tell
    left: str = ""  # what could not be removed, and why


def remove_labs(names: Sequence[str]) -> Iterator[Removal]:
    """Remove labs one by one, whatever state they are in. What one cannot be rid of does not stop the next."""
    for name in names:
        try:
            with lab_lock(name, "taking this lab down") as lock:
                removal = remove_lab(name, lock)
        except (TestbedError, OSError) as error:
            removal = Removal(name, "", str(error))
        yield removal


def remove_lab(name: str, lock: int | None = None) -> Removal:
    """Remove what this system has of a lab whose lock the caller holds."""
    trouble: list[str] = []

    def attempt(step: Callable[[], object]) -> bool:
        try:
            step()
        except (TestbedError, OSError) as error:
            trouble.append(str(error))
            return False
        return True

    lab: Lab | None = None
    in_docker = _was_docker(name)
    try:
        lab = Lab.find(name)
    except ElsewhereError as elsewhere:
        down = (sys.executable, "-P", "-m", "testbed", "down", name)  # tells what it does
        told = False
        with contextlib.suppress(TestbedError):  # what it cannot do, the end of its holder does
            told = rootless.run_in_lab(elsewhere.holder, down, lock) == 0
        attempt(lambda: rootless.remove(name))
        attempt(lambda: _require_gone(name))
        return Removal(name, "" if told else "its pieces were removed", "; ".join(trouble))
    except HostError as error:
        trouble.append(f"containers that it may have: {error}")
        lab = Lab.find_on_host(name)
    except (InputError, LabUnreadableError):
        pass
    if lab is not None:
        before = len(trouble)
        if not attempt(lab.remove) and attempt(lambda: remove(name)):
            del trouble[before:]
    else:
        attempt(lambda: remove(name))
    attempt(lambda: remove_containers(name))  # Grafana's too, of a netns lab whose creator was killed
    if in_docker and not trouble and not may_answer():
        trouble.append("containers that it may have: no Docker Engine answers")
    attempt(lambda: _require_gone(name))
    done = f"removed; its records are in {lab.state.run_directory}" if lab else "its pieces were removed"
    return Removal(name, done, "; ".join(dict.fromkeys(trouble)))


def _require_gone(name: str) -> None:
    left = [f"{owned.kind} {owned.name}" for owned in (*list_owned(name), *list_containers(name))]
    if left:
        raise TestbedError(f"still there: {', '.join(left)}")


class _Runtime(msgspec.Struct):
    runtime: str = ""


def _was_docker(name: str) -> bool:
    """As far as a state file that cannot be read tells."""
    try:
        return msgspec.json.decode((state_root() / name / STATE_FILE).read_bytes(), type=_Runtime).runtime == "docker"
    except (msgspec.DecodeError, UnicodeDecodeError, OSError):
        return False

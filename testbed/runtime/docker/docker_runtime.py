"""The docker runtime: a container per UE, for the edge and for the controller, with no network but its wire.

What needs no limits and no image stays on the host, started as in the netns runtime: the radio namespace, the trace
player (which shapes in it), the recorder and the metrics exporter.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from docker.models.containers import Container
from docker.types import DeviceRequest, Mount

from testbed.errors import HostError, TestbedError
from testbed.folders import open_to_others
from testbed.runtime.base import OPERATOR, SHARED, NodeSpec, ProcessSpec, ProcessStatus, namespace_name
from testbed.runtime.docker import docker_nodes
from testbed.runtime.docker.client import require
from testbed.runtime.docker.docker_build import Flavor
from testbed.runtime.docker.docker_entry import WARM, StartOrder, order_path, orders, program_of
from testbed.runtime.docker.docker_nodes import LABEL_NODE, PARALLEL, ContainerCgroup, container_name
from testbed.runtime.docker.docker_services import run_container
from testbed.runtime.docker.engine_gpu import CUDA_ENVIRONMENT, wanted_device
from testbed.runtime.docker.images import ensure_node_image
from testbed.runtime.docker.user_files import user_paths, weights_caches
from testbed.runtime.host import executables, realtime
from testbed.runtime.host.cgroups import PERIOD_MICROSECONDS, detect, quota_microseconds
from testbed.runtime.host.gpu import GpuMode
from testbed.runtime.host.state import system_lock
from testbed.runtime.netns.netns_runtime import NetnsRuntime
from testbed.runtime.processes.child import start_ticks
from testbed.runtime.processes.identity import CONTAINER_UID, ID_VARIABLE, identity_of
from testbed.runtime.processes.zygote import Call, Preparation
from testbed.runtime.programs import PROGRAMS

CONTAINER_ROLES = ("ue", "edge", "controller")
#: What a container imports before it is told its program. The agents pull in the rest.
IMPORTS: Mapping[str, tuple[str, ...]] = {
    "ue": ("torch", PROGRAMS["ue"].module),
    "edge": ("torch", PROGRAMS["edge"].module),
    "controller": (PROGRAMS["controller"].module,),
}
#: Against the 1024 of a UE: the few processes that steer a lab.
CONTROLLER_SHARES = 4096
WARM_SECONDS = 120.0
#: How long what the engine said of living containers is believed.
ASK_SECONDS = 2.0
#: An engine that is restarted answers again after a few seconds.
RESTART_SECONDS = 15.0


class DockerRuntime:
    """One lab's containers. Holds nothing that cannot be found again by label."""

    name = "docker"

    def __init__(
        self,
        lab: str,
        lab_directory: Path,
        run_id: str,
        *,
        gpu: GpuMode = "off",
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Raises HostError when this process is not root, or no engine answers that the runtime can use."""
        self._client = require()
        self._host = NetnsRuntime(lab, lab_directory, run_id)
        self.lab = lab
        self.lab_directory = lab_directory
        self._run_id = run_id
        self._gpu: GpuMode = gpu
        self._progress = progress
        self._cgroups: dict[str, ContainerCgroup] = {}
        self._quotas: dict[str, float] = {}
        self._calls: tuple[Call, ...] = ()
        self._seen: dict[str, _Seen] = {}
        self._asked_seconds = 0.0
        self._is_here = False  # whether its processes were seen to be this host's

    @cached_property
    def _device(self) -> DeviceRequest | None:
        """What the edge gets besides a core. Raises HostError when one is required and the engine offers none."""
        return wanted_device(self._client, self._gpu)

    @cached_property
    def features(self) -> dict[str, Any]:
        """What host and engine let the runtime do, for the manifest."""
        version = self._client.version()
        return {
            **self._host.features,
            "engine": version["Version"],
            "engine_api": version["ApiVersion"],
            "edge_gpu": self._device is not None,
        }

    # ------------------------------------------------------------------------------------------------------ bring-up

    def prewarm(self, imports: Iterable[str] = (), calls: Iterable[Call] = ()) -> None:
        """Remember what nodes with stages load as soon as they exist. A container imports what its role needs."""
        self._calls = tuple(calls)

    @docker_nodes.answering()
    def create(self, nodes: Sequence[NodeSpec]) -> None:
        """Create what is missing of the containers and, on the host, of the radio. Raises HostError, TestbedError."""
        self._host.create([node for node in nodes if node.role not in CONTAINER_ROLES])
        wanted = [node for node in nodes if node.role in CONTAINER_ROLES]
        # The engine starts processes as another user: they reach the sockets by group.
        for name in ("", OPERATOR, *(node.name for node in nodes)):
            folder = self.lab_directory / "ipc" / name
            folder.mkdir(exist_ok=True)
            docker_nodes.share_directory(folder, CONTAINER_UID)
        for node in wanted:
            orders(self.lab_directory, node.name).mkdir(parents=True, exist_ok=True)
        images = self._images()
        present = self._containers()
        missing = [node for node in wanted if node.name not in present or present[node.name].status != "running"]
        with ThreadPoolExecutor(PARALLEL) as pool:
            made = [pool.submit(self._create_one, node, images, present.get(node.name)) for node in missing]
            for future in made:
                future.result()
        self._seen.clear()
        self._quotas.update({node.name: node.quota_host_cores for node in wanted})
        for node in missing:
            self._cgroups.pop(node.name, None)
            self._cgroup(node.name).set_quota(0.0)  # until it is warm: importing torch under a cap of 0.25 takes 12 s
            if node.network:
                docker_nodes.attach_namespace(self.netns_name(node.name), self._pid(node.name))

    def _images(self) -> dict[Flavor, str]:
        """Tags, built where they are missing. With ``gpu: auto``, a CUDA image that cannot be had means the CPU."""
        images: dict[Flavor, str] = {"cpu": ensure_node_image(self._client, "cpu", self._progress)}
        if self._device is not None:
            try:
                images["cuda"] = ensure_node_image(self._client, "cuda", self._progress)
            except HostError as error:
                if self._gpu == "required":
                    raise
                self._progress(f"the edge gets no GPU: {error}")
                self._device = None
        return images

    def _flavor(self, node: NodeSpec) -> Flavor:
        return "cuda" if node.role == "edge" and self._device is not None else "cpu"

    def _create_one(self, node: NodeSpec, images: Mapping[Flavor, str], ended: Container | None) -> None:
        if ended is not None:
            ended.remove(force=True)
        order_path(self.lab_directory, node.name).unlink(missing_ok=True)
        quota = quota_microseconds(node.quota_host_cores)
        paths = user_paths()
        mounts = [Mount(path, path, type="bind", read_only=True) for path in (*self._readable(node), *paths)]
        if node.role == "controller":  # it makes the sockets at which it hears the others
            mounts.append(Mount(str(self.lab_directory / "ipc"), str(self.lab_directory / "ipc"), type="bind"))
        options: dict[str, Any] = {}
        if quota > 0:
            options |= {"cpu_period": PERIOD_MICROSECONDS, "cpu_quota": quota}
        if node.memory_bytes:
            options |= {"mem_limit": node.memory_bytes, "memswap_limit": node.memory_bytes}
        if node.cpu_list:
            options |= {"cpuset_cpus": node.cpu_list}
        if node.role == "controller":
            options |= {"cpu_shares": CONTROLLER_SHARES}
        environment = {
            "TESTBED_NODE": node.name,
            "TESTBED_RUN_ID": self._run_id,
            ID_VARIABLE: identity_of(self.lab_directory).id,
        }
        if node.role in ("ue", "edge"):
            for variable, folder in weights_caches().items():
                environment[variable] = f"/opt/weights/{variable.lower()}"
                mounts.append(Mount(environment[variable], str(folder), type="bind", read_only=True))
            environment["HF_HUB_OFFLINE"] = "1"
        if self._flavor(node) == "cuda":
            options |= {"device_requests": [self._device]}
            environment |= CUDA_ENVIRONMENT
        if paths:
            environment["PYTHONPATH"] = os.pathsep.join(("/opt/testbed", "/opt/packages", *paths))
        run_container(
            self._client,
            lab=self.lab,
            run_id=self._run_id,
            node=node.name,
            role=node.role,
            image=images[self._flavor(node)],
            command=[
                *("python3", "-m", "testbed.runtime.docker.docker_entry"),
                *(str(self.lab_directory), node.name, msgspec.json.encode(self._preparation(node)).decode()),
            ],
            mounts=mounts,
            network_mode="none",
            hostname=node.name,
            environment=environment,
            **options,
        )

    def _readable(self, node: NodeSpec) -> list[str]:
        """Folders of the lab that a container sees and cannot write to: its own and, connected to, its own sockets."""
        found = [self.lab_directory / SHARED, orders(self.lab_directory, node.name)]
        if node.role != "controller":
            found.append(self.lab_directory / "ipc" / node.name)
        return [str(path) for path in found]

    def _preparation(self, node: NodeSpec) -> Preparation:
        # Loading a model under a cap of 0.3 cores would take 12 s.
        return Preparation(IMPORTS[node.role], self._calls if node.role in ("ue", "edge") else ())

    @docker_nodes.answering()
    def start(self, processes: Sequence[ProcessSpec]) -> None:
        """Tell each container its program; the others start on the host. Raises TestbedError if a container died."""
        open_to_others(self.lab_directory / SHARED)
        containers = self._containers()
        inside = [process for process in processes if process.node in containers]
        with docker_nodes.group_may_write():
            self._host.start([process for process in processes if process.node not in containers])
        for process in inside:
            folder = orders(self.lab_directory, process.node)
            config = folder / process.config.name
            if process.config.exists():
                shutil.copyfile(process.config, config)
            path = order_path(self.lab_directory, process.node)
            partial = path.with_suffix(".partial")
            partial.write_bytes(msgspec.json.encode(StartOrder(process.program, str(config))))
            open_to_others(folder)
            partial.rename(path)
        self._seen.clear()
        self._await_warm([process.node for process in inside])
        for process in inside:
            if process.node not in self._quotas:
                continue
            cgroup = self._cgroup(process.node)
            try:
                cgroup.set_quota(self._quotas[process.node])
            except HostError:
                if cgroup.directory.exists():
                    raise
                # The program has failed by now: processes() tells, with its log.

    def _await_warm(self, names: Sequence[str]) -> None:
        deadline = time.monotonic() + WARM_SECONDS
        waiting = set(names)
        pids = {name: self._pid(name) for name in names}
        while waiting := {name for name in waiting if not Path(f"/proc/{pids[name]}/root{WARM}").exists()}:
            for name in sorted(waiting):
                if not Path(f"/proc/{pids[name]}").exists():
                    end = self.logs(name)
                    text = end if isinstance(end, str) else ""
                    how = next((one.how_it_ended for one in self.processes() if one.node == name), "")
                    raise TestbedError(
                        f"the container of {name!r} ended before it was ready{how}: {text.strip()[-600:]}"
                    )
            if time.monotonic() > deadline:
                raise TestbedError(
                    f"containers did not get ready in {WARM_SECONDS:.0f} s: {', '.join(sorted(waiting))}"
                )
            time.sleep(0.02)

    # ------------------------------------------------------------------------------------------------ a running lab

    def netns_name(self, node: str) -> str:
        return namespace_name(self.lab, node)

    @docker_nodes.answering()
    def exec(self, node: str, command: Sequence[str]) -> int:
        """Run a command inside a node; tools that its image lacks are the host's, in its network. Raises InputError."""
        containers = self._containers()
        if node not in containers or not docker_nodes.holds(containers[node], command[0]):
            return self._host.exec(node, command)
        [program] = executables.require("entering a container", "docker")
        terminal = ["-t"] if sys.stdin.isatty() and sys.stdout.isatty() else []
        done = subprocess.run([program, "exec", "-i", *terminal, containers[node].id or "", *command], check=False)
        return done.returncode

    @docker_nodes.answering()
    def logs(self, node: str) -> Path | str:
        """Text of a container's log; path of any other node's, which may not exist yet."""
        containers = self._containers()
        if node in containers:
            return containers[node].logs().decode(errors="replace")
        return self._host.logs(node)

    @docker_nodes.answering()
    def set_cpu(self, node: str, quota_host_cores: float) -> None:
        """Change a node's cap in place, in microseconds. Raises InputError, HostError."""
        if node in self._containers():
            self._cgroup(node).set_quota(quota_host_cores)
        else:
            self._host.set_cpu(node, quota_host_cores)

    @docker_nodes.answering()
    def make_realtime(self, node: str, tid: int, priority: int) -> bool:
        """SCHED_FIFO for one thread, numbered as its container sees it. False where the host refuses."""
        if node not in self._containers():
            return self._host.make_realtime(node, tid, priority)
        number = docker_nodes.host_tid(self._cgroup(node), tid)
        with system_lock():
            return realtime.make_fifo(detect(), number, priority)

    def cpu_directory(self, node: str) -> Path | None:
        """The node's group in the CPU controller; None for a node without limits."""
        if node not in self._containers():
            return self._host.cpu_directory(node)
        return self._cgroup(node).directory

    def processes(self) -> list[ProcessStatus]:
        """Programs of containers and host, alive or dead.

        An engine that has gone away has taken its containers along; it is not needed to see that.
        """
        # A run looks several times a second, and the engine takes milliseconds of CPU for each container.
        fresh = time.monotonic() < self._asked_seconds + ASK_SECONDS
        if not self._seen or not fresh or not all(seen.alive() for seen in self._seen.values()):
            try:
                found = {node: self._status(node, one) for node, one in self._containers().items()}
                self._asked_seconds = time.monotonic()
                self._seen = {node: _Seen(status, start_ticks(status.pid)) for node, status in found.items()}
            except TestbedError:
                if not self._seen:
                    raise
        return [*self._host.processes(), *(seen.now() for seen in self._seen.values())]

    def cpu_seconds(self, node: str) -> float:
        """CPU time used by a node so far."""
        if node not in self._containers():
            return self._host.cpu_seconds(node)
        return self._cgroup(node).cpu_seconds()

    def _status(self, node: str, container: Container) -> ProcessStatus:
        state = container.attrs["State"]
        program = program_of(self.lab_directory, node)
        running = bool(state["Running"])
        code = None if running else state["ExitCode"]
        return ProcessStatus(node, program, state["Pid"], running, code, not running and bool(state["OOMKilled"]))

    def _containers(self) -> dict[str, Container]:
        found = docker_nodes.find(self._client, self.lab)
        if not self._is_here:
            self._is_here = any(docker_nodes.check_here(container, self.lab_directory) for container in found)
        return {container.labels[LABEL_NODE]: container for container in found}

    def _pid(self, node: str) -> int:
        return int(self._client.api.inspect_container(container_name(self.lab, node))["State"]["Pid"])

    def _cgroup(self, node: str) -> ContainerCgroup:
        if node not in self._cgroups:
            pid = self._pid(node)
            if pid == 0:
                raise TestbedError(f"the container of {node!r} is not running; see `testbed logs {node}`")
            self._cgroups[node] = ContainerCgroup(pid)
        return self._cgroups[node]

    # ------------------------------------------------------------------------------------------------------- the end

    def remove(self) -> None:
        """Remove everything of this lab but its results. Idempotent; also after a crash or a restart of the engine."""
        try:
            self._remove_containers()
        finally:
            self._cgroups.clear()
            self._seen.clear()
            self._host.remove()

    def _remove_containers(self) -> None:
        deadline = time.monotonic() + RESTART_SECONDS
        while True:
            try:
                docker_nodes.remove(self._client, self.lab)
            except TestbedError:  # it may be restarting: what it knows of ours would come back with it
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
            else:
                return


@dataclass(frozen=True)
class _Seen:
    """A program as the engine last described it."""

    status: ProcessStatus
    start_ticks: int

    def alive(self) -> bool:
        return self.status.running and start_ticks(self.status.pid) == self.start_ticks

    def now(self) -> ProcessStatus:
        return self.status if self.alive() or not self.status.running else replace(self.status, running=False)

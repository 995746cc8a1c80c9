"""An edge and UEs as real processes over loopback, and a test that plays their controller and recorder."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Literal

import zmq

from controller.contract import Arrivals, Codec, Cut, Decision, ModelProfile, UeDecision, UeName, Uploading, UploadPlan
from controller.service.protocol import (
    Apply,
    Control,
    EdgeReport,
    Hello,
    Start,
    Stop,
    UeReport,
    Welcome,
    decode_control,
    encode,
)
from testbed.inference.profiles import read_profile
from testbed.programs.edge import main as edge
from testbed.programs.ue import main as ue
from testbed.protocol.configs import EdgeConfig, EdgeUe, UeConfig, write_config
from testbed.protocol.record import Record
from testbed.protocol.records import Event, TaskArrived, TaskRecord, decode_record
from testbed.protocol.sockets import control_endpoint, make_folder, records_endpoint
from tests.forked import forked

MODEL = "tests.emulation.labs.tiny_model:make"
PROFILE = Path(__file__).parent / "labs" / "tiny_profile.json"
SLOT_SECONDS = 0.25
SEED = 11


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class AgentsLab:
    """UEs ``ue0``, ``ue1`` ... whose tasks arrive at given times, by index."""

    directory: Path
    arrival_times: Sequence[Sequence[float]]
    task_timeout_seconds: float = 60.0
    boundary_codec: Codec = "fp32"
    profile_path: Path = PROFILE
    model: str = MODEL
    channel_refresh: Literal["time", "per_task_stage"] = "time"
    retraining_interval_seconds: float = 0.0
    uploading: Uploading | None = None
    data_ports: dict[str, int] = field(default_factory=dict)  # by UE, where it does not connect to the edge directly
    updates_ports: dict[str, int] = field(default_factory=dict)  # the same, for models that come down
    gpu: Literal["auto", "required", "off"] = "off"
    hellos: dict[str, Hello] = field(default_factory=dict)
    hello_counts: dict[str, int] = field(default_factory=dict)
    reports: list[Control] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    processes: dict[str, BaseProcess] = field(default_factory=dict)
    sequence: int = 0

    def __enter__(self) -> AgentsLab:
        (self.directory / "ipc").mkdir(exist_ok=True)
        self.port = free_port()
        self.profile: ModelProfile = read_profile(self.profile_path)
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        for node in ("edge", *self.names):
            make_folder(control_endpoint(self.directory, node))
            self._router.bind(control_endpoint(self.directory, node))
        self._pull = self._context.socket(zmq.PULL)
        for node in ("edge", *self.names):
            self._pull.bind(records_endpoint(self.directory, node))
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(self._pull, zmq.POLLIN)
        self.start_process("edge")
        for name in self.names:
            self.start_process(name)
        self.wait(lambda: set(self.hellos) == {"edge", *self.names}, 60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            process.kill()
            process.join()
        self._context.destroy(linger=0)

    def address(self, ue: str) -> str:
        """Where the edge hears a UE: on its wire, and there alone."""
        return f"127.0.0.{self.names.index(ue) + 1}"

    @property
    def names(self) -> list[str]:
        return [f"ue{index}" for index in range(len(self.arrival_times))]

    @property
    def tasks(self) -> list[TaskRecord]:
        return [record for record in self.records if isinstance(record, TaskRecord)]

    @property
    def arrived(self) -> list[TaskArrived]:
        return [record for record in self.records if isinstance(record, TaskArrived)]

    def events(self, kind: str) -> list[Event]:
        return [record for record in self.records if isinstance(record, Event) and record.kind == kind]

    def ue_reports(self, name: str) -> list[UeReport]:
        return [report for report in self.reports if isinstance(report, UeReport) and report.node == name]

    def edge_reports(self) -> list[EdgeReport]:
        return [report for report in self.reports if isinstance(report, EdgeReport)]

    def start_process(self, node: str) -> None:
        """Start, or start again."""
        common = {"lab": "agents", "run_id": "run", "node": node, "lab_directory": str(self.directory)}
        path = self.directory / f"{node}.json"
        if node == "edge":
            ues = tuple(EdgeUe(name, self.model, str(self.profile_path), self.address(name)) for name in self.names)
            config = EdgeConfig(
                **common,
                seed=SEED,
                port=self.port,
                ues=ues,
                cpus=0.8,
                gpu=self.gpu,
                slot_seconds=SLOT_SECONDS,
                retraining_interval_seconds=self.retraining_interval_seconds,
                retraining_perturbation=0.3,
                uploading=self.uploading,
                task_timeout_seconds=self.task_timeout_seconds,
            )
            write_config(config, path)
        else:
            write_config(self._ue_config(common, self.names.index(node)), path)
        main = edge.main if node == "edge" else ue.main
        self.hellos.pop(node, None)
        process = forked(main, str(path))
        process.start()
        self.processes[node] = process

    def _ue_config(self, common: Mapping[str, str], index: int) -> UeConfig:
        return UeConfig(
            **common,
            ue_index=index,
            seed=SEED,
            model=self.model,
            profile_path=str(self.profile_path),
            edge_endpoint=f"tcp://{self.address(common['node'])}:{self.data_ports.get(common['node'], self.port)}",
            local_address="127.0.0.1",
            arrivals=Arrivals("file", (10.0,)),
            arrival_file_times_seconds=tuple(self.arrival_times[index]),
            slot_seconds=SLOT_SECONDS,
            input_codec="uint8",
            boundary_codec=self.boundary_codec,
            max_speed=0.5,
            compute_watts=2.0,
            transmit_watts=0.5,
            task_timeout_seconds=self.task_timeout_seconds,
            round_trip_seconds=0.0,
            channel_refresh=self.channel_refresh,
            updates_endpoint=self._updates_endpoint(common["node"]),
            receive_watts=0.1,
            uploading=self.uploading,
        )

    def _updates_endpoint(self, node: str) -> str:
        if not self.retraining_interval_seconds:
            return ""
        return f"tcp://{self.address(node)}:{self.updates_ports.get(node, self.port + 1)}"

    def begin(self, duration_seconds: float | None = None) -> float:
        """Welcome everybody; slot 0 starts 0.2 s from now. Returns its time."""
        origin = time.monotonic() + 0.2
        for node in ("edge", *self.names):
            self.send(node, Welcome("agents", "run"))
            self.send(node, Start(origin, SLOT_SECONDS, duration_seconds))
        return origin

    def send(self, node: str, message: Control) -> None:
        self._router.send_multipart([node.encode(), encode(message)])

    def apply(
        self,
        cuts: Mapping[str, Cut],
        *,
        speed: float = 0.5,
        share: float = 0.3,
        rate: float = 10e6,
        sequence: int = -1,
        stop_rule: tuple[tuple[str, float], ...] = (),
        edge_nodes: Collection[str] | None = None,
        upload_order: Literal["pipelined", "serial"] = "pipelined",
    ) -> int:
        """A decision for everybody, in force at once. Returns its sequence number.

        ``edge_nodes``: where the edge starts without models, instead of those of the cut.
        """
        if sequence < 0:
            self.sequence += 1
            sequence = self.sequence
        plan: UploadPlan | None = None
        if edge_nodes is not None:
            there = tuple(one.name for one in self.profile.nodes[1:] if one.name in edge_nodes)
            plan = UploadPlan(there, serial=upload_order == "serial")
        ues = tuple(
            UeDecision(
                UeName(name),
                cuts[name],
                speed,
                1e6,
                1e6,
                share,
                stop_rule=stop_rule,
                uploading=plan,
            )
            for name in self.names
        )
        decision = Decision(sequence, 0, time.monotonic(), ues)
        for node in ("edge", *self.names):
            self.send(node, Apply(decision, dict.fromkeys(self.names, rate), dict.fromkeys(self.names, rate)))
        return sequence

    def kill(self, node: str, number: signal.Signals) -> None:
        pid = self.processes[node].pid
        assert pid is not None
        os.kill(pid, number)

    def silence_controller(self) -> None:
        """As if it had died: its socket is gone, the recorder stays."""
        self._poller.unregister(self._router)
        self._router.close(linger=0)

    def stop(self) -> None:
        """Everybody ends by itself."""
        for node in ("edge", *self.names):
            self.send(node, Stop("test"))
        self.wait(lambda: not any(process.is_alive() for process in self.processes.values()), 20)
        self.pump(0.1)

    def pump(self, seconds: float) -> None:
        """Take what comes for a while."""
        end = time.monotonic() + seconds
        while True:
            ready = dict(self._poller.poll(max(0, int((end - time.monotonic()) * 1e3))))
            if self._router in ready:
                self._control(decode_control(self._router.recv_multipart()[-1]))
            if self._pull in ready:
                self.records.append(decode_record(self._pull.recv()))
            if not ready and time.monotonic() >= end:
                return

    def _control(self, message: Control) -> None:
        if isinstance(message, Hello):
            self.hellos[message.node] = message
            self.hello_counts[message.node] = self.hello_counts.get(message.node, 0) + 1
        else:
            self.reports.append(message)

    def wait(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                told = [record for record in self.records if isinstance(record, Event)]
                ended = {task.status for task in self.tasks[-20:]}
                counts = f"{len(self.tasks)} of {len(self.arrived)} tasks ended, the last as {ended}"
                raise AssertionError(f"nothing of the kind in {seconds} s; {counts}; {self.reports[-3:]}; {told[-8:]}")
            self.pump(0.05)

"""A tiny event simulation of a lab that makes the records of a run, and the real recorder to push them through."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import zmq

from controller.service.protocol import Message, TaskTotals, encode
from testbed.protocol.configs import RecorderConfig, write_config
from testbed.protocol.records import (
    ChannelDrops,
    EdgeHealth,
    Event,
    HostHealth,
    LinkStep,
    ModelUpdate,
    NodeHealth,
    SegmentRecord,
    SlotRecord,
    TaskArrived,
    TaskRecord,
    UploadRecord,
)
from testbed.protocol.sockets import records_endpoint
from testbed.records.manifest import Manifest, UeFacts, write_manifest
from testbed.records.run_format import RUN_FORMAT
from testbed.records.streams import read_stream, streams_directory
from testbed.report.fidelity.rates import AppliedRate
from testbed.runtime.base import OPERATOR

ORIGIN = 1000.0
SLOT = 0.5
DELAY = 0.005
HEAD, TAIL, DOWNLINK = 0.030, 0.020, 0.004
WIRE_BYTES = 40_000


@dataclass(frozen=True)
class Lab:
    """What to simulate."""

    ues: tuple[str, ...] = ("ue1", "ue2", "ue3")
    duration: float = 10.0
    rate_per_second: float = 4.0
    wire_bytes: int = WIRE_BYTES
    #: the truth over what the player says that it applied
    true_rate_ratio: float = 1.0
    step_lateness: float = 0.0001
    seed: int = 1


def simulate(lab: Lab) -> list[Message]:
    """Records of a run in order of time: FCFS queues, piecewise constant rates, every third task local."""
    records: list[tuple[float, Message]] = []
    for index, ue in enumerate(lab.ues):
        rng = np.random.default_rng((lab.seed, index))
        records += _links(lab, ue, rng)
        applied = _applied(records, ue)
        truth = AppliedRate(applied.times, applied.rates * lab.true_rate_ratio)
        tasks = _tasks(lab, ue, rng, truth)
        for task in tasks:
            records.append((task.arrival_seconds, TaskArrived(ue, task.task, task.arrival_seconds)))
            records.append((task.result_received_seconds, task))
        records += _slots(lab, ue, tasks, applied)
        for second in range(int(lab.duration) + 1):
            at = ORIGIN + second
            records.append(
                (at, NodeHealth(ue, at, cpu_seconds=0.25 * second, throttled_periods=0, throttled_seconds=0))
            )
    records += [
        (ORIGIN + second, EdgeHealth(ORIGIN + second, receiver_lateness_p99_seconds=0.0004, malformed_frames=0))
        for second in range(int(lab.duration))
    ]
    return [record for _, record in sorted(records, key=lambda item: item[0])]


def _links(lab: Lab, ue: str, rng: np.random.Generator) -> list[tuple[float, Message]]:
    steps = int(lab.duration * 10) + 50
    values = 3e6 * np.exp(0.5 * np.sin(np.arange(steps) / 15 + rng.uniform(0, 6)) + 0.2 * rng.standard_normal(steps))
    rows: list[tuple[float, Message]] = []
    for step, value in enumerate(values.tolist()):
        for direction in ("up", "down"):
            planned = ORIGIN + step * 0.1
            applied = planned + lab.step_lateness
            step_of = LinkStep(
                ue, direction, planned, applied, value, value, value / 1e18, "trace", delay_seconds=DELAY
            )
            rows.append((applied, step_of))
        rows.append((applied, ChannelDrops(ue, "up", applied, sent_bytes=0, dropped_packets=0, backlog_bytes=0)))
    return rows


def _applied(records: Iterable[tuple[float, Message]], ue: str) -> AppliedRate:
    steps = [r for _, r in records if isinstance(r, LinkStep) and r.ue == ue and r.direction == "up"]
    return AppliedRate([s.applied_seconds for s in steps], [s.applied_bits_per_second for s in steps])


def _tasks(lab: Lab, ue: str, rng: np.random.Generator, truth: AppliedRate) -> list[TaskRecord]:
    arrivals = ORIGIN + np.cumsum(rng.exponential(1 / lab.rate_per_second, int(lab.duration * lab.rate_per_second * 2)))
    device_free = wire_free = edge_free = 0.0
    tasks = []
    for number, arrival in enumerate(arrivals[arrivals < ORIGIN + lab.duration].tolist()):
        local = number % 3 == 2
        start = max(arrival, device_free)
        device_free = head_end = start + HEAD
        transfer = received = tail_start = tail_end = result = head_end
        if not local:
            transfer = max(head_end, wire_free)
            wire_free = float(truth.time_of(truth.bits_until(transfer) + lab.wire_bytes * 8))
            received = wire_free + DELAY
            tail_start = max(received, edge_free)
            edge_free = tail_end = tail_start + TAIL
            result = tail_end + DOWNLINK + DELAY
        tasks.append(
            TaskRecord(
                ue=ue,
                task=number,
                status="completed",
                reason="",
                cut="local" if local else ("features_7" if number % 2 else "input"),
                codec="uint8",
                decision_sequence=int((start - ORIGIN) // SLOT),
                speed=0.25,
                share=0.2,
                arrival_seconds=float(arrival),
                head_start_seconds=float(start),
                head_end_seconds=float(head_end),
                transfer_start_seconds=float(transfer),
                received_seconds=float(received),
                tail_start_seconds=float(tail_start),
                tail_end_seconds=float(tail_end),
                result_received_seconds=float(result),
                head_target_seconds=HEAD,
                tail_target_seconds=0.0 if local else TAIL,
                head_compute_seconds=HEAD / 2,
                tail_compute_seconds=0.0 if local else TAIL / 2,
                boundary_bytes=0 if local else lab.wire_bytes * 9 // 10,
                wire_bytes=0 if local else lab.wire_bytes,
                result_wire_bytes=0 if local else 4200,
                compute_joules=0.03,
                transmit_joules=0.0 if local else 0.3 * (received - transfer - DELAY),
                answer=number % 1000,
            )
        )
    return tasks


def _slots(lab: Lab, ue: str, tasks: list[TaskRecord], applied: AppliedRate) -> list[tuple[float, Message]]:
    rows: list[tuple[float, Message]] = []
    for slot in range(int(lab.duration / SLOT)):
        start, end = ORIGIN + slot * SLOT, ORIGIN + (slot + 1) * SLOT
        done = [t for t in tasks if start <= t.result_received_seconds < end]
        delays = [t.result_received_seconds - t.arrival_seconds for t in done]
        at_start = [t for t in tasks if t.arrival_seconds <= start]
        row = SlotRecord(
            slot=slot,
            ue=ue,
            start_seconds=start,
            decision_sequence=slot,
            cut="features_7",
            speed=0.25,
            spectrum_up_hz=2e6,
            spectrum_down_hz=2e6,
            edge_share=0.2,
            gain_up=1e-12,
            rate_up_bits_per_second=float(applied.bits_between(start, end)) / SLOT,
            arrivals=sum(start <= t.arrival_seconds < end for t in tasks),
            completions=len(done),
            failures=0,
            mean_delay_seconds=float(np.mean(delays)) if delays else float("nan"),
            device_queue_tasks=sum(t.head_start_seconds > start for t in at_start),
            tx_queue_tasks=sum(t.head_end_seconds <= start < t.received_seconds for t in at_start),
            edge_queue_tasks=sum(t.received_seconds <= start < t.tail_start_seconds for t in at_start),
            in_flight_tasks=sum(t.result_received_seconds > start for t in at_start),
            tx_backlog_bytes=0,
            compute_joules=0.03 * len(done),
            transmit_joules=0.01 * len(done),
            head_overruns=0,
            tail_overruns=0,
            report_age_seconds=0.0,
            decide_seconds=0.0004,
            decide_late=False,
            policy_state={"queue": float(slot)},
        )
        rows.append((end, row))
    return rows


def quiet_host(seconds: int = 60) -> list[Message]:
    """What a recorder says of its host, once a second; :func:`simulate` leaves it to the recorder."""
    return [HostHealth(ORIGIN + second, 0.5, 0.0, 2, 0) for second in range(seconds + 1)]


@cache
def totals(lab: Lab) -> dict[str, TaskTotals]:
    """What the UEs told the controller: all of their tasks."""
    records = simulate(lab)
    return {
        ue: TaskTotals(
            sum(isinstance(one, TaskArrived) and one.ue == ue for one in records),
            sum(isinstance(one, TaskRecord) and one.ue == ue for one in records),
        )
        for ue in lab.ues
    }


def manifest(lab: Lab, *, realtime: bool = True, ended: bool = True) -> Manifest:
    return Manifest(
        manifest_version=RUN_FORMAT,
        run_id="run-1",
        lab="synthetic",
        policy="neurosurgeon",
        policy_options={},
        runtime="netns",
        runtime_features={"realtime": realtime},
        link_backend="htb",
        seed=lab.seed,
        slot_seconds=SLOT,
        duration_seconds=lab.duration,
        ues={ue: UeFacts(DELAY, DELAY, 0.1, "torchvision:mobilenet_v2", "0" * 64) for ue in lab.ues},
        resolved_lab={"name": "synthetic", "slot": "0.5 s", "ues": [{"name": ue} for ue in lab.ues]},
        trace_sha256={"ue1.csv": "ab" * 32},
        versions={"python": "3.11", "torch": "2.13.0"},
        kernel="6.18",
        cpu_model="synthetic",
        cores=2,
        cgroup_version=1,
        thread_counts={"OMP_NUM_THREADS": "1"},
        git_revision=None,
        command_line=["testbed", "run", "topologies/quickstart.yaml"],
        started_utc="2026-01-01T00:00:00.000+00:00",
        ended_utc="2026-01-01T00:00:40.000+00:00" if ended else None,
        ended_monotonic_seconds=ORIGIN + lab.duration + 1.0 if ended else None,
        totals=totals(lab) if ended else {},
    )


class RunningRecorder:
    """The recorder's process, and sockets into it."""

    def __init__(
        self, process: subprocess.Popen[str], context: zmq.Context[zmq.Socket[bytes]], run: Path, lab_directory: Path
    ) -> None:
        self.process, self._context, self.run, self.lab_directory = process, context, run, lab_directory
        self._sockets: dict[str, zmq.Socket[bytes]] = {}

    def socket(self, node: str) -> zmq.Socket[bytes]:
        """What this node pushes its records to."""
        if node not in self._sockets:
            socket = self._sockets[node] = self._context.socket(zmq.PUSH)
            socket.set_hwm(0)
            socket.setsockopt(zmq.LINGER, 5000)
            socket.connect(records_endpoint(self.lab_directory, node))
        return self._sockets[node]

    def push(self, records: Iterable[Message]) -> None:
        """Each by whoever makes such records."""
        for record in records:
            self.socket(_author(record)).send(encode(record))

    def close(self) -> None:
        for socket in self._sockets.values():
            socket.close()

    def finish(self) -> str:
        """SIGTERM, as the lab does at its end; returns the log."""
        self.process.send_signal(signal.SIGTERM)
        _, log = self.process.communicate(timeout=30)
        return log

    def wait_for(self, stream: str, rows: int = 1) -> None:
        """Until a stream has at least this many rows on disk."""
        deadline = time.monotonic() + 30
        while len(read_stream(streams_directory(self.run), stream)) < rows:
            assert self.process.poll() is None, "the recorder died"
            assert time.monotonic() < deadline, f"the recorder did not write {rows} rows of {stream}"
            time.sleep(0.05)


def _author(record: Message) -> str:
    match record:
        case SlotRecord():
            return "controller"
        case LinkStep() | ChannelDrops():
            return "player"
        case EdgeHealth():
            return "edge"
        case TaskArrived() | TaskRecord() | ModelUpdate() | SegmentRecord() | UploadRecord():
            return record.ue
        case Event():
            return record.node
        case _:
            return OPERATOR


@contextmanager
def recording(directory: Path) -> Iterator[RunningRecorder]:
    """A recorder on sockets of its own. ``directory`` must be short: an ipc path holds 107 characters."""
    lab_directory, run = directory / "lab", directory / "run"
    (lab_directory / "ipc").mkdir(parents=True, exist_ok=True)
    config = directory / "recorder.json"
    write_config(RecorderConfig("synthetic", "run-1", "recorder", str(lab_directory), str(run), ues=Lab().ues), config)
    process = subprocess.Popen(
        [sys.executable, "-m", "testbed.programs.recorder.recorder", str(config)], stderr=subprocess.PIPE, text=True
    )
    with zmq.Context() as context:
        recorder = RunningRecorder(process, context, run, lab_directory)
        try:
            yield recorder
        finally:
            recorder.close()
            if process.poll() is None:
                process.kill()
            process.communicate()


def make_run(directory: Path, lab: Lab, *, realtime: bool = True) -> Path:
    """A finished run directory, recorded by the real recorder."""
    with recording(directory) as recorder:
        recorder.push(simulate(lab))
        # The recorder must have bound its socket before the signal: it drains what has reached it.
        recorder.wait_for("tasks")
        ended = time.monotonic()
        recorder.finish()
        assert recorder.process.returncode == 0
        about = manifest(lab, realtime=realtime)
        write_manifest(msgspec.structs.replace(about, ended_monotonic_seconds=ended), recorder.run)
        return recorder.run

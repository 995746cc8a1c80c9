"""A short active test of a lab before a long experiment: its wires, its nodes, this host; without tasks or policy.

The lab's nodes and wires are made as ``run`` makes them. Then every direction of every wire carries packets of ours,
and every node computes paced stages at its speed, all nodes at once. Each figure has its limit; the lab is removed.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import zmq

from controller.frames import FRAME_BYTES
from testbed import interrupts
from testbed.errors import InputError, TestbedError
from testbed.inference.calibration import calibration_of, spread_of
from testbed.inference.profiles import REFERENCE_CORE_FRACTION
from testbed.lab import checks
from testbed.lab.plan import STAGE_PRIORITY, RuntimeName, make_plan
from testbed.lab.runtimes import runtime_of
from testbed.lab.state import existing
from testbed.labfile.channels import make_traces, peak_states
from testbed.labfile.policy import Notify
from testbed.labfile.schema import Topology
from testbed.programs.selftest import selftest as agent
from testbed.protocol.configs import write_config
from testbed.protocol.sockets import socket_path
from testbed.report.fidelity.fidelity import FIGURES
from testbed.report.fidelity.intervals import ratio_interval
from testbed.runtime.base import NodeSpec, ProcessSpec, Runtime
from testbed.runtime.host.facts import facts
from testbed.runtime.host.state import state_root
from testbed.runtime.processes.lab_lock import lab_lock
from testbed.runtime.programs import PROGRAMS
from testbed.wires import selftest
from testbed.wires.plumbing import connect, link_backend
from testbed.wires.selftest import Arrivals, Direction

#: What others are told meanwhile.
VERIFYING = "verifying this lab"
READY_SECONDS = 60.0
#: Of the measuring time: small packets, full queues, stages.
_PARTS = (0.2, 0.4, 0.4)
ECHO_INTERVAL_SECONDS = 0.01
PATIENCE_SECONDS = 0.3
#: What wires that are tried at once may carry in sum: their packets all pass through one process.
BATCH_BITS_PER_SECOND = 150e6
MINIMUM_RATE_SECONDS = 1.0
KERNEL_REPETITIONS = 40
#: One-way delay: the larger of an absolute and a relative error, by what delays the packets.
DELAY_LIMITS = {"htb": (0.3e-3, 0.01), "htb+netem": (0.3e-3, 0.01), "htb+vde": (0.6e-3, 0.02)}
RATE_LIMIT = 0.01
#: That no direction of a lab is found wrong by chance.
LOSS_CONFIDENCE = 0.99


class Check(msgspec.Struct, frozen=True):
    """One figure of one wire or node. Seconds, bits per second and ratios, as ``unit`` says."""

    subject: str  # "ue1 uplink", "edge"
    what: Literal["delay", "loss", "rate", "stage", "stage_p90", "overruns"]
    requested: float
    achieved: float
    error: float
    limit: float  # of the error
    unit: Literal["s", "bit/s", "ratio"]
    ok: bool
    note: str = ""


class Verification(msgspec.Struct, frozen=True):
    """What ``testbed verify --json`` prints."""

    lab: str
    runtime: str
    link_backend: str
    limits: Literal["realtime", "ordinary"]
    ok: bool
    kernel_seconds: float  # of the calibration kernel on this host's core
    duration_seconds: float  # all in all
    checks: list[Check]

    @property
    def broken(self) -> list[Check]:
        return [check for check in self.checks if not check.ok]


@dataclass(frozen=True)
class VerificationOrder:
    """What the user asked for."""

    topology: Topology
    where: str
    folder: Path
    runtime: RuntimeName
    duration_seconds: float  # of measuring


def verify(order: VerificationOrder, notify: Notify) -> Verification:
    """Bring the lab's nodes and wires up, try them, take them down.

    Raises InputError if a lab of that name is up, LabBusyError while another command works on it, HostError for what
    the host lacks, TestbedError if a node fails.
    """
    with lab_lock(order.topology.name, VERIFYING):
        return _verify(order, notify)


def _verify(order: VerificationOrder, notify: Notify) -> Verification:
    started = time.monotonic()
    topology = order.topology
    if topology.name in existing():
        raise InputError(
            "a lab of this name is up",
            where=order.where,
            value=topology.name,
            fix=f"Take it down first (testbed down {topology.name}), or give this one another name: --name NAME.",
        )
    checks.require_host(topology, order.where)
    peaks = peak_states(make_traces(topology, None))
    plan = make_plan(topology, order.runtime, peaks, checks.cpusets_of(topology))
    nodes = [node for node in plan.nodes if node.role in ("radio", "ue", "edge")]
    wires = plan.wires
    backend = link_backend(wires)
    runtime = runtime_of(order.runtime, topology.name, f"verify-{secrets.token_hex(4)}", notify=notify)
    try:
        notify(f"creating {len(nodes)} nodes and {len(wires)} wires")
        runtime.prewarm((PROGRAMS["selftest"].module,))
        runtime.create(nodes)
        connect(wires, runtime.netns_name)
        with zmq.Context() as context:
            stations = _start(runtime, topology.name, [node for node in nodes if node.role != "radio"], context)
            try:
                granted = [station.make_realtime(runtime) for station in stations]
                realtime = all(granted)
                ways = selftest.directions(wires, runtime.netns_name)
                parts = [part * order.duration_seconds for part in _PARTS]
                found = [*delay_checks(ways, backend, parts[0], notify), *rate_checks(ways, parts[1], notify)]
                kernel_seconds = _kernel(stations, notify)
                found += _stages(stations, _speeds(topology), kernel_seconds, parts[2], realtime, notify)
            finally:
                for station in stations:
                    station.close()
    finally:
        notify("taking the lab down")
        with interrupts.held():
            runtime.remove()
    return Verification(
        lab=topology.name,
        runtime=order.runtime,
        link_backend=backend,
        limits="realtime" if realtime else "ordinary",
        ok=all(check.ok for check in found),
        kernel_seconds=kernel_seconds,
        duration_seconds=time.monotonic() - started,
        checks=found,
    )


# ---------------------------------------------------------------------------------------------------------------- wires


def delay_checks(ways: Sequence[Direction], backend: str, seconds: float, notify: Notify) -> Iterator[Check]:
    """Delay and loss of each direction."""
    count = max(20, round(seconds / ECHO_INTERVAL_SECONDS))
    notify(f"delay and loss: {count} small packets through each of {len(ways)} directions")
    longest = max(way.impairment.delay_seconds + 4 * way.impairment.jitter_seconds for way in ways)
    found = selftest.one_way(ways, count, ECHO_INTERVAL_SECONDS, longest + PATIENCE_SECONDS)
    absolute, relative = DELAY_LIMITS[backend]
    for way in ways:
        arrivals, wanted = found[way.name], way.impairment
        values = list(arrivals.seconds.values())
        # the median leaves out packets that the host held up; a skewed law's is not its mean, though
        skewed = wanted.distribution not in ("normal", "uniform")
        achieved = float(np.mean(values) if skewed else np.median(values)) if values else math.nan
        # three standard errors; a uniform law's median has the largest, sqrt(3) of its mean's
        slack = 3 * math.sqrt(3) * wanted.jitter_seconds / math.sqrt(max(len(values), 1))
        limit = max(absolute, relative * wanted.delay_seconds) + slack
        error = abs(achieved - wanted.delay_seconds)
        yield Check(way.name, "delay", wanted.delay_seconds, achieved, error, limit, "s", error <= limit)
        yield loss_check(way, arrivals, len(ways))


def loss_check(way: Direction, arrivals: Arrivals, directions: int) -> Check:
    """Whether the share that was lost is one that the wanted loss gives, as one of so many directions."""
    wanted = selftest.expected_loss_ratio(way.impairment)
    lost = arrivals.sent - len(arrivals.seconds)
    trials = arrivals.sent
    bursts = way.impairment.bursts
    if bursts is not None:  # losses come together: so many independent trials say as much
        stay = 1 - bursts.p - bursts.r
        trials = max(1, round(trials * (1 - stay) / (1 + stay)))
    confidence = 1 - (1 - LOSS_CONFIDENCE) / directions
    low, high = ratio_interval(round(lost * trials / arrivals.sent), trials, confidence)
    achieved = lost / arrivals.sent
    limit = max(high - achieved, achieved - low) if wanted else 0.0
    ok = low <= wanted <= high if wanted else lost == 0
    note = f"{lost} of {arrivals.sent}"
    return Check(way.name, "loss", wanted, achieved, abs(achieved - wanted), limit, "ratio", ok, note)


def rate_checks(ways: Sequence[Direction], seconds: float, notify: Notify) -> Iterator[Check]:
    """Rate of each direction, of as many at once as this process can fill."""
    slow = [way for way in ways if way.rate_bits_per_second <= BATCH_BITS_PER_SECOND]
    batches = list(_batches(slow))
    each = max(seconds / max(len(batches), 1), MINIMUM_RATE_SECONDS)
    for number, batch in enumerate(batches, start=1):
        notify(f"rate: {each:.2g} s through {len(batch)} directions ({number} of {len(batches)})")
        found = selftest.saturate(batch, each)
        for way in batch:
            wanted, achieved = way.rate_bits_per_second, found[way.name].rate_bits_per_second
            error = abs(achieved / wanted - 1)
            limit = max(RATE_LIMIT, 2 * FRAME_BYTES * 8 / (wanted * each))
            sent = found[way.name].sent * FRAME_BYTES * 8 / (wanted * each)
            note = "" if sent >= 1 else f"this host sent only {sent:.0%} of what fills the wire"
            yield Check(way.name, "rate", wanted, achieved, error, limit, "bit/s", error <= limit, note)
    for way in ways:
        if way not in slow:
            note = f"not measured: this test sends at most {BATCH_BITS_PER_SECOND / 1e6:.0f} Mbit/s"
            wanted = way.rate_bits_per_second
            yield Check(way.name, "rate", wanted, math.nan, math.nan, RATE_LIMIT, "bit/s", True, note)


def _batches(ways: Sequence[Direction]) -> Iterator[list[Direction]]:
    """Uplinks, then downlinks, as many at once as one process can fill."""
    batch: list[Direction] = []
    for way in sorted(ways, key=lambda way: way.way, reverse=True):
        total = sum(one.rate_bits_per_second for one in batch) + way.rate_bits_per_second
        if batch and (total > BATCH_BITS_PER_SECOND or way.way != batch[0].way):
            yield batch
            batch = []
        batch.append(way)
    if batch:
        yield batch


# ---------------------------------------------------------------------------------------------------------------- nodes


class _Station:
    """A node's program, asked over its socket."""

    def __init__(self, node: NodeSpec, directory: Path, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.node = node
        self._socket = context.socket(zmq.REQ)
        self._socket.linger = 0
        self._socket.bind(agent.endpoint(str(directory), node.name))
        socket_path(directory, node.name, "selftest").chmod(0o777)  # a container's user connects
        self._decoder = msgspec.json.Decoder(agent.Answer)

    def ask(self, request: agent.Request) -> None:
        self._socket.send(msgspec.json.encode(request))

    def ready(self, timeout_seconds: float) -> bool:
        return bool(self._socket.poll(max(0, round(timeout_seconds * 1e3))))

    def answer(self, timeout_seconds: float) -> agent.Answer:
        """Raises TestbedError if none comes."""
        if not self.ready(timeout_seconds):
            raise TestbedError(f"{self.node.name} did not answer within {timeout_seconds:.0f} s")
        found: agent.Answer = self._decoder.decode(self._socket.recv())
        return found

    def make_realtime(self, runtime: Runtime) -> bool:
        self.ask(agent.Threads())
        threads = self.answer(READY_SECONDS)
        assert isinstance(threads, agent.ThreadIds)
        compute = runtime.make_realtime(self.node.name, threads.compute, STAGE_PRIORITY)
        return runtime.make_realtime(self.node.name, threads.deadlines, STAGE_PRIORITY + 1) and compute

    def close(self) -> None:
        self._socket.close()


def _start(
    runtime: Runtime, lab: str, nodes: Sequence[NodeSpec], context: zmq.Context[zmq.Socket[bytes]]
) -> list[_Station]:
    """Start the nodes' programs and wait until all answer. Raises TestbedError naming one that ended or is silent."""
    directory = state_root() / lab
    specs = []
    for node in nodes:
        path = directory / "config" / f"{node.name}.json"
        write_config(agent.SelfTestConfig(lab, "verify", node.name, str(directory)), path)
        specs.append(ProcessSpec(node.name, PROGRAMS["selftest"].module, path, needs_torch=True))
    runtime.start(specs)
    stations = [_Station(node, directory, context) for node in nodes]
    deadline = time.monotonic() + READY_SECONDS
    for station in stations:
        station.ask(agent.Threads())
    for station in stations:
        while not station.ready(0.1):
            dead = [process for process in runtime.processes() if not process.running]
            if dead or time.monotonic() > deadline:
                name = dead[0].node if dead else station.node.name
                log = runtime.logs(name)
                text = log if isinstance(log, str) else log.read_text(errors="replace") if log.is_file() else ""
                raise TestbedError(f"{name} did not come up. Its log ends: {text.strip()[-300:]}")
        station.answer(1.0)
    return stations


def _kernel(stations: Sequence[_Station], notify: Notify) -> float:
    """Seconds of the kernel on this host's core: as calibrated, else measured now, in one node, the others idle."""
    calibration, _ = calibration_of(facts().cpu)
    if calibration is not None:
        return calibration.kernel.p50_seconds
    notify(f"kernel: {KERNEL_REPETITIONS} runs in {stations[0].node.name} (this host is not calibrated)")
    stations[0].ask(agent.Kernel(KERNEL_REPETITIONS))
    answer = stations[0].answer(READY_SECONDS)
    assert isinstance(answer, agent.Seconds)
    return spread_of(answer.runs).p50_seconds


def _speeds(topology: Topology) -> dict[str, float]:
    """Reference cores of each node with stages."""
    speeds = {ue.name: checks.busy_reference_cores(ue) for ue in topology.expand()}
    return {"edge": topology.edge.cpus, **speeds}


def _limit(figure: str, realtime: bool) -> float:
    return FIGURES[figure].limit_of(realtime=realtime)


def _stages(
    stations: Sequence[_Station],
    speeds: dict[str, float],
    kernel_seconds: float,
    seconds: float,
    realtime: bool,
    notify: Notify,
) -> Iterator[Check]:
    notify(f"stages: {seconds:.2g} s of the kernel in {len(stations)} nodes at once, each at its speed")
    start = time.monotonic() + 0.2
    targets = {
        station.node.name: kernel_seconds / REFERENCE_CORE_FRACTION / speeds[station.node.name] for station in stations
    }
    for station in stations:
        station.ask(agent.Stages(start, seconds, targets[station.node.name]))
    for station in stations:
        name, target = station.node.name, targets[station.node.name]
        answer = station.answer(seconds + 10 * target + READY_SECONDS)
        assert isinstance(answer, agent.StageTimes)
        achieved = np.array(answer.achieved_seconds)
        errors = np.abs(achieved / target - 1)
        note = f"speed {speeds[name]:.3g}, {len(achieved)} stages"
        for what, quantile, limit in (
            ("stage", 0.5, _limit("stage_time_error_p50", realtime)),
            ("stage_p90", 0.9, _limit("stage_time_error_p90", realtime)),
        ):
            error = float(np.quantile(errors, quantile))
            at = float(np.quantile(achieved, quantile))
            yield Check(name, what, target, at, error, limit, "s", error <= limit, note)  # type: ignore[arg-type]
        overruns = float(np.mean(np.array(answer.compute_seconds) > target))
        # of a hundred stages or fewer, one is no ratio
        limit = max(_limit("overrun_ratio", realtime), 1 / len(achieved))
        yield Check(name, "overruns", 0.0, overruns, overruns, limit, "ratio", overruns <= limit, note)

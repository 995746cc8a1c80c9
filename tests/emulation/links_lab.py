"""Namespaces with wires between them, and a player with the ends that it talks to (imported by the tests of links)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
import zmq

from controller.contract import Decision, Scenario
from controller.frames import FRAME_BITS
from controller.policies.examples import example_scenario
from controller.service.protocol import (
    Apply,
    Control,
    Hello,
    PlayerReport,
    Start,
    Stop,
    Welcome,
    decode_control,
    encode,
)
from testbed.programs.player import player
from testbed.protocol.configs import LinkConfig, PlayerConfig, write_config, write_scenario
from testbed.protocol.record import Record
from testbed.protocol.records import Event, LinkStep, decode_record
from testbed.protocol.sockets import control_endpoint, make_folder, records_endpoint
from testbed.report.fidelity.rates import AppliedRate
from testbed.runtime.base import namespace_name
from testbed.runtime.host import namespaces
from testbed.runtime.host.pauses import PauseProbe, Pauses
from testbed.runtime.processes import discovery
from testbed.traces import Trace, write_trace
from testbed.wires import plumbing
from testbed.wires.probes import Counter, Flow
from testbed.wires.wire import WireSpec
from tests.forked import forked


@dataclass(frozen=True)
class WiredLab:
    """UEs ``ue0`` ... with one wire each."""

    lab: str
    wires: tuple[WireSpec, ...]

    def name(self, node: str) -> str:
        return namespace_name(self.lab, node)


@contextmanager
def wired(lab: str, wires: Sequence[WireSpec]) -> Iterator[WiredLab]:
    """A lab of wires only, removed at the end. Its name carries our pid, so that test runs do not meet."""
    result = WiredLab(f"{lab}-{os.getpid()}", tuple(wires))
    names = [result.name(node) for node in ("radio", "edge", *(wire.ue for wire in wires))]
    try:
        namespaces.create(names)
        plumbing.connect(wires, result.name)
        yield result
    finally:
        discovery.remove(result.lab)


def rate_scenario(names: Sequence[str], slot_seconds: float = 0.5) -> Scenario:
    """UEs whose traces are rates; with all the spectrum each, a decision passes them on as they are."""
    scenario = example_scenario(len(names), slot_seconds=slot_seconds)
    ues = [
        msgspec.structs.replace(ue, name=name, channel_kind="rate")
        for ue, name in zip(scenario.ues, names, strict=True)
    ]
    return msgspec.structs.replace(scenario, ues=tuple(ues))


def assert_carried(
    counter: Counter,
    window: tuple[float, float],
    asked_bits: Callable[[float, float], float],
    pauses: Pauses,
    tolerance_ratio: float = 0.01,
) -> None:
    """A wire that always had something to send carried what was asked, within the tolerance or two frames; less by
    what the host's CPUs slept through (:mod:`testbed.runtime.host.pauses`), never more.
    """
    start, end, bits = counter.between(*window)
    asked = asked_bits(start, end)
    allowed = max(tolerance_ratio * asked, 2 * FRAME_BITS)
    slept = sum(asked_bits(*pause) for pause in pauses.within(start, end))
    error = bits - asked
    assert -allowed - slept <= error <= allowed, (
        f"{end - start:.3f} s: {error / asked:+.2%} of {asked:.0f} bit, {slept / asked:.2%} of it lost to the host"
    )


@dataclass
class PlayerRun:
    """A player process, and the controller and recorder that this test plays for it."""

    wired: WiredLab
    directory: Path
    scenario: Scenario
    traces: dict[str, Trace]
    at_end: str = "loop"
    outage: str = "hold"
    realtime_priority: int = 10
    more_traces: dict[tuple[str, str], Trace] = field(default_factory=dict)  # by UE and "delay" or "loss"
    reports: list[PlayerReport] = field(default_factory=list)
    others: list[Control] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    def __enter__(self) -> PlayerRun:
        (self.directory / "ipc").mkdir()
        self._context = zmq.Context()
        self.router = self._context.socket(zmq.ROUTER)
        make_folder(control_endpoint(self.directory, "player"))
        self.router.bind(control_endpoint(self.directory, "player"))
        self._pull = self._context.socket(zmq.PULL)
        self._pull.bind(records_endpoint(self.directory, "player"))
        write_scenario(self.scenario, self.directory / "scenario.json")
        links = []
        for wire in self.wired.wires:
            path = self.directory / f"{wire.ue}.csv"
            write_trace(self.traces[wire.ue], path)
            links.append(
                LinkConfig(
                    ue=wire.ue,
                    up_port=wire.up_port,
                    down_port=wire.down_port,
                    trace_path=str(path),
                    at_end=self.at_end,  # type: ignore[arg-type]
                    outage=self.outage,  # type: ignore[arg-type]
                    outage_floor_bits_per_second=100e3,
                    impairment_up=wire.up,
                    impairment_down=wire.down,
                    delay_trace_path=self._written(wire.ue, "delay"),
                    loss_trace_path=self._written(wire.ue, "loss"),
                )
            )
        config = PlayerConfig(
            lab=self.wired.lab,
            run_id="run",
            node="player",
            lab_directory=str(self.directory),
            radio_namespace=self.wired.name("radio"),
            scenario_path=str(self.directory / "scenario.json"),
            links=tuple(links),
            realtime_priority=self.realtime_priority,
        )
        write_config(config, self.directory / "player.json")
        self.process = forked(player.main, str(self.directory / "player.json"))
        self.process.start()
        self.wait(lambda: any(isinstance(message, Hello) for message in self.others))
        self.send(Welcome(lab=self.wired.lab, run_id="run"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.join(5)
        self.process.kill()
        self._context.destroy(linger=0)

    def _written(self, ue: str, what: str) -> str:
        if (ue, what) not in self.more_traces:
            return ""
        path = self.directory / f"{ue}.{what}.csv"
        write_trace(self.more_traces[ue, what], path)
        return str(path)

    def send(self, message: Control) -> None:
        self.router.send_multipart([b"player", encode(message)])

    def start(self, origin_seconds: float) -> None:
        self.send(Start(origin_seconds, self.scenario.slot_seconds, None))

    def stop(self) -> None:
        """Ask for the end and wait for it; all records are in afterwards."""
        self.send(Stop("test"))
        self.wait(lambda: any(event.kind == "player-stopped" for event in self.events()))
        self.process.join(5)

    def poll(self, seconds: float) -> None:
        """Take in what comes for a while."""
        end = time.monotonic() + seconds
        poller = zmq.Poller()
        poller.register(self._pull, zmq.POLLIN)
        if not self.router.closed:
            poller.register(self.router, zmq.POLLIN)
        while (left := end - time.monotonic()) > 0:
            for ready, _ in poller.poll(int(left * 1000) + 1):
                if ready is self._pull:
                    self.records.append(decode_record(self._pull.recv()))
                    continue
                message = decode_control(self.router.recv_multipart()[-1])
                if isinstance(message, PlayerReport):
                    self.reports.append(message)
                else:
                    self.others.append(message)

    def wait(self, until: Callable[[], bool], seconds: float = 15.0) -> None:
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, f"waited {seconds} s in vain"
            assert self.process.is_alive() or self.process.exitcode == 0, f"the player ended: {self.process.exitcode}"
            self.poll(0.05)

    def steps(self, cause: str = "trace", direction: str = "up") -> list[LinkStep]:
        return [
            record
            for record in self.records
            if isinstance(record, LinkStep) and record.cause == cause and record.direction == direction
        ]

    def events(self) -> list[Event]:
        return [record for record in self.records if isinstance(record, Event)]


@dataclass(frozen=True)
class Carried:
    """What full uplinks carried while a player played, and what the host slept through; by UE."""

    origin_seconds: float
    counters: dict[str, Counter]
    applied: dict[str, AppliedRate]
    pauses: Pauses

    def check(self, begin_seconds: float, end_seconds: float) -> None:
        """Each uplink, over each second between two times of the trace and over all of it, against what was applied."""
        windows = [(at, at + 1.0) for at in np.arange(begin_seconds, end_seconds - 0.99)]
        for ue, counter in self.counters.items():
            rate = self.applied[ue]
            for begin, end in (*windows, (begin_seconds, end_seconds)):
                window = (self.origin_seconds + begin, self.origin_seconds + end)
                assert_carried(counter, window, lambda a, b, rate=rate: float(rate.bits_between(a, b)), self.pauses)

    def check_traces(
        self, traces: Mapping[str, Trace], seconds: float, width_seconds: float, tolerance_ratio: float = 0.01
    ) -> None:
        """Each uplink that was given all the spectrum, over every window of a width, against its trace of rates."""
        for ue, counter in self.counters.items():

            def asked_bits(start: float, end: float, trace: Trace = traces[ue]) -> float:
                start, end = start - self.origin_seconds, end - self.origin_seconds
                early = max(0.0, min(0.0, end) - start)  # the first rate is in force before the trace begins
                late = trace.mean(max(0.0, start), end).up * (end - max(0.0, start)) if end > 0 else 0.0
                return float(trace.value_at(0.0).up * early + late)

            for begin in np.arange(self.origin_seconds, self.origin_seconds + seconds - width_seconds + 0.1):
                assert_carried(counter, (begin, begin + width_seconds), asked_bits, self.pauses, tolerance_ratio)


def play_on_full_wires(
    run: PlayerRun, seconds: float, decision: Decision | None = None, *, probe: PauseProbe | None = None
) -> Carried:
    """Play for a while on uplinks that always have something to send; the player has ended then."""
    wired = run.wired
    with ExitStack() as stack:
        watching = stack.enter_context(probe or PauseProbe())
        counters = {}
        for wire in wired.wires:
            counters[wire.ue] = stack.enter_context(Counter(wired.name("edge"), wire.edge_interface))
            flow = Flow(wired.name(wire.ue), wired.name("edge"), wire.edge_address, send_buffer=1 << 18)
            stack.enter_context(flow)
        if decision is not None:
            run.send(Apply(decision))
        time.sleep(1.5)  # TCP fills the leaves
        origin = time.monotonic() + 0.2
        run.start(origin)
        run.poll(seconds + 0.4)
        pauses = watching.close()
        run.stop()
    applied = {}
    for ue in counters:
        steps = [s for s in run.records if isinstance(s, LinkStep) and (s.ue, s.direction) == (ue, "up")]
        steps = [step for step in steps if step.cause != "ahead"]
        applied[ue] = AppliedRate([s.applied_seconds for s in steps], [s.applied_bits_per_second for s in steps])
    return Carried(origin, counters, applied, pauses)


__all__ = ["Apply", "PlayerRun", "WiredLab", "rate_scenario", "wired"]

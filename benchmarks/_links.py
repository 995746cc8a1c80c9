"""What the benchmarks of links share: wires in namespaces, traces played on them, figures as rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from controller.contract import Decision, Scenario, UeDecision
from controller.frames import FRAME_BITS
from controller.policies.examples import example_scenario
from testbed.programs.player.playback import Playback
from testbed.programs.player.realtime import sleep_until
from testbed.protocol.configs import LinkConfig
from testbed.protocol.records import LinkStep
from testbed.report.fidelity.rates import AppliedRate
from testbed.runtime.base import namespace_name
from testbed.runtime.host import namespaces
from testbed.runtime.host.pauses import PauseProbe
from testbed.runtime.processes import discovery
from testbed.traces import Trace
from testbed.traces.trace import AtEnd
from testbed.wires import plumbing
from testbed.wires.probes import Counter, Flow
from testbed.wires.shaping import Shaper
from testbed.wires.wire import WireSpec

T = TypeVar("T")

LAB = "bench-links"
#: TCP has filled the leaf by then.
SETTLE_SECONDS = 1.0


def row(what: str, measured: float, unit: str, target: float | None = None, **more: Any) -> dict[str, Any]:
    """One figure: ``target`` is an upper limit of what was measured; ``alternative``, other ways on the same host."""
    return {"what": what, "measured": measured, "unit": unit, "target": target, **more}


def name(node: str) -> str:
    return namespace_name(LAB, node)


def undisturbed(measure: Callable[[], T], tries: int = 4, slept_ratio: float = 0.002) -> tuple[T, float]:
    """What was measured while the host's CPUs stood still for at most this part of the time, and how long they did.

    On a shared machine they are taken away now and then, which every shaper pays for alike
    (testbed.runtime.host.pauses): it is measured again then, up to ``tries`` times, and the least disturbed one counts.
    """
    found: list[tuple[float, T]] = []
    for _ in range(tries):
        with PauseProbe() as probe:
            start = time.monotonic()
            result = measure()
            end = time.monotonic()
            found.append((probe.close().seconds(start, end) / (end - start), result))
        if found[-1][0] <= slept_ratio:
            break
    slept, result = min(found, key=lambda one: one[0])
    return result, slept


@contextmanager
def wired(wires: Sequence[WireSpec]) -> Iterator[Shaper]:
    names = [name(node) for node in ("radio", "edge", *(wire.ue for wire in wires))]
    namespaces.create(names)
    try:
        plumbing.connect(wires, name)
        shaper = Shaper(name("radio"))
        yield shaper
        shaper.close()
    finally:
        discovery.remove(LAB)


def wires(count: int, **more: Any) -> list[WireSpec]:
    return [WireSpec(index, f"ue{index}", 10e6, 10e6, **more) for index in range(count)]


def saturating(wire: WireSpec, send_buffer: int = 0) -> Flow:
    """A TCP flow up a wire."""
    return Flow(name(wire.ue), name("edge"), wire.edge_address, send_buffer=send_buffer)


def counted(wire: WireSpec) -> Counter:
    """What comes up a wire, as the kernel counts it at the edge's interface."""
    return Counter(name("edge"), wire.edge_interface)


def link_config(wire: WireSpec, outage: Literal["hold", "loss"] = "hold", at_end: AtEnd = "loop") -> LinkConfig:
    return LinkConfig(wire.ue, wire.up_port, wire.down_port, "", at_end, outage, 100e3)


def rate_scenario(count: int) -> Scenario:
    """UEs whose traces are rates."""
    scenario = example_scenario(count)
    ues = [msgspec.structs.replace(ue, channel_kind="rate") for ue in scenario.ues]
    return msgspec.structs.replace(scenario, ues=tuple(ues))


def equal_spectrum(scenario: Scenario, share: float) -> Decision:
    """Every UE has this part of the spectrum, both ways."""
    up, down = share * scenario.radio.uplink_hz, share * scenario.radio.downlink_hz
    return Decision(0, 0, 0.0, tuple(UeDecision(ue.name, (), 0.1, up, down, 0.1) for ue in scenario.ues))


@dataclass(frozen=True)
class Played:
    """What one uplink was told and what it carried, over ``seconds`` from ``origin_seconds`` on."""

    origin_seconds: float
    seconds: float
    steps: list[LinkStep]
    counter: Counter

    @property
    def lateness_seconds(self) -> list[float]:
        return [step.applied_seconds - step.planned_seconds for step in self.steps if step.cause == "trace"]

    def errors(self, window_seconds: float, begin_seconds: float, every_seconds: float = 1.0) -> list[WindowError]:
        """Carried against applied, in windows."""
        applied = AppliedRate(
            [step.applied_seconds for step in self.steps], [step.applied_bits_per_second for step in self.steps]
        )
        starts = np.arange(begin_seconds, self.seconds - window_seconds + 1e-9, every_seconds) + self.origin_seconds
        result = []
        for start in starts:
            begin, end, carried = self.counter.between(start, start + window_seconds)
            asked = float(applied.bits_between(begin, end))
            result.append(WindowError(float(start - self.origin_seconds), asked, carried))
        return result


@dataclass(frozen=True)
class WindowError:
    start_seconds: float
    asked_bits: float
    carried_bits: float

    @property
    def ratio(self) -> float:
        return self.carried_bits / self.asked_bits - 1

    @property
    def beyond(self) -> bool:
        """Off by more than 1 % and by more than two frames."""
        return bool(abs(self.carried_bits - self.asked_bits) > max(0.01 * self.asked_bits, 2 * FRAME_BITS))


def play(
    specs: Sequence[WireSpec],
    scenario: Scenario,
    traces: Mapping[str, Trace],
    seconds: float,
    decision: Decision | None = None,
) -> list[Played]:
    """Play traces with our player on wires whose uplinks are saturated; the calling process is the player."""
    steps: list[LinkStep] = []
    with wired(specs) as shaper, ExitStack() as stack:
        playback = Playback(scenario, [link_config(wire) for wire in specs], traces, shaper, steps.append)
        if decision is not None:
            playback.decide(decision)
        counters = [stack.enter_context(counted(wire)) for wire in specs]
        for wire in specs:
            stack.enter_context(saturating(wire, 1 << 18))
        time.sleep(SETTLE_SECONDS)
        origin = time.monotonic() + 0.1
        playback.start(origin)
        while time.monotonic() < origin + seconds:
            playback.prepare()
            sleep_until(playback.next_deadline_seconds())
            playback.step()
        time.sleep(0.1)
        playback.close()
    return [
        Played(origin, seconds, [s for s in steps if s.ue == wire.ue and s.direction == "up"], counter)
        for wire, counter in zip(specs, counters, strict=True)
    ]

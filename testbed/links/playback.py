"""From traces and decisions to shaped wires: what is in force, what the next step changes, and what was applied when.

No sockets and no waiting here: the player calls :meth:`Playback.prepare` before a deadline and :meth:`Playback.step` at
it, and everything that costs time but the change itself is done in the former.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from controller.contract import Decision, Scenario, UeDecision
from controller.model.radio import LinkRates, rates
from testbed.configs import LinkConfig
from testbed.errors import TestbedError
from testbed.links.netlink import QdiscStatistics
from testbed.links.shaping import Shaper
from testbed.links.wire import DEFAULT_LEAF_BYTES
from testbed.messages import ChannelDrops, LinkState, LinkStep, PlayerReport
from testbed.traces.trace import State, Trace

Cause = Literal["trace", "decision", "command"]
Direction = Literal["up", "down"]

#: What a wire in outage lets through: a packet of 1514 bytes holds HTB up for 0.76 s, and that is the longest that the
#: wire may still stand still when the outage is over.
OUTAGE_BITS_PER_SECOND = 16e3
#: Latenesses that the 99th percentile is taken over.
_LATENESS_WINDOW = 1000


def equal_shares(scenario: Scenario) -> Decision:
    """Before the first decision: everybody has the same part of the spectrum."""
    count = len(scenario.ues)
    return Decision(
        sequence=-1,
        slot=-1,
        valid_from_seconds=0.0,
        ues=tuple(
            UeDecision(
                name=ue.name,
                cut=(),
                device_speed=0.0,
                spectrum_up_hz=scenario.radio.uplink_hz / count,
                spectrum_down_hz=scenario.radio.downlink_hz / count,
                edge_share=0.0,
            )
            for ue in scenario.ues
        ),
    )


@dataclass
class _Port:
    """One direction of one wire."""

    name: str
    ue: str
    direction: Direction
    applied_bits_per_second: float = math.nan
    outage: bool = False
    #: the leaf's limit as the wire was made; what it has when the port is not in an outage by loss
    leaf_bytes: int | None = None
    dropping: bool = False
    #: dropped on purpose at some time since the last statistics
    dropped_on_purpose: bool = False
    command_bits_per_second: float | None = None
    since_seconds: float = field(default_factory=time.monotonic)
    bits: float = 0.0
    sent_bytes: int = 0
    sent_packets: int = 0
    dropped_packets: int = 0

    def count(self, leaf: QdiscStatistics) -> None:
        """Counters from which the next differences are taken."""
        self.sent_bytes, self.sent_packets = leaf.sent_bytes, leaf.sent_packets
        self.dropped_packets = leaf.dropped_packets

    def advance(self, now_seconds: float) -> None:
        """Add the applied rate up to now."""
        if not math.isnan(self.applied_bits_per_second):
            self.bits += self.applied_bits_per_second * (now_seconds - self.since_seconds)
        self.since_seconds = now_seconds


@dataclass
class _Link:
    config: LinkConfig
    trace: Trace
    ports: dict[Direction, _Port]
    state: State
    next_step: int = 0


@dataclass
class _Prepared:
    """What the next deadline brings."""

    deadline_seconds: float
    #: from when on still more would be due
    until_seconds: float = math.inf
    stepping: list[tuple[_Link, int]] = field(default_factory=list)  # link, number of the step
    states: dict[str, State] = field(default_factory=dict)
    rates: Mapping[str, LinkRates] = field(default_factory=dict)


class Playback:
    """All links of a lab on one clock. ``record`` takes each LinkStep and must not block."""

    def __init__(
        self,
        scenario: Scenario,
        links: Sequence[LinkConfig],
        traces: Mapping[str, Trace],
        shaper: Shaper,
        record: Callable[[LinkStep], None],
    ) -> None:
        names = {ue.name for ue in scenario.ues}
        if {link.ue for link in links} != names:
            raise TestbedError(f"the player's links are not those of the scenario: {names ^ {ln.ue for ln in links}}")
        kinds = {str(ue.name): ue.channel_kind for ue in scenario.ues}
        for name, trace in traces.items():
            if trace.kind != kinds[name]:
                raise TestbedError(f"the trace of {name!r} holds {trace.kind}s, its channel wants {kinds[name]}s")
        self._scenario, self._shaper, self._record = scenario, shaper, record
        self._decision = equal_shares(scenario)
        self._links = [
            _Link(
                config=link,
                trace=traces[link.ue],
                ports={
                    "up": _Port(link.up_port, link.ue, "up"),
                    "down": _Port(link.down_port, link.ue, "down"),
                },
                state=traces[link.ue].value_at(0.0, link.at_end),
            )
            for link in links
        ]
        self._ports = {port.name: port for link in self._links for port in link.ports.values()}
        self._origin_seconds = math.inf
        self._prepared: _Prepared | None = None
        self._reported_seconds = time.monotonic()
        self._latenesses: deque[float] = deque(maxlen=_LATENESS_WINDOW)
        self.steps = 0
        self.skipped_steps = 0
        self._find_leaves()
        self._apply(rates(scenario, self._gains({}), self._decision))

    def _find_leaves(self) -> None:
        leaves = self._shaper.leaves(list(self._ports))
        for link in self._links:
            for port in link.ports.values():
                leaf = leaves.get(port.name)
                if leaf is None:
                    raise TestbedError(f"the port {port.name!r} has no shaper: is the lab's network up?")
                if leaf.limit_bytes is None and link.config.outage == "loss":
                    raise TestbedError(f"an outage by loss needs a bfifo leaf; {port.name!r} has a {leaf.kind}")
                # 0: a player died in the middle of an outage by loss
                port.leaf_bytes = DEFAULT_LEAF_BYTES if leaf.limit_bytes == 0 else leaf.limit_bytes
                port.dropping = leaf.limit_bytes == 0
                port.count(leaf)

    # ------------------------------------------------------------------------------------------------------- stepping

    def start(self, origin_seconds: float) -> None:
        """Every trace starts at ``origin_seconds`` (CLOCK_MONOTONIC); a trace under way starts again."""
        self._origin_seconds = origin_seconds
        self._prepared = None
        for link in self._links:
            link.next_step = 0

    @property
    def origin_seconds(self) -> float:
        """inf before :meth:`start`."""
        return self._origin_seconds

    def next_deadline_seconds(self) -> float:
        """When the next step of any link is due; inf if never."""
        return min((self._step_seconds(link, link.next_step) for link in self._links), default=math.inf)

    def prepare(self) -> None:
        """Work out what the next deadline changes, if that is not done yet."""
        if self._prepared is not None:
            return
        deadline = self.next_deadline_seconds()
        prepared = _Prepared(deadline)
        if math.isfinite(deadline):
            self._collect(prepared, deadline)
        self._prepared = prepared

    def step(self) -> None:
        """Apply what is due now. Steps that have been missed altogether are skipped and counted."""
        now = time.monotonic()
        self.prepare()
        prepared = self._prepared
        assert prepared is not None
        if prepared.deadline_seconds > now:
            return
        if now >= prepared.until_seconds:
            prepared = _Prepared(prepared.deadline_seconds)
            self._collect(prepared, now)
        self._prepared = None
        for link, _ in prepared.stepping:
            link.state = prepared.states[link.config.ue]
        applied_seconds = self._apply(prepared.rates)
        for link, number in prepared.stepping:
            self.skipped_steps += number - link.next_step
            self.steps += 1
            link.next_step = number + 1
            planned_seconds = self._step_seconds(link, number)
            self._latenesses.append(applied_seconds - planned_seconds)
            self._record_step(link, prepared.rates, planned_seconds, applied_seconds, "trace")

    def _collect(self, prepared: _Prepared, until_seconds: float) -> None:
        """The newest step of each link that is due by a time, and the rates of all links with them."""
        for link in self._links:
            following = link.next_step
            while (due_seconds := self._step_seconds(link, following)) <= until_seconds:
                following += 1
            prepared.until_seconds = min(prepared.until_seconds, due_seconds)
            if following > link.next_step:
                prepared.stepping.append((link, following - 1))
                prepared.states[link.config.ue] = link.trace.step_state(following - 1, link.config.at_end)
        prepared.rates = rates(self._scenario, self._gains(prepared.states), self._decision)

    def _step_seconds(self, link: _Link, number: int) -> float:
        return self._origin_seconds + link.trace.step_time(number, link.config.at_end)

    # ---------------------------------------------------------------------------------------- decisions and commands

    def decide(self, decision: Decision) -> bool:
        """Put a decision into force. False, and nothing changes, if it is not newer than the one in force.

        Raises TestbedError if it lacks a UE.
        """
        now = time.monotonic()
        if decision.sequence <= self._decision.sequence:
            return False
        lacking = {ue.name for ue in self._scenario.ues} - {ue.name for ue in decision.ues}
        if lacking:
            raise TestbedError(f"decision {decision.sequence} lacks {', '.join(sorted(lacking))}: dropped")
        self._decision = decision
        self._change("decision", now, self._links)
        return True

    def command(self, ue: str, commanded: Mapping[Direction, float], *, reset: bool = False) -> None:
        """Fix the rates of directions of a link, or give them back to trace and decision.

        Raises TestbedError for an unknown UE.
        """
        now = time.monotonic()
        link = self._link(ue)
        for port in link.ports.values():
            if reset:
                port.command_bits_per_second = None
            if port.direction in commanded:
                port.command_bits_per_second = commanded[port.direction]
        self._change("command", now, [link])

    def _change(self, cause: Cause, now_seconds: float, recorded: Sequence[_Link]) -> None:
        self._prepared = None
        planned = rates(self._scenario, self._gains({}), self._decision)
        applied_seconds = self._apply(planned)
        for link in recorded:
            self._record_step(link, planned, now_seconds, applied_seconds, cause)

    def _link(self, ue: str) -> _Link:
        for link in self._links:
            if link.config.ue == ue:
                return link
        raise TestbedError(f"no link of a UE {ue!r}; there are {', '.join(link.config.ue for link in self._links)}")

    def _gains(self, states: Mapping[str, State]) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
        """Channel states in the shape that the radio model takes: ``states``, else what is in force."""
        current = {link.config.ue: states.get(link.config.ue, link.state) for link in self._links}
        return {name: ((state.up,), (state.down,)) for name, state in current.items()}

    # ------------------------------------------------------------------------------------------------------- applying

    def _apply(self, planned: Mapping[str, LinkRates]) -> float:
        """Bring the kernel to the planned rates; returns when it had acknowledged."""
        changed: dict[str, float] = {}
        limits: dict[str, int] = {}
        touched: list[tuple[_Port, float, bool]] = []
        for link in self._links:
            for port in link.ports.values():
                wanted = _wanted(port, planned[link.config.ue])
                outage = wanted < link.config.outage_floor_bits_per_second
                target = OUTAGE_BITS_PER_SECOND if outage else wanted
                if target != port.applied_bits_per_second:
                    changed[port.name] = target
                dropping = outage and link.config.outage == "loss"
                if dropping != port.dropping and port.leaf_bytes is not None:
                    limits[port.name] = 0 if dropping else port.leaf_bytes
                touched.append((port, target, outage))
        if limits:
            self._shaper.set_leaf_limits(limits)
        self._shaper.set_rates(changed)
        now = time.monotonic()
        for port, target, outage in touched:
            port.advance(now)
            port.applied_bits_per_second = target
            port.outage = outage
            if port.name in limits:
                port.dropping = limits[port.name] == 0
            port.dropped_on_purpose |= port.dropping
        return now

    def _record_step(
        self,
        link: _Link,
        planned: Mapping[str, LinkRates],
        planned_seconds: float,
        applied_seconds: float,
        cause: Cause,
    ) -> None:
        for port in link.ports.values():
            self._record(
                LinkStep(
                    ue=port.ue,
                    direction=port.direction,
                    planned_seconds=planned_seconds,
                    applied_seconds=applied_seconds,
                    planned_bits_per_second=_wanted(port, planned[port.ue]),
                    applied_bits_per_second=port.applied_bits_per_second,
                    gain=link.state.up if port.direction == "up" else link.state.down,
                    cause=cause,
                )
            )

    # ------------------------------------------------------------------------------------------------------ reporting

    def report(self, slot: int, slot_seconds: float) -> PlayerReport:
        """About slot ``slot`` that ends now (-1: none has been); starts the means of the next one."""
        now = time.monotonic()
        elapsed, self._reported_seconds = now - self._reported_seconds, now
        start = slot * slot_seconds
        states = []
        for link in self._links:
            mean = link.state if slot < 0 else link.trace.mean(start, start + slot_seconds, link.config.at_end)
            up, down = link.ports["up"], link.ports["down"]
            states.append(
                LinkState(
                    node=link.config.ue,
                    gain_up=(link.state.up,),
                    gain_down=(link.state.down,),
                    mean_gain_up=(mean.up,),
                    mean_gain_down=(mean.down,),
                    rate_up_bits_per_second=up.applied_bits_per_second,
                    rate_down_bits_per_second=down.applied_bits_per_second,
                    mean_rate_up_bits_per_second=_mean_rate(up, now, elapsed),
                    outage=up.outage or down.outage,
                )
            )
        return PlayerReport(
            slot=slot,
            monotonic_seconds=now,
            links=tuple(states),
            steps=self.steps,
            skipped_steps=self.skipped_steps,
            lateness_p99_seconds=self._lateness_p99(),
        )

    def drops(self) -> list[ChannelDrops]:
        """What each leaf sent, and dropped though nobody ordered it, since the last call."""
        now = time.monotonic()
        result = []
        for name, leaf in self._shaper.leaves(list(self._ports)).items():
            port = self._ports[name]
            dropped = leaf.dropped_packets - port.dropped_packets
            by_order = port.dropped_on_purpose or leaf.loss_ratio > 0
            result.append(
                ChannelDrops(
                    ue=port.ue,
                    direction=port.direction,
                    monotonic_seconds=now,
                    sent_bytes=leaf.sent_bytes - port.sent_bytes,
                    dropped_packets=0 if by_order else dropped,
                    backlog_bytes=leaf.backlog_bytes,
                    sent_packets=leaf.sent_packets - port.sent_packets,
                    lost_packets=dropped if leaf.loss_ratio > 0 else 0,
                )
            )
            port.count(leaf)
            port.dropped_on_purpose = port.dropping
        return result

    def _lateness_p99(self) -> float:
        ordered = sorted(self._latenesses)
        return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] if ordered else 0.0


def _wanted(port: _Port, planned: LinkRates) -> float:
    """The rate that a port should have, before the outage floor."""
    if port.command_bits_per_second is not None:
        return port.command_bits_per_second
    return planned.up_bits_per_second if port.direction == "up" else planned.down_bits_per_second


def _mean_rate(port: _Port, now_seconds: float, elapsed_seconds: float) -> float:
    """Mean of the applied rate since the last call."""
    port.advance(now_seconds)
    bits, port.bits = port.bits, 0.0
    return bits / elapsed_seconds

"""From traces and decisions to shaped wires: what is in force, what the next step changes, and what was applied when.

No sockets and no waiting here: the player calls :meth:`Playback.prepare` before a deadline and :meth:`Playback.step` at
it, and everything that costs time but the change itself is done in the former or after the latter.
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
from testbed.links.ports import OUTAGE_FRAME_SECONDS, Direction, Port, Ports
from testbed.links.shaping import Shaper
from testbed.messages import ChannelDrops, LinkState, LinkStep, PlayerReport, SetLink
from testbed.traces.trace import State, Trace

Cause = Literal["trace", "decision", "command", "impairment"]
#: What a trace is of: the radio channel (gains or rates), the wire's delay, or its losses.
What = Literal["channel", "delay", "loss"]

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
class _Track:
    """One trace of one link."""

    what: What
    trace: Trace
    state: State
    next_step: int = 0


@dataclass
class _Link:
    config: LinkConfig
    ports: dict[Direction, Port]
    tracks: list[_Track]  # the channel's first

    @property
    def channel(self) -> _Track:
        return self.tracks[0]


@dataclass
class _Prepared:
    """What the next deadline brings."""

    deadline_seconds: float
    #: from when on still more would be due
    until_seconds: float = math.inf
    stepping: list[tuple[_Link, _Track, int, State]] = field(default_factory=list)  # with the number of the step
    rates: Mapping[str, LinkRates] = field(default_factory=dict)
    #: by port, where the end of an outage that is in force then is near
    outage_ends: dict[str, float] = field(default_factory=dict)


class Playback:
    """All links of a lab on one clock. ``record`` takes each LinkStep and must not block.

    ``traces`` of the channels by UE; ``delays`` and ``losses`` where a link has such traces.
    """

    def __init__(
        self,
        scenario: Scenario,
        links: Sequence[LinkConfig],
        traces: Mapping[str, Trace],
        shaper: Shaper,
        record: Callable[[LinkStep], None],
        *,
        delays: Mapping[str, Trace] | None = None,
        losses: Mapping[str, Trace] | None = None,
    ) -> None:
        names = {ue.name for ue in scenario.ues}
        if {link.ue for link in links} != names:
            raise TestbedError(f"the player's links are not those of the scenario: {names ^ {ln.ue for ln in links}}")
        kinds = {str(ue.name): ue.channel_kind for ue in scenario.ues}
        for name, trace in traces.items():
            if trace.kind != kinds[name]:
                raise TestbedError(f"the trace of {name!r} holds {trace.kind}s, its channel wants {kinds[name]}s")
        self._scenario, self._record = scenario, record
        self._decision = equal_shares(scenario)
        self._ports = Ports(links, shaper)
        given: dict[What, Mapping[str, Trace]] = {"channel": traces, "delay": delays or {}, "loss": losses or {}}
        self._links = [
            _Link(
                config=link,
                ports={
                    "up": self._ports.by_name[link.up_port],
                    "down": self._ports.by_name[link.down_port],
                },
                tracks=[
                    _Track(what, by_ue[link.ue], by_ue[link.ue].value_at(0.0, link.at_end))
                    for what, by_ue in given.items()
                    if link.ue in by_ue
                ],
            )
            for link in links
        ]
        self._origin_seconds = math.inf
        self._prepared: _Prepared | None = None
        self._reported_seconds = time.monotonic()
        self._latenesses: deque[float] = deque(maxlen=_LATENESS_WINDOW)
        self.steps = 0
        self.skipped_steps = 0
        for link in self._links:
            for track in link.tracks:
                _play(link, track)
        self._apply(rates(scenario, self._gains({}), self._decision))

    def close(self) -> None:
        self._ports.close()

    # ------------------------------------------------------------------------------------------------------- stepping

    def start(self, origin_seconds: float) -> None:
        """Every trace starts at ``origin_seconds`` (CLOCK_MONOTONIC); a trace under way starts again."""
        self._origin_seconds = origin_seconds
        self._prepared = None
        for link in self._links:
            for track in link.tracks:
                track.next_step = 0

    @property
    def origin_seconds(self) -> float:
        """inf before :meth:`start`."""
        return self._origin_seconds

    def next_deadline_seconds(self) -> float:
        """When the next step of any link is due; inf if never."""
        return min(
            (self._step_seconds(link, track, track.next_step) for link in self._links for track in link.tracks),
            default=math.inf,
        )

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
        for link, track, number, state in prepared.stepping:
            self.skipped_steps += number - track.next_step
            track.state, track.next_step = state, number + 1
            _play(link, track)
        applied_seconds = self._apply(prepared.rates, prepared.outage_ends)
        for link, track, number, _ in prepared.stepping:
            self.steps += 1
            planned_seconds = self._step_seconds(link, track, number)
            self._latenesses.append(applied_seconds - planned_seconds)
            cause: Cause = "trace" if track.what == "channel" else "impairment"
            self._record_step(link, prepared.rates, planned_seconds, applied_seconds, cause)
        self._ports.settle()

    def _collect(self, prepared: _Prepared, until_seconds: float) -> None:
        """The newest step of each trace that is due by a time, and the rates of all links with them."""
        states: dict[str, State] = {}
        for link in self._links:
            for track in link.tracks:
                following = track.next_step
                while (due_seconds := self._step_seconds(link, track, following)) <= until_seconds:
                    following += 1
                prepared.until_seconds = min(prepared.until_seconds, due_seconds)
                if following > track.next_step:
                    state = track.trace.step_state(following - 1, link.config.at_end)
                    prepared.stepping.append((link, track, following - 1, state))
                    if track.what == "channel":
                        states[link.config.ue] = state
        prepared.rates = rates(self._scenario, self._gains(states), self._decision)
        stepped = {id(track): number + 1 for _, track, number, _ in prepared.stepping}
        for link in self._links:
            following = stepped.get(id(link.channel), link.channel.next_step)
            prepared.outage_ends |= self._outage_ends(link, prepared.rates[link.config.ue], following)

    def _outage_ends(self, link: _Link, planned: LinkRates, following: int) -> dict[str, float]:
        """When the outages of a link's ports end, if one of the next steps of its channel ends them soon."""
        floor = link.config.outage_floor_bits_per_second
        out = [port for port in link.ports.values() if _wanted(port, planned) < floor]
        ends: dict[str, float] = {}
        begin = self._step_seconds(link, link.channel, following - 1) if following else self._origin_seconds
        while out and (due := self._step_seconds(link, link.channel, following)) < begin + OUTAGE_FRAME_SECONDS:
            state = link.channel.trace.step_state(following, link.config.at_end)
            later = rates(self._scenario, self._gains({link.config.ue: state}), self._decision)[link.config.ue]
            ends |= {port.name: due for port in out if _wanted(port, later) >= floor}
            out = [port for port in out if port.name not in ends]
            following += 1
        return ends

    def _step_seconds(self, link: _Link, track: _Track, number: int) -> float:
        return self._origin_seconds + track.trace.step_time(number, link.config.at_end)

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

    def command(self, request: SetLink) -> None:
        """Fix parts of a link (both directions where a part has no own), or give them back to lab and trace.

        Raises TestbedError for an unknown UE and for what this link cannot do; nothing has changed then.
        """
        now = time.monotonic()
        link = self._link(request.node)
        before = {direction: _commanded(port) for direction, port in link.ports.items()}
        for direction, port in link.ports.items():
            if request.reset:
                port.reset()
            rate = request.rate_up_bits_per_second if direction == "up" else request.rate_down_bits_per_second
            asked = (rate, request.delay_seconds, request.jitter_seconds, request.loss_ratio)
            _command(port, [new if new is not None else old for new, old in zip(asked, _commanded(port), strict=True)])
        try:
            self._change("command", now, [link])
        except TestbedError:
            for direction, port in link.ports.items():
                _command(port, before[direction])
            raise

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
        current = {link.config.ue: states.get(link.config.ue, link.channel.state) for link in self._links}
        return {name: ((state.up,), (state.down,)) for name, state in current.items()}

    # ------------------------------------------------------------------------------------------------------- applying

    def _apply(self, planned: Mapping[str, LinkRates], outage_ends: Mapping[str, float] | None = None) -> float:
        """Bring the kernel to the planned rates; returns when it had acknowledged."""
        wanted = {
            port.name: _wanted(port, planned[link.config.ue]) for link in self._links for port in link.ports.values()
        }
        return self._ports.apply(wanted, self.next_deadline_seconds(), outage_ends)

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
                    gain=_value(link.channel.state, port.direction),
                    cause=cause,
                    delay_seconds=port.impairment.delay_seconds if port.impairment else 0.0,
                    loss_ratio=port.impairment.mean_loss_ratio if port.impairment else 0.0,
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
            channel = link.channel
            mean = channel.state if slot < 0 else channel.trace.mean(start, start + slot_seconds, link.config.at_end)
            up, down = link.ports["up"], link.ports["down"]
            states.append(
                LinkState(
                    node=link.config.ue,
                    gain_up=(channel.state.up,),
                    gain_down=(channel.state.down,),
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
        """What each leaf sent, lost by order, and dropped though nobody ordered it, since the last call."""
        return self._ports.drops()

    def _lateness_p99(self) -> float:
        ordered = sorted(self._latenesses)
        return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] if ordered else 0.0


def _value(state: State, direction: Direction) -> float:
    return state.up if direction == "up" else state.down


def _play(link: _Link, track: _Track) -> None:
    """Tell the ports what a trace of delays or losses says."""
    for direction, port in link.ports.items():
        if track.what == "delay":
            port.played_delay_seconds = _value(track.state, direction)
        elif track.what == "loss":
            port.played_loss_ratio = _value(track.state, direction)


def _commanded(port: Port) -> list[float | None]:
    return [
        port.command_bits_per_second,
        port.command_delay_seconds,
        port.command_jitter_seconds,
        port.command_loss_ratio,
    ]


def _command(port: Port, values: Sequence[float | None]) -> None:
    (
        port.command_bits_per_second,
        port.command_delay_seconds,
        port.command_jitter_seconds,
        port.command_loss_ratio,
    ) = values


def _wanted(port: Port, planned: LinkRates) -> float:
    """The rate that a port should have, before the outage floor."""
    if port.command_bits_per_second is not None:
        return port.command_bits_per_second
    return planned.up_bits_per_second if port.direction == "up" else planned.down_bits_per_second


def _mean_rate(port: Port, now_seconds: float, elapsed_seconds: float) -> float:
    """Mean of the applied rate since the last call."""
    port.advance(now_seconds)
    bits, port.bits = port.bits, 0.0
    return bits / elapsed_seconds

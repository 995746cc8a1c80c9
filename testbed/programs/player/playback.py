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

import msgspec

from controller.contract import Decision, Scenario, UeDecision
from controller.frames import FRAME_BITS
from controller.model.outage import FORESIGHT_SECONDS, OUTAGE_BITS_PER_SECOND
from controller.model.radio import LinkRates, is_coupled, rates, sharers_of
from controller.model.stage_fading import Floats, stage_gains
from controller.service.protocol import LinkState, PlayerReport, SetLink
from testbed.errors import TestbedError
from testbed.programs.player.outlook import Channel, Outlook
from testbed.programs.player.ports import Direction, Order, Port, Ports
from testbed.protocol.configs import LinkConfig
from testbed.protocol.records import ChannelDrops, LinkStep
from testbed.traces.trace import State, Trace
from testbed.wires.frames import Course, leading_over
from testbed.wires.shaping import Shaper

Cause = Literal["trace", "decision", "command", "impairment", "ahead", "stage"]
#: What a trace is of: the radio channel (gains or rates), the wire's delay, or its losses.
What = Literal["channel", "delay", "loss"]

#: Rates that depend on each other take longer to work out.
COUPLED_FORESIGHT_SECONDS = 1.0
#: Latenesses that the 99th percentile is taken over.
_LATENESS_WINDOW = 1000


def equal_shares(scenario: Scenario) -> Decision:
    """Before the first decision: everybody has the same part of its access point's spectrum."""
    return Decision(
        sequence=-1,
        slot=-1,
        valid_from_seconds=0.0,
        ues=tuple(
            UeDecision(
                name=ue.name,
                cut=(),
                device_speed=0.0,
                spectrum_up_hz=scenario.radio.uplink_hz / among,
                spectrum_down_hz=scenario.radio.downlink_hz / among,
                edge_share=0.0,
            )
            for ue, among in zip(scenario.ues, sharers_of(scenario).tolist(), strict=True)
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

    held_up: float | None = None  # drawn for the task on the air, in the place of the trace's

    @property
    def channel(self) -> _Track:
        return self.tracks[0]

    def state(self, played: State | None = None) -> State:
        """The channel with what the trace has (None: now), or what is held."""
        state = self.channel.state if played is None else played
        return state if self.held_up is None else state._replace(up=self.held_up)


@dataclass
class _Prepared:
    """What the next deadline brings."""

    deadline_seconds: float
    #: from when on still more would be due
    until_seconds: float = math.inf
    stepping: list[tuple[_Link, _Track, int, State]] = field(default_factory=list)  # with the number of the step
    epoch: int = 0  # of the outlook
    plan: _Plan = field(default_factory=lambda: _Plan({}, []))


@dataclass(frozen=True)
class _Plan:
    """What the ports do from a time on, and what HTB is told later on, ahead of the next step."""

    orders: dict[str, Order]
    #: by time
    ahead: list[tuple[float, dict[str, float]]]


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
        seed: int = 0,
    ) -> None:
        names = {ue.name for ue in scenario.ues}
        if {link.ue for link in links} != names:
            raise TestbedError(f"the player's links are not those of the scenario: {names ^ {ln.ue for ln in links}}")
        kinds = {str(ue.name): ue.channel_kind for ue in scenario.ues}
        for name, trace in traces.items():
            if trace.kind != kinds[name]:
                raise TestbedError(f"the trace of {name!r} holds {trace.kind}s, its channel wants {kinds[name]}s")
        self._scenario, self._record, self._seed = scenario, record, seed
        self._indices = {str(ue.name): index for index, ue in enumerate(scenario.ues)}
        self._drawn: dict[str, tuple[int, Floats]] = {}  # by UE: a task, and its gains at its cuts
        self._decision = equal_shares(scenario)
        self._coupled = is_coupled(scenario.radio)
        self._foresight_seconds = COUPLED_FORESIGHT_SECONDS if self._coupled else FORESIGHT_SECONDS
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
        self._by_ue = {link.config.ue: link for link in self._links}
        self._origin_seconds = math.inf
        self._alone = {str(ue.name): msgspec.structs.replace(scenario, ues=(ue,)) for ue in scenario.ues}
        self._outlook = self._look_out()
        self._prepared: _Prepared | None = None
        #: what HTB is still told before the next step
        self._ahead: deque[tuple[float, dict[str, float]]] = deque()
        self._reported_seconds = time.monotonic()
        self._latenesses: deque[float] = deque(maxlen=_LATENESS_WINDOW)
        self.steps = 0
        self.skipped_steps = 0
        for link in self._links:
            for track in link.tracks:
                _play(link, track)
        self._apply(0, self._plan(0, time.monotonic()))

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
        self._outlook = self._look_out()
        self._apply(0, self._plan(0, time.monotonic()))

    @property
    def origin_seconds(self) -> float:
        """inf before :meth:`start`."""
        return self._origin_seconds

    def next_deadline_seconds(self) -> float:
        """When the next step of any link is due, or what HTB is told ahead of it; inf if never."""
        ahead = self._ahead[0][0] if self._ahead else math.inf
        return min(ahead, self._next_step_seconds())

    def _next_step_seconds(self) -> float:
        return min(
            (self._step_seconds(link, track, track.next_step) for link in self._links for track in link.tracks),
            default=math.inf,
        )

    def prepare(self) -> None:
        """Work out what the next step changes, if that is not done yet."""
        if self._prepared is not None:
            return
        deadline = self._next_step_seconds()
        prepared = _Prepared(deadline)
        if math.isfinite(deadline):
            self._collect(prepared, deadline)
        self._prepared = prepared

    def rehearse(self) -> None:
        """Go through the next step without doing it: what was not used for 100 ms comes from memory, and slowly."""
        if self._prepared is not None:
            self._ports.rehearse(self._prepared.plan.orders)

    def step(self) -> None:
        """Apply what is due now. Steps that have been missed altogether are skipped and counted."""
        now = time.monotonic()
        self.prepare()
        prepared = self._prepared
        assert prepared is not None
        if prepared.deadline_seconds > now:
            self._tell_ahead(now)
            return
        if now >= prepared.until_seconds:
            prepared = _Prepared(prepared.deadline_seconds)
            self._collect(prepared, now)
        self._prepared = None
        for link, track, number, state in prepared.stepping:
            self.skipped_steps += number - track.next_step
            track.state, track.next_step = state, number + 1
            _play(link, track)
        applied_seconds = self._apply(prepared.epoch, prepared.plan)
        for link, track, number, _ in prepared.stepping:
            self.steps += 1
            planned_seconds = self._step_seconds(link, track, number)
            self._latenesses.append(applied_seconds - planned_seconds)
            cause: Cause = "trace" if track.what == "channel" else "impairment"
            self._record_step(link, planned_seconds, applied_seconds, cause)
        if self._coupled:
            # what one link's channel does changes the rates of others
            stepped = {id(link) for link, *_ in prepared.stepping}
            for link in self._links:
                if id(link) not in stepped:
                    self._record_step(link, prepared.deadline_seconds, applied_seconds, "trace")

    def _collect(self, prepared: _Prepared, until_seconds: float) -> None:
        """The newest step of each trace that is due by a time, and what all ports do from then on."""
        for link in self._links:
            for track in link.tracks:
                following = track.next_step
                while (due_seconds := self._step_seconds(link, track, following)) <= until_seconds:
                    following += 1
                prepared.until_seconds = min(prepared.until_seconds, due_seconds)
                if following > track.next_step:
                    state = track.trace.step_state(following - 1, link.config.at_end)
                    prepared.stepping.append((link, track, following - 1, state))
        prepared.epoch = self._outlook.index_at(until_seconds)
        prepared.plan = self._plan(prepared.epoch, until_seconds)

    def _plan(self, epoch: int, begin_seconds: float) -> _Plan:
        """What the ports do from a time on that is in an epoch."""
        orders: dict[str, Order] = {}
        ahead: dict[float, dict[str, float]] = {}
        for link in self._links:
            for port in link.ports.values():
                course = self._course(port, epoch, begin_seconds)
                (_, told), *later = leading_over(course)
                orders[port.name] = _order(course, told)
                for at_seconds, rate in later:
                    ahead.setdefault(at_seconds, {})[port.name] = rate
        return _Plan(orders, sorted(ahead.items(), key=lambda entry: entry[0]))

    def _course(self, port: Port, epoch: int, begin_seconds: float) -> Course:
        """How a port's rate goes from a time on that is in an epoch, as far as a frame of this epoch can reach."""

        def rate_in(number: int) -> float:
            wanted = _wanted(port, self._outlook.rates(number, port.ue))
            return wanted if wanted >= port.config.outage_floor_bits_per_second else 0.0

        found = [(begin_seconds, rate_in(epoch))]

        def course(index: int) -> tuple[float, float]:
            nonlocal epoch
            while index >= len(found):
                begin, rate = found[-1]
                if math.isinf(begin):
                    return found[-1]
                last = max(begin, next_epoch_seconds) + (FRAME_BITS / rate if rate else self._foresight_seconds)
                while (at := self._outlook.begin_seconds(epoch + 1)) <= last:
                    epoch += 1
                    if (following := rate_in(epoch)) != rate:
                        found.append((at, following))
                        break
                else:
                    found.append((math.inf, rate))
            return found[index]

        next_epoch_seconds = min(self._outlook.begin_seconds(epoch + 1), begin_seconds + self._foresight_seconds)
        return course

    def _look_out(self) -> Outlook:
        """From what is in force."""
        return Outlook(
            [
                Channel(
                    link.config.ue, link.channel.trace, link.config.at_end, link.channel.next_step, link.channel.state
                )
                for link in self._links
            ],
            self._origin_seconds,
            self._rates_of,
        )

    def _rates_of(self, states: Mapping[str, State], ue: str) -> Mapping[str, LinkRates]:
        """Of this UE's link; of all links where they depend on each other."""
        gains: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {}
        for name in states if self._coupled else (ue,):
            state = self._link(name).state(states[name])
            gains[name] = (state.up,), (state.down,)
        return rates(self._scenario if self._coupled else self._alone[ue], gains, self._decision)

    def _step_seconds(self, link: _Link, track: _Track, number: int) -> float:
        return self._origin_seconds + track.trace.step_time(number, link.config.at_end)

    def _tell_ahead(self, now_seconds: float) -> None:
        """What is due before the next step. Of what is late only the last counts."""
        due_seconds, told = 0.0, dict[str, float]()
        while self._ahead and self._ahead[0][0] <= now_seconds:
            due_seconds, latest = self._ahead.popleft()
            told |= latest
        if not told:
            return
        applied_seconds = self._ports.tell(told)
        for name in told:
            self._record_port(self._ports.by_name[name], due_seconds, applied_seconds, "ahead")

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

        Raises TestbedError for an unknown UE, for a value that none can have, and for what this link cannot do;
        nothing has changed then.
        """
        now = time.monotonic()
        link = self._link(request.node)
        _require_possible(request)
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

    def seen(self, ue: str, task: int, column: int) -> float:
        """What a UE sees of its uplink now: the trace's state, or what is drawn for this task and stage.

        Raises TestbedError for an unknown UE or cut.
        """
        link = self._link(ue)
        of = self._scenario.ues[self._indices[ue]]
        if of.channel_refresh == "time" or column < 0:
            return link.channel.state.up
        if column >= len(of.profile.chain_cuts):
            raise TestbedError(f"{ue}: the model has {len(of.profile.chain_cuts)} cuts, asked was for number {column}")
        if self._drawn.get(ue, (-1,))[0] != task:
            self._drawn[ue] = (task, stage_gains(of, self._seed, self._indices[ue], task))
        return float(self._drawn[ue][1][column])

    def tune(self, ue: str, task: int, column: int) -> float:
        """Hold what :meth:`seen` says of a task on the uplink until the next one. Returns its rate in bit/s."""
        now = time.monotonic()
        link = self._link(ue)
        if self._scenario.ues[self._indices[ue]].channel_refresh == "time":  # it could keep what suits it
            raise TestbedError(f"{ue} asked to hold its channel, which changes with time")
        link.held_up = self.seen(ue, task, column)
        self._change("stage", now, [link])
        return link.ports["up"].applied_bits_per_second

    def air(self, ue: str) -> tuple[bool, float]:
        """Whether a UE's uplink lets nothing through, and since when; now where it always let something.

        Raises TestbedError for an unknown UE.
        """
        port = self._link(ue).ports["up"]
        since = port.silent_since_seconds
        return port.silent, time.monotonic() if math.isnan(since) else since

    def changed_air(self) -> set[str]:
        """UEs whose :meth:`air` has changed since the last call."""
        changed = {port.ue for port in self._ports.changed_air}
        self._ports.changed_air.clear()
        return changed

    def _change(self, cause: Cause, now_seconds: float, recorded: Sequence[_Link]) -> None:
        self._prepared = None
        self._outlook.reconsider()
        applied_seconds = self._apply(0, self._plan(0, now_seconds))
        for link in recorded:
            self._record_step(link, now_seconds, applied_seconds, cause)

    def _link(self, ue: str) -> _Link:
        if ue not in self._by_ue:
            raise TestbedError(f"no link of a UE {ue!r}; there are {', '.join(self._by_ue)}")
        return self._by_ue[ue]

    # ------------------------------------------------------------------------------------------------------- applying

    def _apply(self, epoch: int, plan: _Plan) -> float:
        """Bring the kernel to a plan of an epoch; returns when it had acknowledged."""
        applied_seconds = self._ports.apply(plan.orders)
        self._outlook.forget(epoch)
        self._ahead = deque(plan.ahead)
        return applied_seconds

    def _record_step(self, link: _Link, planned_seconds: float, applied_seconds: float, cause: Cause) -> None:
        for port in link.ports.values():
            self._record_port(port, planned_seconds, applied_seconds, cause)

    def _record_port(self, port: Port, planned_seconds: float, applied_seconds: float, cause: Cause) -> None:
        self._record(
            LinkStep(
                ue=port.ue,
                direction=port.direction,
                planned_seconds=planned_seconds,
                applied_seconds=applied_seconds,
                planned_bits_per_second=_wanted(port, self._outlook.rates(0, port.ue)),
                applied_bits_per_second=port.applied_bits_per_second,
                gain=_value(self._link(port.ue).state(), port.direction),
                cause=cause,
                delay_seconds=port.delay_seconds,
                loss_ratio=port.impairment.mean_loss_ratio if port.impairment else 0.0,
                shaper_bits_per_second=port.shaper_bits_per_second,
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
                    gain_up=(link.state().up,),
                    gain_down=(link.state().down,),
                    mean_gain_up=(mean.up,),
                    mean_gain_down=(mean.down,),
                    # an outage is told by its flag: whoever divides by a rate gets none of 0
                    rate_up_bits_per_second=max(OUTAGE_BITS_PER_SECOND, up.applied_bits_per_second),
                    rate_down_bits_per_second=max(OUTAGE_BITS_PER_SECOND, down.applied_bits_per_second),
                    mean_rate_up_bits_per_second=max(OUTAGE_BITS_PER_SECOND, _mean_rate(up, now, elapsed)),
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


def _order(course: Course, told: float) -> Order:
    _, rate = course(0)
    in_sight = math.isfinite(course(1)[0])
    return Order(rate if rate or in_sight else OUTAGE_BITS_PER_SECOND, told, outage=not rate)


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


def _require_possible(request: SetLink) -> None:
    """Raises TestbedError: what is refused here would be clamped further down, and a loss of 5 be a loss of 1."""
    for name in ("rate_up_bits_per_second", "rate_down_bits_per_second", "delay_seconds", "jitter_seconds"):
        value = getattr(request, name)
        if value is not None and not 0 <= value < math.inf:
            raise TestbedError(f"{name} of a link cannot be {value}: it is 0 or more, and finite")
    if request.loss_ratio is not None and not 0 <= request.loss_ratio <= 1:
        raise TestbedError(f"loss_ratio of a link cannot be {request.loss_ratio}: it is 0 to 1")


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

"""A lab without a lab: the same scenario, arrivals, channel states and policy objects as the testbed.

``event`` mode walks every task through the tandem of queues and carries backlog; ``slot`` mode takes each slot's mean
delay from the ``exact`` formula. Training uses the batched slots of :mod:`controller.learning.batch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.contract import (
    STAGES,
    Codec,
    Cut,
    Decision,
    Observation,
    Policy,
    Scenario,
    SlotOutcome,
    UeDecision,
    UeName,
    UeObservation,
    UeOutcome,
    cut_from_label,
    cut_label,
)
from controller.model.arrivals import ArrivalProcess
from controller.model.decision import bootstrap_decision
from controller.model.delay import ChainWork, chain_work, cut_codec, stage_work, wire_bits
from controller.model.knowledge import Observer
from controller.model.older_tasks import tail_share
from controller.model.outage import FORESIGHT_SECONDS, OUTAGE_BITS_PER_SECOND
from controller.model.queueing import stage_waits_seconds
from controller.model.radio import idle_bits_per_second, is_coupled, rates_over
from controller.model.stage_fading import stage_gain_tables
from controller.service.engine import Notice, decision_of
from controller.service.worker import ask, attempt
from controller.simulator import tandem
from controller.simulator.channels import ChannelStates
from controller.simulator.model_moves import ModelMoves
from controller.simulator.result import Mode, SimulationResult, tasks_of
from controller.simulator.uploading import UploadingLab
from controller.solvers.allocation.chain import ChainTables

FloatArray = NDArray[np.float64]

__all__ = ["ChannelStates", "Mode", "SimulationResult", "simulate"]


@dataclass(frozen=True)
class _CutWork:
    head_seconds: float
    wire_bits: float
    tail_seconds: float
    down_bits: float


@dataclass
class _Lab:
    """What stays the same during a run, and work per cut as it is asked for."""

    scenario: Scenario
    tables: ChainTables = field(init=False)
    coupled: bool = field(init=False)  # rates come from the radio model for all links together
    labels: list[str] = field(default_factory=list)
    _work: dict[tuple[int, Cut, Codec | None], tuple[int, _CutWork]] = field(default_factory=dict)
    _chains: dict[tuple[int, Codec | None], ChainWork] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tables = ChainTables.of(self.scenario)
        self.coupled = is_coupled(self.scenario.radio)

    def work(self, ue: int, choice: UeDecision) -> tuple[int, _CutWork]:
        """(id of the cut, its work). Raises ValueError for a decision that the simulator does not model."""
        key = (ue, choice.cut, choice.codec)
        if key not in self._work:
            if choice.sites or (choice.downlink_watts is not None and not self.coupled):
                raise ValueError(
                    f"{choice.name}: the simulator models cut, speed, spectrum, power, share and codec only"
                )
            label = cut_label(choice.cut)
            if label not in self.labels:
                self.labels.append(label)
            self._work[key] = (self.labels.index(label), self._measure(ue, choice.cut, choice.codec))
        return self._work[key]

    def _measure(self, ue: int, cut: Cut, codec: Codec | None) -> _CutWork:
        profile = self.scenario.ues[ue].profile
        if (ue, codec) not in self._chains:
            self._chains[ue, codec] = chain_work(self.scenario, ue, codec)
        chain = self._chains[ue, codec]
        if cut in profile.chain_cuts:
            at = profile.chain_index(cut)
            return _CutWork(
                *(float(x[at]) for x in (chain.head_seconds, chain.up_bits, chain.tail_seconds, chain.down_bits))
            )
        name = cut_codec(self.scenario.ues[ue], cut, codec)
        head, tail = stage_work(profile, cut, name)
        bits, down = wire_bits(self.scenario, [profile.boundary_bytes(cut, name), profile.result_bytes])
        return _CutWork(head, float(bits), tail, float(down))

    def in_force(self, decision: Decision) -> tandem.InForce:
        found = [self.work(index, choice) for index, choice in enumerate(decision.ues)]

        def column(values: Sequence[float]) -> FloatArray:
            return np.array(values, dtype=np.float64)

        radio, cpus = self.scenario.radio, self.scenario.edge.cpus
        idle = np.array([np.inf if self.coupled else idle_bits_per_second(ue) for ue in self.scenario.ues])
        # of a coupled radio the tandem gets the rates themselves; a wire without spectrum is limited in all of it
        up, down = (
            column([1.0 if self.coupled else getattr(choice, key) or total for choice in decision.ues])
            for key, total in (("spectrum_up_hz", radio.uplink_hz), ("spectrum_down_hz", radio.downlink_hz))
        )
        return tandem.InForce(
            cut=np.array([number for number, _ in found], dtype=np.int64),
            head_seconds=column([work.head_seconds for _, work in found]),
            wire_bits=column([work.wire_bits for _, work in found]),
            tail_seconds=column([work.tail_seconds for _, work in found]),
            down_bits=column([work.down_bits for _, work in found]),
            speed=column([choice.device_speed for choice in decision.ues]),
            share=column([tail_share(choice, cpus) for choice in decision.ues]),
            spectrum_up_hz=up,
            down_ratio=down if self.coupled else down / radio.downlink_hz,
            most_up=np.where([choice.spectrum_up_hz > 0 for choice in decision.ues], np.inf, idle),
            most_down=np.where([choice.spectrum_down_hz > 0 for choice in decision.ues], np.inf, idle),
            power_ratio=column(
                [
                    1.0 if choice.transmit_watts is None else choice.transmit_watts / ue.transmit_watts
                    for ue, choice in zip(self.scenario.ues, decision.ues, strict=True)
                ]
            ),
            column=np.array([self._column(i, choice.cut) for i, choice in enumerate(decision.ues)], dtype=np.int64),
            points=self._points(decision),
        )

    def _column(self, ue: int, cut: Cut) -> int:
        """Index of a cut in its chain; -1 for one of several tensors."""
        chain = self.scenario.ues[ue].profile.chain_cuts
        return chain.index(cut) if cut in chain else -1

    def _points(self, decision: Decision) -> tandem.StopPoints:
        widest = max(len(choice.stop_rule) for choice in decision.ues)
        points = tandem.StopPoints.none(len(decision.ues), max(widest, 1))
        for ue, choice in enumerate(decision.ues):
            profile = self.scenario.ues[ue].profile
            unit = self.quality_of_gain(ue)
            points.used[ue] = len(choice.stop_rule)
            for at, (label, threshold) in enumerate(choice.stop_rule):
                cut = cut_from_label(label)
                number, work = self.work(ue, msgspec.structs.replace(choice, cut=cut, stop_rule=()))
                points.gate[ue, at] = threshold * unit
                points.seconds[ue, at] = profile.head_seconds[profile.chain_index(cut)]
                points.cut[ue, at] = number
                points.column[ue, at] = self._column(ue, cut)
                points.head_seconds[ue, at] = work.head_seconds
                points.wire_bits[ue, at] = work.wire_bits
                points.tail_seconds[ue, at] = work.tail_seconds
                points.down_bits[ue, at] = work.down_bits
        return points

    def quality_of_gain(self, ue: int) -> float:
        """Link quality per unit of a UE's channel state."""
        return float(self.tables.link_quality(np.ones(len(self.scenario.ues)))[ue])

    def staged_quality(self, times: Sequence[FloatArray], seed: int) -> FloatArray | None:
        """Link quality of every task at every chain cut, (tasks, cuts); None if no channel is drawn per stage."""
        if all(ue.channel_refresh == "time" for ue in self.scenario.ues):
            return None
        if self.coupled:
            raise ValueError(
                "a channel that is drawn per task and stage needs links of their own: one access point, ofdma"
            )
        counts = [one.size for one in times]
        units = np.repeat([self.quality_of_gain(ue) for ue in range(len(counts))], counts)
        return np.asarray(stage_gain_tables(self.scenario, seed, counts) * units[:, np.newaxis])


def simulate(
    scenario: Scenario,
    policy: Policy,
    slots: int,
    seed: int,
    mode: Mode = "event",
    channel: ChannelStates | None = None,
    *,
    policy_name: str = "",
    arrival_files: Mapping[str, Sequence[float]] | None = None,
    task_timeout_seconds: float = np.inf,
    drain_seconds: float = 0.0,
) -> SimulationResult:
    """Run ``policy`` (it is reset with ``seed``) for ``slots`` slots.

    ``channel`` (None: every link at its long-term mean) loops when it is shorter than the run. ``arrival_files`` holds
    the arrival times of UEs whose process is "file". In event mode, tasks older than ``task_timeout_seconds`` are given
    up as in the lab. Arrivals depend on (seed, UE) only, so two policies under one seed see the same tasks and the same
    channel. After the last slot, tasks under way go on for ``drain_seconds`` at most, in event mode, under the decision
    that is in force.

    When the policy raises or decides something invalid the last decision stays in force, as in a lab, and the result
    has a notice of it. Raises ValueError for sizes that do not match and a decision that the simulator does not model.
    """
    ues = len(scenario.ues)
    if slots < 1:
        raise ValueError(f"slots must be 1 or more, got {slots}")
    if mode not in ("event", "slot"):
        raise ValueError(f"mode must be 'event' or 'slot', got {mode!r}")
    channel = ChannelStates.constant(scenario) if channel is None else channel
    if channel.up.shape[1] != ues:
        raise ValueError(f"the channel has {channel.up.shape[1]} links, the scenario {ues} UEs")
    times, rates, counts = _arrivals(scenario, slots, seed, arrival_files or {})
    lab = _Lab(scenario)
    quality, downlink = (np.ascontiguousarray(x) for x in channel.link_states(lab.tables))
    floor = np.array([ue.outage_floor_bits_per_second for ue in scenario.ues])
    run = tandem.Tandem(
        times,
        up_delay=np.array([ue.uplink_delay_seconds for ue in scenario.ues]),
        down_delay=np.array([ue.downlink_delay_seconds for ue in scenario.ues]),
        kappa=lab.tables.ues.kappa,
        transmit_watts=lab.tables.ues.transmit_watts,
        linear=lab.tables.ues.linear | lab.coupled,
        floor=floor,
        staged=lab.staged_quality(times, seed),
        foresight_seconds=0.0 if lab.coupled else FORESIGHT_SECONDS,
        timeout_seconds=task_timeout_seconds,
    )
    uploading = None
    if scenario.uploading is not None:
        if mode != "event":
            raise ValueError("uploads are followed task by task: mode 'event'")
        uploading = UploadingLab(scenario, times, channel, task_timeout_seconds)
    moves = None
    if scenario.retraining_interval_seconds is not None and uploading is None and mode == "event":
        moves = ModelMoves(scenario)
    policy.reset(scenario, seed)
    slot_seconds = scenario.slot_seconds
    rows = np.zeros((slots, ues, tandem.SLOT_FIELDS))
    cuts = np.zeros((slots, ues), dtype=np.int64)
    decided = np.zeros((3, slots, ues))
    decide_seconds = np.zeros(slots)
    states: list[dict[str, float]] = []
    last_row = np.zeros((ues, tandem.SLOT_FIELDS))
    in_force: Decision | None = None
    live = bootstrap_decision(scenario, 0.0)
    notices: list[tuple[int, Notice]] = []
    outcomes: list[SlotOutcome] = []
    observer = Observer(scenario, seed)

    def walk(slot: int, decision: Decision, force: tandem.InForce | None) -> FloatArray:
        """One slot of the tasks; returns its rows."""
        begin, end = slot * slot_seconds, (slot + 1) * slot_seconds
        if lab.coupled:
            steps = channel.steps_of(begin, end)
            quality[steps], downlink[steps] = rates_over(scenario, channel.up[steps], channel.down[steps], decision)
        if uploading is not None:
            return uploading.advance(begin, end, decision)
        assert force is not None
        if moves is not None:
            moves.hold(run, begin, end, force, downlink, channel.step_seconds)
        if mode == "event":
            row = run.advance(slot, begin, end, force, quality, downlink, channel.step_seconds)
            if moves is not None:
                moves.advance(run, begin, end, force, downlink, channel.step_seconds)
            return row
        at = int(begin / channel.step_seconds + 1e-9) % quality.shape[0]
        return _formula(lab, force, rates[slot], counts[slot], quality[at], downlink[at], floor)

    force: tandem.InForce | None = None
    for slot in range(slots):
        observation = _observe(scenario, channel, slot, rates[slot], last_row, in_force)
        if uploading is not None:
            observation = uploading.seen(observation)
        if moves is not None:
            observation = moves.seen(observation)
        observation = observer.seen(observation)
        answer = ask(policy, outcomes, observation)
        decide_seconds[slot] = answer.decide_seconds
        settled = decision_of(scenario, in_force, answer, observation)
        if isinstance(settled, Notice):
            notices.append((slot, settled))
        else:
            live = in_force = msgspec.structs.replace(settled, slot=slot, valid_from_seconds=slot * slot_seconds)
        if (mode == "slot" or lab.coupled) and any(choice.stop_rule for choice in live.ues):
            raise ValueError(
                "a stop rule is followed task by task, on links of their own: mode 'event', one access point, ofdma"
            )
        if uploading is None:
            force = lab.in_force(live if moves is None else moves.fit(live))
            cuts[slot] = force.cut
        else:
            cuts[slot] = [uploading.label_of(choice) for choice in live.ues]
        rows[slot] = last_row = walk(slot, live, force)
        decided[:, slot] = np.array(
            [(choice.device_speed, choice.spectrum_up_hz, choice.edge_share) for choice in live.ues]
        ).T
        states.append(answer.state)
        outcomes = [_outcome(scenario, slot, live, last_row, mode)]
    attempt(lambda: policy.feedback(outcomes[0]))  # as in a lab, nothing is decided after it
    drained = 0
    if mode == "event":
        under_way = last_row
        while under_way[:, tandem.IN_FLIGHT].any() and drained * slot_seconds < drain_seconds:
            under_way = walk(slots + drained, live, force)
            drained += 1
    mean_delay = rows[..., tandem.DELAY_SUM]
    if mode == "event":
        done = rows[..., tandem.COMPLETED]
        mean_delay = np.divide(mean_delay, done, out=np.full(done.shape, np.nan), where=done > 0)
    tasks = None
    if mode == "event":
        tasks = tasks_of(run, moves) if uploading is None else uploading.tasks()
    return SimulationResult(
        scenario=scenario, policy=policy_name or type(policy).__name__, mode=mode, seed=seed, slots=slots,
        cut_labels=tuple(lab.labels if uploading is None else uploading.labels), cuts=cuts,
        arrivals=rows[..., tandem.ARRIVED].astype(np.int64), completions=rows[..., tandem.COMPLETED].astype(np.int64),
        delay_seconds=mean_delay, stage_seconds=rows[..., tandem.UE_QUEUE : tandem.DOWN + 1],
        compute_joules=rows[..., tandem.COMPUTE], transmit_joules=rows[..., tandem.TRANSMIT],
        speed=decided[0], spectrum_up_hz=decided[1], edge_share=decided[2],
        rate_up_bits_per_second=rows[..., tandem.RATE], policy_state=tuple(states), decide_seconds=decide_seconds,
        tasks=tasks, task_timeout_seconds=task_timeout_seconds,
        drained_seconds=drained * slot_seconds, notices=tuple(notices),
        updates=() if moves is None or tasks is None else moves.records(tasks.ue, tasks.stamps[:, 1]),
    )  # fmt: skip


def _arrivals(
    scenario: Scenario, slots: int, seed: int, files: Mapping[str, Sequence[float]]
) -> tuple[list[FloatArray], FloatArray, FloatArray]:
    """Times per UE, nominal rates (slots, ues), counts (slots, ues)."""
    times = []
    rates, counts = np.zeros((slots, len(scenario.ues))), np.zeros((slots, len(scenario.ues)))
    for index, ue in enumerate(scenario.ues):
        process = ArrivalProcess(ue.arrivals, scenario.slot_seconds, seed, index, files.get(ue.name, ()))
        parts = []
        for slot in range(slots):
            rates[slot, index] = process.rate_per_second
            parts.append(process.next_slot())
            counts[slot, index] = parts[-1].size
        times.append(np.concatenate(parts))
    return times, rates, counts


def _observe(
    scenario: Scenario,
    channel: ChannelStates,
    slot: int,
    rates: FloatArray,
    last: FloatArray,
    in_force: Decision | None,
) -> Observation:
    start = slot * scenario.slot_seconds
    up, down = channel.at(start)
    mean_up, mean_down = channel.slot_means(max(0.0, start - scenario.slot_seconds), max(start, 1e-9))
    fields = last[:, tandem.QUEUED_DEVICE : tandem.BACKLOG_SECONDS + 1]
    return Observation(
        slot=slot,
        monotonic_seconds=start,
        ues=tuple(
            UeObservation(
                name=ue.name,
                gain_up=(float(up[i]),),
                gain_down=(float(down[i]),),
                mean_gain_up=(float(mean_up[i]),),
                mean_gain_down=(float(mean_down[i]),),
                nominal_arrival_rate_per_second=float(rates[i]),
                # before slot 0 nothing can have arrived: that says nothing about the rate
                measured_arrival_rate_per_second=(
                    float(last[i, tandem.ARRIVED]) / scenario.slot_seconds if slot else ue.arrivals.mean_rate_per_second
                ),
                device_queue_tasks=int(fields[i, 0]),
                tx_queue_tasks=int(fields[i, 1]),
                edge_queue_tasks=int(fields[i, 2]),
                in_flight_tasks=int(fields[i, 3]),
                tx_backlog_bytes=int(fields[i, 4] / 8),
                edge_backlog_seconds=float(fields[i, 5]),
                decision_sequence=-1 if in_force is None else in_force.sequence,
                last_energy_joules=float(last[i, tandem.COMPUTE] + last[i, tandem.TRANSMIT]),
            )
            for i, ue in enumerate(scenario.ues)
        ),
    )


def _outcome(scenario: Scenario, slot: int, decision: Decision, rows: FloatArray, mode: Mode) -> SlotOutcome:
    """What the testbed would report. Event mode's rows hold sums over the completed tasks, slot mode's hold means."""

    def one(name: UeName, row: FloatArray) -> UeOutcome:
        completions = int(row[tandem.COMPLETED])
        stages = row[tandem.UE_QUEUE : tandem.DOWN + 1]
        if mode == "event":
            mean = float(row[tandem.DELAY_SUM]) / completions if completions else float("nan")
        else:
            mean = float(row[tandem.DELAY_SUM]) if completions else float("nan")
            stages = stages * completions if completions else np.zeros(len(STAGES))
        return UeOutcome(
            name=name,
            arrivals=int(row[tandem.ARRIVED]),
            completions=completions,
            failures=int(row[tandem.FAILURES]),
            mean_delay_seconds=mean,
            stage_seconds=dict(zip(STAGES, stages.tolist(), strict=True)),
            compute_joules=float(row[tandem.COMPUTE]),
            transmit_joules=float(row[tandem.TRANSMIT]),
            mean_rate_up_bits_per_second=float(row[tandem.RATE]),
            overruns=0,
        )

    return SlotOutcome(slot, decision, tuple(one(ue.name, row) for ue, row in zip(scenario.ues, rows, strict=True)))


def _formula(
    lab: _Lab, force: tandem.InForce, rate: FloatArray, arrived: FloatArray, quality: FloatArray, downlink: FloatArray,
    floor: FloatArray,
) -> FloatArray:  # fmt: skip
    """A slot's row by the ``exact`` formula: means in place of sums, everything completes in its slot."""
    scenario, ues = lab.scenario, lab.tables.ues
    spectrum = force.spectrum_up_hz
    shannon = spectrum * np.log2(1.0 + quality * force.power_ratio / spectrum)
    link = np.minimum(np.where(ues.linear | lab.coupled, spectrum * quality, shannon), force.most_up)
    link = np.where(link < floor, OUTAGE_BITS_PER_SECOND, link)
    down = np.minimum(downlink * force.down_ratio, force.most_down)
    down = np.where(down < floor, OUTAGE_BITS_PER_SECOND, down)
    remote = force.wire_bits > 0
    service = np.stack([force.head_seconds / force.speed, force.wire_bits / link, force.tail_seconds / force.share], -1)
    waits = stage_waits_seconds(rate, service, "exact", ues.variability)
    up_delay = np.array([ue.uplink_delay_seconds for ue in scenario.ues])
    down_delay = np.array([ue.downlink_delay_seconds for ue in scenario.ues])
    row = np.zeros((rate.size, tandem.SLOT_FIELDS))
    row[:, tandem.ARRIVED] = row[:, tandem.COMPLETED] = arrived
    row[:, [tandem.UE_QUEUE, tandem.TX_QUEUE, tandem.EDGE_QUEUE]] = waits
    row[:, [tandem.HEAD, tandem.UPLINK, tandem.TAIL]] = service
    row[:, tandem.UPLINK] += np.where(remote, up_delay, 0.0)
    row[:, tandem.DOWN] = np.where(remote, down_delay + force.down_bits / down, 0.0)
    row[:, tandem.DELAY_SUM] = row[:, tandem.UE_QUEUE : tandem.DOWN + 1].sum(axis=1)
    busy = np.minimum(rate[:, np.newaxis] * service, 1.0)  # under overload a stage is busy all the time, not longer
    row[:, tandem.COMPUTE] = scenario.slot_seconds * ues.kappa * force.speed**3 * busy[:, 0]
    row[:, tandem.TRANSMIT] = scenario.slot_seconds * ues.transmit_watts * force.power_ratio * busy[:, 1]
    row[:, tandem.RATE] = link
    return row

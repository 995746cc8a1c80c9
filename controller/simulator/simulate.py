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
    Decision,
    Observation,
    Policy,
    Scenario,
    SlotOutcome,
    UeName,
    UeObservation,
    UeOutcome,
)
from controller.model.arrivals import ArrivalProcess
from controller.model.decision import bootstrap_decision
from controller.model.knowledge import Observer
from controller.service.engine import Notice, decision_of
from controller.service.worker import ask, attempt
from controller.simulator import tandem
from controller.simulator.channels import ChannelStates
from controller.simulator.result import Mode, SimulationResult
from controller.simulator.uploading import UploadingWorld
from controller.simulator.world import FormulaWorld, MovingModelsWorld, TandemWorld, World

FloatArray = NDArray[np.float64]

__all__ = ["ChannelStates", "Mode", "SimulationResult", "simulate"]


@dataclass(frozen=True)
class _Arrivals:
    times: list[FloatArray]  # of each UE, sorted
    rates: FloatArray  # (slots, ues), nominal
    counts: FloatArray  # (slots, ues)


@dataclass
class _Slots:
    """What is written down of each slot."""

    rows: list[FloatArray] = field(default_factory=list)  # (ues, tandem.SLOT_FIELDS)
    cuts: list[NDArray[np.int64]] = field(default_factory=list)
    decided: list[list[tuple[float, float, float]]] = field(default_factory=list)  # speed, spectrum, share of each UE
    states: list[dict[str, float]] = field(default_factory=list)
    decide_seconds: list[float] = field(default_factory=list)
    notices: list[tuple[int, Notice]] = field(default_factory=list)


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
    channel = ChannelStates.constant(scenario) if channel is None else channel
    _check(scenario, slots, mode, channel)
    arrivals = _arrivals(scenario, slots, seed, arrival_files or {})
    world = _world(scenario, arrivals, channel, seed, mode, task_timeout_seconds)
    policy.reset(scenario, seed)
    observer = Observer(scenario, seed)
    past = _Slots()
    row = np.zeros((len(scenario.ues), tandem.SLOT_FIELDS))
    in_force: Decision | None = None
    live = bootstrap_decision(scenario, 0.0)
    outcomes: list[SlotOutcome] = []
    for slot in range(slots):
        begin, end = slot * scenario.slot_seconds, (slot + 1) * scenario.slot_seconds
        observation = world.seen(_observe(scenario, channel, slot, arrivals.rates[slot], row, in_force))
        observation = observer.seen(observation)
        answer = ask(policy, outcomes, observation)
        settled = decision_of(scenario, in_force, answer, observation)
        if isinstance(settled, Notice):
            past.notices.append((slot, settled))
        else:
            live = in_force = msgspec.structs.replace(settled, slot=slot, valid_from_seconds=begin)
        past.cuts.append(world.take(live))
        row = world.advance(begin, end)
        past.rows.append(row)
        past.decided.append([(choice.device_speed, choice.spectrum_up_hz, choice.edge_share) for choice in live.ues])
        past.states.append(answer.state)
        past.decide_seconds.append(answer.decide_seconds)
        outcomes = [_outcome(scenario, slot, live, row, mode)]
    attempt(lambda: policy.feedback(outcomes[0]))  # as in a lab, nothing is decided after it
    drained_seconds = _drain(world, scenario.slot_seconds, slots, row, drain_seconds)
    name = policy_name or type(policy).__name__
    return _result(scenario, name, mode, seed, past, world, (task_timeout_seconds, drained_seconds))


def _check(scenario: Scenario, slots: int, mode: Mode, channel: ChannelStates) -> None:
    if slots < 1:
        raise ValueError(f"slots must be 1 or more, got {slots}")
    if mode not in ("event", "slot"):
        raise ValueError(f"mode must be 'event' or 'slot', got {mode!r}")
    if scenario.uploading is not None and mode != "event":
        raise ValueError("uploads are followed task by task: mode 'event'")
    if any(ue.arrivals.on_busy != "queue" for ue in scenario.ues) and (
        mode != "event" or scenario.uploading is not None
    ):
        raise ValueError("what finds its device busy is followed task by task: mode 'event', without uploads")
    if channel.up.shape[1] != len(scenario.ues):
        raise ValueError(f"the channel has {channel.up.shape[1]} links, the scenario {len(scenario.ues)} UEs")


def _world(
    scenario: Scenario, arrivals: _Arrivals, channel: ChannelStates, seed: int, mode: Mode, timeout_seconds: float
) -> World:
    if scenario.uploading is not None:
        return UploadingWorld(scenario, arrivals.times, channel, timeout_seconds)
    if mode == "slot":
        return FormulaWorld(scenario, arrivals.rates, arrivals.counts, channel)
    kind = TandemWorld if scenario.retraining_interval_seconds is None else MovingModelsWorld
    return kind(scenario, arrivals.times, channel, seed, timeout_seconds)


def _drain(world: World, slot_seconds: float, slots: int, row: FloatArray, most_seconds: float) -> float:
    """Slots go on until nothing is under way; returns how long. A formula has nothing under way."""
    drained = 0
    while row[:, tandem.IN_FLIGHT].any() and drained * slot_seconds < most_seconds:
        begin, end = (slots + drained) * slot_seconds, (slots + drained + 1) * slot_seconds
        row = world.advance(begin, end)
        drained += 1
    return drained * slot_seconds


def _result(
    scenario: Scenario, policy: str, mode: Mode, seed: int, past: _Slots, world: World, limits: tuple[float, float]
) -> SimulationResult:
    rows, decided = np.array(past.rows), np.array(past.decided, dtype=np.float64)
    mean_delay = rows[..., tandem.DELAY_SUM]
    if mode == "event":
        done = rows[..., tandem.COMPLETED]
        mean_delay = np.divide(mean_delay, done, out=np.full(done.shape, np.nan), where=done > 0)
    return SimulationResult(
        scenario=scenario, policy=policy, mode=mode, seed=seed, slots=len(past.rows),
        tasks=world.tasks(), updates=world.updates(), cut_labels=tuple(world.labels),
        codecs=tuple(world.codecs), cuts=np.array(past.cuts),
        arrivals=rows[..., tandem.ARRIVED].astype(np.int64), completions=rows[..., tandem.COMPLETED].astype(np.int64),
        delay_seconds=mean_delay, stage_seconds=rows[..., tandem.UE_QUEUE : tandem.DOWN + 1],
        compute_joules=rows[..., tandem.COMPUTE], transmit_joules=rows[..., tandem.TRANSMIT],
        speed=decided[..., 0], spectrum_up_hz=decided[..., 1], edge_share=decided[..., 2],
        rate_up_bits_per_second=rows[..., tandem.RATE], policy_state=tuple(past.states),
        decide_seconds=np.array(past.decide_seconds), notices=tuple(past.notices),
        task_timeout_seconds=limits[0], drained_seconds=limits[1],
    )  # fmt: skip


def _arrivals(scenario: Scenario, slots: int, seed: int, files: Mapping[str, Sequence[float]]) -> _Arrivals:
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
    return _Arrivals(times, rates, counts)


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

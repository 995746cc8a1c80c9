"""A simulation's records in the tables of a run: what is not measured in a simulation is null or nan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from controller.contract import (
    Codec,
    Decision,
    Observation,
    Policy,
    Scenario,
    SlotOutcome,
    checkpoint_info,
    cut_from_label,
    watched_state,
)
from controller.model.delay import cut_codec, wire_bits
from controller.service.engine import ClosedSlot
from controller.simulator.result import SimulatedTasks, SimulationResult
from testbed.inputs.source import Inputs, order_of
from testbed.programs.controller.slot_records import slot_records
from testbed.protocol.records import DROPPED, Event, ModelUpdate, SlotRecord
from testbed.records.streams import SCHEMAS, to_batch
from testbed.records.tables import STAMPS, RunTables, with_stages


class Watched:
    """A policy and what went past it: the records of every slot."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._seen: Observation | None = None
        self._state: dict[str, float] = {}
        self.closed: list[ClosedSlot] = []

    def reset(self, scenario: Scenario, seed: int) -> None:
        self._policy.reset(scenario, seed)

    def decide(self, observation: Observation) -> Decision:
        self._seen, self._state = observation, {}
        return self._policy.decide(observation)

    def feedback(self, outcome: SlotOutcome) -> None:
        assert self._seen is not None
        nothing = {ue.name: 0 for ue in outcome.ues}
        self.closed.append(ClosedSlot(self._seen, outcome, 0.0, False, self._state, nothing, nothing))
        self._policy.feedback(outcome)

    def state(self) -> dict[str, float]:
        self._state = watched_state(self._policy)
        return self._state

    def checkpoint_info(self) -> dict[str, Any]:
        return checkpoint_info(self._policy)


def tables_of(
    result: SimulationResult, watched: Watched, inputs: Mapping[str, Inputs] = MappingProxyType({})
) -> RunTables:
    """All tables; those of the wires and of the host are empty. Time starts at 0. ``inputs`` by UE."""
    rows: list[SlotRecord] = []
    for closed in watched.closed:
        rows.extend(slot_records(closed, closed.outcome.slot * result.scenario.slot_seconds))
    slots = pa.Table.from_batches([to_batch(rows, SCHEMAS["slots"])])
    slots = _set(slots, "decide_seconds", np.repeat(result.decide_seconds, len(result.scenario.ues)))
    slots = _set(slots, "mean_delay_seconds", result.delay_seconds.ravel())
    ended = SCHEMAS["tasks"].empty_table() if result.tasks is None else _tasks(result, result.tasks, inputs)
    tasks = with_stages(
        ended.append_column("announced", pa.array(np.ones(len(ended), dtype=bool)))
        .append_column("records", pa.array((np.array(ended["status"]) != "in_flight").astype(np.int64)))
        .sort_by([("arrival_seconds", "ascending"), ("ue", "ascending"), ("task", "ascending")])
    )
    events = [
        Event(slot * result.scenario.slot_seconds, notice.node, notice.kind, notice.text)
        for slot, notice in result.notices
    ]
    moved = [ModelUpdate(resumed=0, **dataclasses.asdict(move)) for move in result.updates]
    updates = pa.Table.from_batches([to_batch(moved, SCHEMAS["updates"])])
    slots = slots.sort_by([("slot", "ascending"), ("ue", "ascending")])
    said = pa.Table.from_batches([to_batch(events, SCHEMAS["events"])])
    return RunTables(tasks=tasks, slots=slots, updates=updates, events=said)


def _set(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))


def _tasks(result: SimulationResult, tasks: SimulatedTasks, inputs: Mapping[str, Inputs]) -> pa.Table:
    """Rows as the agents record them; a task that is under way at the end, or was given up, has its arrival only."""
    scenario = result.scenario
    ues = tasks.ue
    done, failed, dropped = result.completed(), result.failed(), result.dropped()
    queued = np.isnan(tasks.stamps[:, 1])
    timeout = f"timeout: {result.task_timeout_seconds:g} s passed "
    number = np.concatenate([np.arange(n) for n in np.bincount(ues, minlength=len(scenario.ues))]).astype(np.int64)
    taken = set(zip(ues[done].tolist(), tasks.cut[done].tolist(), strict=True))
    sizes = {(ue, cut): _sizes(scenario, ue, result.cut_labels[cut], result.codecs[cut]) for ue, cut in taken}
    size = [sizes[ue, cut] if ended else None for ue, cut, ended in zip(ues, tasks.cut, done, strict=True)]
    stamps = np.where(done[:, np.newaxis], tasks.stamps, np.nan)
    stamps[:, 0] = tasks.stamps[:, 0]
    slot = np.where(done, stamps[:, 1] / scenario.slot_seconds, 0).astype(np.int64)
    unknown = np.full(len(ues), np.nan)
    columns: dict[str, Any] = {
        "ue": [scenario.ues[ue].name for ue in ues],
        "task": number,
        "status": np.select([done, failed, dropped], ["completed", "failed", "dropped"], "in_flight"),
        "reason": np.select(
            [failed & queued, failed, dropped],
            [timeout + "in the device queue", timeout + "without an answer", DROPPED],
            "",
        ),
        "cut": [result.cut_labels[cut] if ended else None for cut, ended in zip(tasks.cut, done, strict=True)],
        "codec": [None if one is None else one[0] for one in size],
        "decision_sequence": pa.array(slot, mask=~done),
        "speed": np.where(done, tasks.speed, np.nan),
        "share": np.where(done, tasks.share, np.nan),
        **{name: stamps[:, index] for index, name in enumerate(STAMPS)},
        **dict.fromkeys(("head_target_seconds", "tail_target_seconds", "head_compute_seconds"), unknown),
        "tail_compute_seconds": unknown,
        "boundary_bytes": _up(tasks.boundary_bytes, [None if one is None else one[1] for one in size]),
        "wire_bytes": _up(tasks.sent_bytes, [None if one is None else one[2] for one in size]),
        "result_wire_bytes": [None if one is None else one[3] for one in size],
        "compute_joules": np.where(done, tasks.compute_joules, np.nan),
        "transmit_joules": np.where(done, tasks.transmit_joules, np.nan),
        "answer": pa.nulls(len(ues), pa.int64()),
        "model_version": np.zeros(len(ues), dtype=np.int64) if tasks.model_version is None else tasks.model_version,
        "answer_checksum": pa.nulls(len(ues), pa.int64()),
        "input": _inputs(result, ues, number, inputs),
    }
    schema = SCHEMAS["tasks"]
    return pa.table([pa.array(columns[field.name], type=field.type) for field in schema], schema=schema)


def _inputs(
    result: SimulationResult, ues: NDArray[np.int64], number: NDArray[np.int64], inputs: Mapping[str, Inputs]
) -> NDArray[np.int64]:
    """Which of its UE's inputs each task is about, as in the lab."""
    found = np.zeros(len(ues), dtype=np.int64)
    for index, ue in enumerate(result.scenario.ues):
        order = order_of(inputs.get(ue.name), result.seed, index)
        found[ues == index] = order[number[ues == index] % len(order)]
    return found


def _up(counted: NDArray[np.float64] | None, by_cut: list[int | None]) -> list[int | None]:
    """Bytes up of each task that is over: as the simulation counted them, else what the cut says."""
    if counted is None:
        return by_cut
    return [None if one is None else round(sent) for one, sent in zip(by_cut, counted.tolist(), strict=True)]


def _sizes(scenario: Scenario, index: int, label: str, decided: Codec | None) -> tuple[str, int, int, int]:
    """(codec, payload, uplink, downlink) of a cut, in bytes; nothing is sent for the local cut."""
    ue, cut = scenario.ues[index], cut_from_label(label)
    codec = cut_codec(ue, cut, decided)
    if not cut:
        return codec, 0, 0, 0
    payload = ue.profile.boundary_bytes(cut, codec)
    up, down = wire_bits(scenario, [payload, ue.profile.result_bytes]) / 8.0
    return codec, payload, round(float(up)), round(float(down))

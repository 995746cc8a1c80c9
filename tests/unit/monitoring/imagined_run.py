"""Records of an imagined run: every kind, with round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec

from controller.contract import Scenario
from testbed.protocol.record import Record
from testbed.protocol.records import (
    ChannelDrops,
    EdgeHealth,
    Event,
    HostHealth,
    LinkStep,
    ModelUpdate,
    NodeHealth,
    RoundTrips,
    SlotRecord,
    TaskArrived,
    TaskRecord,
)


def task(ue: str, number: int, start: float, *, delay: float = 0.3, status: str = "completed") -> TaskRecord:
    """A task whose seven stages take an equal part of ``delay`` each."""
    step = delay / 7
    return TaskRecord(
        ue=ue,
        task=number,
        status=status,
        reason="" if status == "completed" else "timeout",
        cut="block3",
        codec="uint8",
        decision_sequence=1,
        speed=0.1,
        share=0.2,
        arrival_seconds=start,
        head_start_seconds=start + step,
        head_end_seconds=start + 2 * step,
        transfer_start_seconds=start + 3 * step,
        received_seconds=start + 4 * step,
        tail_start_seconds=start + 5 * step,
        tail_end_seconds=start + 6 * step,
        result_received_seconds=start + 7 * step if status == "completed" else math.nan,
        head_target_seconds=step,
        tail_target_seconds=step,
        head_compute_seconds=step / 2,
        tail_compute_seconds=step / 2,
        boundary_bytes=25_000,
        wire_bytes=27_000,
        result_wire_bytes=4_200,
        compute_joules=0.02,
        transmit_joules=0.01,
        answer=3,
    )


def slot_record(ue: str, slot: int, *, cut: str = "block3", report_age: float = 0.0, **changes: Any) -> SlotRecord:
    record = SlotRecord(
        slot=slot,
        ue=ue,
        start_seconds=slot * 0.5,
        decision_sequence=slot,
        cut=cut,
        speed=0.1,
        spectrum_up_hz=2e6,
        spectrum_down_hz=2e6,
        edge_share=0.2,
        gain_up=1e-9,
        rate_up_bits_per_second=5e6,
        arrivals=1,
        completions=1,
        failures=0,
        mean_delay_seconds=0.3,
        device_queue_tasks=1,
        tx_queue_tasks=2,
        edge_queue_tasks=3,
        in_flight_tasks=6,
        tx_backlog_bytes=1000,
        compute_joules=0.02,
        transmit_joules=0.01,
        head_overruns=0,
        tail_overruns=0,
        report_age_seconds=report_age,
        decide_seconds=0.0004,
        decide_late=False,
        policy_state={
            "V": 0.3,
            "drift_plus_penalty": 1.5,
            f"virtual_queue_joules.{ue}": 0.7,
            "predicted_seconds.ue0": 0.2,
        },
    )
    return msgspec.structs.replace(record, **changes)


def records_of_slot(scenario: Scenario, slot: int) -> Iterator[Record]:
    """What a slot of half a second brings: every kind of record."""
    now = slot * 0.5
    for ue in (str(one.name) for one in scenario.ues):
        yield TaskArrived(ue, slot, now)
        yield task(ue, slot, now)
        if slot % 5 == 4:
            yield task(ue, 1000 + slot, now, status="failed")
        yield slot_record(ue, slot)
        if slot % 10 == 9:
            yield ModelUpdate(ue, slot // 10 + 1, "block3", "placed", "", 6, 80_000, 85_000, 0, now, now, now, 0.01)
        for direction in ("up", "down"):
            yield LinkStep(ue, direction, now, now + 0.0002, 5e6, 5e6, 1e-9, "trace")
            yield ChannelDrops(ue, direction, now, 100_000, 0, 500, sent_packets=100, lost_packets=1)
        yield RoundTrips(ue, now, 20, 20, 0.0202, 0.0203, 0.02, 0.0)
        yield NodeHealth(ue, now, 0.1 * slot, slot, 0.001 * slot)
    yield EdgeHealth(now, 0.0003, 0)
    yield HostHealth(now, 0.6, 0.0, 3, 0, 1.0, 1.1, 0.1, "cron (pid 1)", 0.05, 0.004, 0.002)
    yield Event(now, "controller", "report-missing", "slot 3: no report yet of ue1")

"""A closed slot as rows of slots.parquet."""

from __future__ import annotations

from controller.contract import cut_label
from controller.service.engine import ClosedSlot
from testbed.protocol.records import SlotRecord


def slot_records(closed: ClosedSlot, start_seconds: float) -> list[SlotRecord]:
    """One row per UE: queues and gains at the slot's start, the decision that was live, and what the slot brought."""
    outcome, decision = closed.outcome, closed.outcome.decision
    return [
        SlotRecord(
            slot=outcome.slot,
            ue=seen.name,
            start_seconds=start_seconds,
            decision_sequence=decision.sequence,
            cut=cut_label(choice.cut),
            speed=choice.device_speed,
            spectrum_up_hz=choice.spectrum_up_hz,
            spectrum_down_hz=choice.spectrum_down_hz,
            edge_share=choice.edge_share,
            gain_up=seen.gain_up[0],
            rate_up_bits_per_second=came.mean_rate_up_bits_per_second,
            arrivals=came.arrivals,
            completions=came.completions,
            failures=came.failures,
            mean_delay_seconds=came.mean_delay_seconds,
            device_queue_tasks=seen.device_queue_tasks,
            tx_queue_tasks=seen.tx_queue_tasks,
            edge_queue_tasks=seen.edge_queue_tasks,
            in_flight_tasks=seen.in_flight_tasks,
            tx_backlog_bytes=seen.tx_backlog_bytes,
            compute_joules=came.compute_joules,
            transmit_joules=came.transmit_joules,
            head_overruns=closed.head_overruns[seen.name],
            tail_overruns=closed.tail_overruns[seen.name],
            report_age_seconds=seen.report_age_seconds,
            decide_seconds=closed.decide_seconds,
            decide_late=closed.decide_late,
            policy_state=closed.policy_state,
            cached_nodes=len(seen.cached_nodes),
            upload_progress_ratio=seen.upload_progress_ratio,
        )
        for seen, choice, came in zip(closed.observation.ues, decision.ues, outcome.ues, strict=True)
    ]

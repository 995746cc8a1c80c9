"""What the uplink stage took against what the applied rate allowed: the check of time stamps and wires together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.contract import cut_label
from testbed.runs.finalise import RunTables, column
from testbed.runs.rates import AppliedRate

#: Below this a transfer is mostly the latency of programs and of the shaper's first frame (0.3-0.5 ms), not the rate's.
JUDGED_SECONDS = 5e-3


@dataclass(frozen=True)
class Uplink:
    """Transfers of one UE, in sums; ``bits`` and ``integral_bits`` of those that are judged: long enough, no loss."""

    tasks: int
    bits: float
    integral_bits: float
    stage_seconds: float
    predicted_seconds: float
    saturated_bits: float
    saturated_integral_bits: float
    saturated_seconds: float


def uplink_of(tables: RunTables, ue: str, rate: AppliedRate, delay_seconds: float, *, lossy: bool = False) -> Uplink:
    """Compare the transfers of one UE with the applied rate. On a ``lossy`` wire retransmissions are not judged.

    A transfer lasts from its start (the head ended, or the previous task had left the wire) until the edge had it
    all, less the link's delay.
    """
    tasks = tables.tasks.filter(column(tables.tasks, "ue") == ue)
    received = column(tasks, "received_seconds").astype(np.float64)
    moved = np.isfinite(received) & (column(tasks, "cut") != cut_label(()))
    tasks, received = tasks.filter(moved), received[moved]
    order = np.argsort(received, kind="stable")
    end = received[order] - delay_seconds
    start = column(tasks, "transfer_start_seconds").astype(np.float64)[order]
    bits = column(tasks, "wire_bytes").astype(np.float64)[order] * 8.0
    integral = rate.bits_between(start, end)
    predicted = rate.time_of(rate.bits_until(start) + bits) - start + delay_seconds
    # A task that follows its predecessor without a gap kept the link saturated from that one's end to its own.
    follows = np.concatenate([[False], start[1:] <= end[:-1] + 1e-6]) if len(start) else np.zeros(0, dtype=bool)
    judged = (predicted - delay_seconds >= JUDGED_SECONDS) & (not lossy)
    span = np.where(follows, end - start, 0.0)
    return Uplink(
        tasks=len(start),
        bits=float(bits[judged].sum()),
        integral_bits=float(integral[judged].sum()),
        stage_seconds=float((end - start).sum() + delay_seconds * len(start)),
        predicted_seconds=float(predicted.sum()),
        saturated_bits=float(bits[follows].sum()),
        saturated_integral_bits=float(integral[follows].sum()),
        saturated_seconds=float(span.sum()),
    )

"""Above which error a run is invalid. Why each limit is what it is: docs/fidelity.md."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

NOT_MEASURED: Final = "not_measured"
Value = float | Literal["not_measured"]

#: After the arrivals end, what is in flight may finish for so long; what has not by then is counted as in flight.
DRAIN_SECONDS = 10.0
#: Delays are of completed tasks: when more than this part of the arrived is not among them, their mean is censored.
CENSORED_RATIO = 0.01


class Figure(msgspec.Struct, frozen=True):
    """One figure. Without a limit it only informs."""

    name: str
    value: Value
    unit: str  # "s", "ratio" or "count"
    limit: float | None
    ok: bool
    meaning: str


def figure(name: str, value: Value, unit: str, meaning: str, limit: float | None = None) -> Figure:
    """A figure and whether it keeps its limit."""
    if not isinstance(value, str):
        value = float(value)  # numpy's own numbers have no JSON
    ok = limit is None or isinstance(value, str) or value <= limit
    return Figure(name, value, unit, limit, ok, meaning)


class Limits(msgspec.Struct, frozen=True):
    """All are upper limits; ratios are of 1."""

    step_lateness_p99_seconds: float
    step_lateness_max_seconds: float
    stage_time_error_p50: float
    stage_time_error_p90: float
    overrun_ratio: float
    receiver_lateness_p99_seconds: float
    rate_error: float = 0.01
    rate_window_error: float = 0.05
    uplink_integral_error: float = 0.05
    round_trip_error: float = 1.0
    skipped_step_ratio: float = 0.01
    stage_sum_error_seconds: float = 1e-6
    throttled_ratio: float = 0.01
    steal_ratio: float = 0.05
    waiting_tasks_per_core: float = 8.0
    late_decision_ratio: float = 0.05
    stale_report_ratio: float = 0.05
    oldest_report_seconds: float = 1.0
    refused_decision_ratio: float = 0.05
    in_flight_ratio: float = 0.1
    failed_ratio: float = 0.05
    timed_out_ratio: float = 0.05
    records_end_early_seconds: float = 2.0
    unrecorded_seconds: float = 5.0


#: Stages and trace player run SCHED_FIFO.
REALTIME = Limits(
    step_lateness_p99_seconds=0.0005,
    step_lateness_max_seconds=0.010,
    stage_time_error_p50=0.003,
    stage_time_error_p90=0.01,
    overrun_ratio=0.01,
    receiver_lateness_p99_seconds=0.020,
)
#: Without real-time priority (no root, or a host that refuses it).
ORDINARY = Limits(
    step_lateness_p99_seconds=0.010,
    step_lateness_max_seconds=0.050,
    stage_time_error_p50=0.02,
    stage_time_error_p90=0.15,
    overrun_ratio=0.10,
    receiver_lateness_p99_seconds=0.050,
)


#: Stages with shorter targets are not judged: the same as in a run's fidelity report.
JUDGED_STAGE_SECONDS = 0.005

"""What a run says of itself, read from its directory as a user would."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

#: A run of a busy host breaks these, whatever happened to it: they are of time, and no record is missing.
OF_TIME = (
    "step_lateness", "skipped_step", "stage_time_error", "overrun_ratio", "receiver_lateness", "rate_error",
    "rate_window_error", "uplink_integral_error", "round_trip_error", "throttled_ratio", "steal_ratio", "waiting_tasks",
    "late_decision_ratio", "stale_report_ratio", "oldest_report", "cause",
)  # fmt: skip


@dataclass(frozen=True)
class RunFacts:
    """Of a run directory that holds tables and a summary."""

    valid: bool
    reasons: tuple[str, ...]
    counted: dict[str, int]  # the summary's tasks
    rows: dict[str, int]  # rows of tasks.parquet by status
    arrived: dict[str, int]  # rows by UE
    ended: dict[str, int]  # by UE, rows whose end was recorded
    doubles: int  # rows of one task, or ends of one row, beyond the first
    backwards: int  # completed tasks whose stamps are not in order, or missing
    ended_programs: dict[str, str]
    told: dict[str, tuple[int, int]]  # by UE: arrivals and ends that the controller was told of

    def only_of_time(self) -> bool:
        """Whether the host was too busy, and nothing else is wrong."""
        return all(reason.startswith(OF_TIME) for reason in self.reasons)


def read_facts(run_directory: Path) -> RunFacts | None:
    """None where there is no summary."""
    if not (run_directory / "summary.json").exists():
        return None
    summary: dict[str, Any] = json.loads((run_directory / "summary.json").read_bytes())
    manifest: dict[str, Any] = json.loads((run_directory / "manifest.json").read_bytes())
    rows = pq.read_table(run_directory / "tasks.parquet").to_pylist()
    stages = [name for name in rows[0] if name.startswith("stage_")] if rows else []
    keys = Counter((row["ue"], row["task"]) for row in rows)
    return RunFacts(
        valid=summary["valid"],
        reasons=tuple(summary["invalid_reasons"]),
        counted={name: summary["tasks"][name] for name in ("arrived", "completed", "failed", "in_flight")},
        rows=dict(Counter(row["status"] for row in rows)),
        arrived=dict(Counter(row["ue"] for row in rows)),
        ended=dict(Counter(row["ue"] for row in rows if row["records"])),
        doubles=sum(keys.values()) - len(keys) + sum(max(row["records"] - 1, 0) for row in rows),
        backwards=sum(
            not all(row[stage] is not None and row[stage] >= -1e-9 for stage in stages)
            for row in rows
            if row["status"] == "completed"
        ),
        ended_programs=manifest.get("ended_programs", {}),
        told={ue: (one["arrived"], one["ended"]) for ue, one in manifest.get("totals", {}).items()},
    )

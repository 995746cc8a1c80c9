"""The two time scales of placement in a run's summary: what a model's version costs, and what a task does."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa

from testbed.records.manifest import Manifest
from testbed.records.tables import RunTables, column
from testbed.report.predicted import state_numbers
from testbed.units import DURATION

#: Of a policy that names none: a second costs 1.
_TIME_WEIGHT, _ENERGY_WEIGHT = 1.0, 0.0


class PlacementCosts(msgspec.Struct, frozen=True):
    """Costs are ``time_weight`` * seconds + ``energy_weight`` * joules, the policy's weights. None: nothing to tell of.

    What was promised is the policy's own expectation, mean over UEs, without queues.
    """

    time_weight: float
    energy_weight: float
    downloads: int  # that were put in force
    bytes_per_version: float | None  # layer 2, mean over them
    seconds_per_version: float | None
    joules_per_version: float | None  # of the receiver
    cost_per_version: float | None
    seconds_per_task: float | None  # E2E delay of the completed tasks
    joules_per_task: float | None
    cost_per_task: float | None
    tasks_per_version: float | None  # of a UE in an interval; None: one version for ever
    #: of a task with its part of its version's download: what placement minimises
    cost_per_task_with_placement: float | None
    promised_cost_per_version: float | None = None
    promised_cost_per_task: float | None = None


def placement_costs(tables: RunTables, tasks: pa.Table, manifest: Manifest, seconds: float) -> PlacementCosts | None:
    """Of the ``tasks`` that count, which arrived within ``seconds``; None for a lab and a policy without placement."""
    promised = _promises(tables)
    interval = _interval_seconds(manifest)
    if interval is None and not promised:
        return None
    weights = manifest.policy_options
    time_weight = float(weights.get("time_weight", _TIME_WEIGHT))
    energy_weight = float(weights.get("energy_weight", _ENERGY_WEIGHT))

    def cost(durations: np.ndarray, joules: np.ndarray) -> float | None:
        return _mean(time_weight * durations + energy_weight * joules)

    moved = tables.updates.filter(column(tables.updates, "status") == "placed")
    took = column(moved, "received_seconds") - column(moved, "started_seconds")
    received = column(moved, "receive_joules")
    done = tasks.filter(column(tasks, "status") == "completed")
    delays = column(done, "e2e_delay_seconds")
    used = column(done, "compute_joules") + np.nan_to_num(column(done, "transmit_joules"))
    per_version, per_task = cost(took, received), cost(delays, used)
    served = None
    if interval is not None and seconds > 0:
        served = len(done) / max(len(np.unique(column(tables.slots, "ue"))), 1) * interval / seconds
    whole = per_task
    if per_version is not None and per_task is not None and served:
        whole = per_task + per_version / served
    return PlacementCosts(
        time_weight=time_weight,
        energy_weight=energy_weight,
        downloads=len(moved),
        bytes_per_version=_mean(column(moved, "wire_bytes")),
        seconds_per_version=_mean(took),
        joules_per_version=_mean(received),
        cost_per_version=per_version,
        seconds_per_task=_mean(delays),
        joules_per_task=_mean(used),
        cost_per_task=per_task,
        tasks_per_version=served,
        cost_per_task_with_placement=whole,
        promised_cost_per_version=promised.get("placement_cost"),
        promised_cost_per_task=promised.get("expected_cost"),
    )


def placement_line(costs: PlacementCosts) -> str:
    """Both time scales for a person, in one line."""
    parts = []
    if costs.cost_per_version is not None:
        assert costs.bytes_per_version is not None
        parts.append(
            f"{costs.downloads} downloads of {costs.bytes_per_version / 1e6:.3g} MB in "
            f"{costs.seconds_per_version:.3g} s, cost {costs.cost_per_version:.3g} per version"
        )
    if costs.cost_per_task is not None:
        promised = costs.promised_cost_per_task
        parts.append(f"cost {costs.cost_per_task:.3g} per task" + (f" ({promised:.3g} promised)" if promised else ""))
    if costs.cost_per_task_with_placement is not None and costs.cost_per_version is not None:
        parts.append(f"{costs.cost_per_task_with_placement:.3g} in all")
    return ", ".join(parts) or "no download and no task"


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _promises(tables: RunTables) -> dict[str, float]:
    """By the name of a policy's number, the mean over UEs in the last slot that has any."""
    found: dict[str, list[float]] = {}
    for _, rows, names, values in state_numbers(tables.slots):
        told: dict[int, dict[str, list[float]]] = {}
        for row, key, value in zip(rows.tolist(), names.to_pylist(), values.to_pylist(), strict=True):
            name, _, ue = key.partition(".")
            if ue and name in ("placement_cost", "expected_cost"):
                told.setdefault(row, {}).setdefault(name, []).append(value)
        if told:
            found = told[max(told)]
    return {name: float(np.mean(values)) for name, values in found.items()}


def _interval_seconds(manifest: Manifest) -> float | None:
    spec = manifest.resolved_lab.get("retraining")
    return None if spec is None else DURATION.parse(spec["interval"])

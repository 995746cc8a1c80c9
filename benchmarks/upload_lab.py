"""Uploading while inferring, against its baselines, as JSON: ``python -m benchmarks.upload_lab [RUN...]``.

Without runs: ``topologies/upload.yaml`` in the simulator; mean latency of the UEs' first queries by policy, and of the
queries that follow where the edge keeps its layers. With run directories of that lab: what was promised and measured,
and what features waited for behind parameters.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from controller.policies.registry import create
from controller.simulator.simulate import simulate
from testbed.labfile.load import load
from testbed.labfile.resolve import resolve
from testbed.records.tables import column, read_tables
from testbed.report.predicted import predictions
from testbed.report.summary import read_summary

LAB = Path("topologies/upload.yaml")
QUERIES = 4
#: Name in the table -> policy and options.
POLICIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "mjoa-mu": ("mjoa-mu", {}),
    "mjoa-mu, plan: graph": ("mjoa-mu", {"plan": "graph"}),
    "mjoa-mu-serial": ("mjoa-mu-serial", {}),
    "pipelined-equal": ("pipelined-equal", {}),
    "ionn": ("ionn", {}),
    "serial-upload": ("serial-upload", {}),
    "serial-ara": ("serial-ara", {}),
    "neurosurgeon-upload": ("neurosurgeon-upload", {}),
    "full-upload": ("full-upload", {}),
    "full-upload, order: pipelined": ("full-upload", {"order": "pipelined"}),
    "device-only": ("device-only", {}),
}


def main() -> None:
    if runs := [Path(name) for name in sys.argv[1:]]:
        print(json.dumps({run.name: measured(run) for run in runs}, indent=1))
    else:
        print(json.dumps({"cold": simulated("per_query"), "keep": simulated("keep")}, indent=1))


def simulated(cache: str) -> dict[str, dict[str, list[float]]]:
    """Policy -> UE -> latency of its first queries in seconds, without the wait for the query before."""
    topology = load(LAB, [f"uploading.cache={cache}"])
    scenario = resolve(topology, str(LAB), LAB.parent, 1.0, lambda _: None).scenario
    slots = int((QUERIES + 1) / scenario.ues[0].arrivals.mean_rate_per_second / scenario.slot_seconds)
    found: dict[str, dict[str, list[float]]] = {}
    for name, (policy, options) in POLICIES.items():
        result = simulate(scenario, create(policy, options), slots, topology.seed)
        assert result.tasks is not None
        took = result.tasks.stamps[:, -1] - result.tasks.stamps[:, 1]
        each = {str(ue.name): took[result.tasks.ue == index] for index, ue in enumerate(scenario.ues)}
        found[name] = {ue: [round(float(x), 4) for x in values[:QUERIES]] for ue, values in each.items()}
        found[name]["mean of the first"] = [round(float(np.mean([values[0] for values in each.values()])), 4)]
    return found


def measured(run: Path) -> dict[str, object]:
    """A run of the lab: promises, validity, and how long features waited for parameters."""
    tables, summary = read_tables(run), read_summary(run)
    uploads = pq.read_table(run / "uploads.parquet")
    features = uploads.filter((column(uploads, "kind") == "feature") & (column(uploads, "status") == "received"))
    ahead, chunk = column(features, "model_bytes_ahead"), column(features, "model_chunk_bytes")
    return {
        "policy": summary.policy,
        "valid": summary.valid,
        "invalid_reasons": summary.invalid_reasons,
        "tasks": [summary.tasks.arrived, summary.tasks.completed, summary.tasks.failed],
        "mean_seconds": summary.e2e_delay_seconds.mean,
        "predicted": {
            ue: [found.tasks, found.predicted_seconds, found.measured_seconds, found.ratio, found.largest_error_ratio]
            for ue, found in predictions(tables).items()
        },
        "features": len(features),
        "most_model_bytes_ahead_of_a_feature": int(ahead.max(initial=0)),
        "most_chunks_ahead_of_a_feature": float((ahead / np.maximum(chunk, 1)).max(initial=0.0)),
    }


if __name__ == "__main__":
    main()

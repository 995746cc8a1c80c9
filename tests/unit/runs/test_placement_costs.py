"""Both time scales of placement in the summary of a simulated lab, from its records, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from testbed.lab.simulate import SimulationOrder, simulate_lab
from testbed.labfile.load import load
from testbed.report.placement_costs import placement_line

LAB = Path(__file__).parents[3] / "topologies" / "placement.yaml"


def test_a_simulation_tells_what_a_version_and_what_a_task_cost_and_what_was_promised(tmp_path: Path) -> None:
    topology = load(LAB, ["retraining.interval=4 s", "policy.energy_weight=2"])
    order = SimulationOrder(topology, str(LAB), LAB.parent, tmp_path / "run", 20, "event")
    costs = simulate_lab(order, lambda _: None).placement
    assert costs is not None
    updates = pq.read_table(tmp_path / "run" / "updates.parquet").to_pylist()
    tasks = pq.read_table(tmp_path / "run" / "tasks.parquet").to_pylist()
    placed = [row for row in updates if row["status"] == "placed"]
    assert costs.downloads == len(placed) > 4
    seconds = np.mean([row["received_seconds"] - row["started_seconds"] for row in placed])
    joules = np.mean([row["receive_joules"] for row in placed])
    assert costs.cost_per_version == pytest.approx(seconds + 2 * joules)
    done = [row for row in tasks if row["status"] == "completed"]
    per_task = np.mean(
        [row["e2e_delay_seconds"] + 2 * (row["compute_joules"] + row["transmit_joules"]) for row in done]
    )
    assert costs.cost_per_task == pytest.approx(per_task)
    served = len(done) / 2 * 4 / 20  # of one of two UEs in an interval
    assert costs.cost_per_task_with_placement == pytest.approx(per_task + costs.cost_per_version / served)
    assert costs.promised_cost_per_version == pytest.approx(costs.cost_per_version, rel=0.05)
    assert costs.promised_cost_per_task == pytest.approx(per_task, rel=0.15)
    assert f"cost {costs.cost_per_version:.3g} per version" in placement_line(costs)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["placement"]["downloads"] == len(placed)
    assert {row["model_version"] for row in tasks} >= {0, 1, 2, 3, 4}

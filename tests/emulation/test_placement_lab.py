"""Online splitting and models that move in a whole lab: what the UE saw is what the wire had and the simulator says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from controller.contract import cut_label
from controller.model.stage_fading import stage_gains
from testbed.labfile.load import load
from testbed.labfile.resolve import resolve
from tests.emulation.conftest import LABS, Bench

pytestmark = pytest.mark.root

CHANNEL = "ues.0.channel={fading: rayleigh, distance: 500 m, refresh: per_task_stage, gain_floor: 5 %}"
PLACEMENT = (
    "--set", "policy={name: placement, placed: all}",
    "--set", CHANNEL,
    "--set", "radio.uplink=1 MHz",
    "--set", "ues.0.speed=0.05",
    "--set", "ues.0.arrivals.rate=4 /s",
    "--set", "retraining={interval: 1.5 s, perturbation: 0.1}",
)  # fmt: skip


def test_tasks_stop_by_the_gain_that_is_on_the_wire_and_models_move_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = bench.run(bench.name(), "--duration", "8 s", *PLACEMENT, code=None)
    assert measured["tasks"]["failed"] == 0
    directory = Path(measured["run_dir"])
    tasks = pq.read_table(directory / "tasks.parquet").to_pylist()
    steps = [row for row in pq.read_table(directory / "links.parquet").to_pylist() if row["cause"] == "stage"]
    overrides = [PLACEMENT[at] for at in range(1, len(PLACEMENT), 2)]
    monkeypatch.syspath_prepend(str(LABS))
    topology = load(LABS / "tiny.yaml", overrides)
    scenario = resolve(topology, "tiny.yaml", LABS, 1.0, lambda _: None).scenario
    chain = [cut_label(cut) for cut in scenario.ues[0].profile.chain_cuts]
    names = [str(ue.name) for ue in scenario.ues]
    sent = 0
    for task in tasks:
        if task["status"] != "completed" or task["cut"] == "local":
            continue
        index = names.index(task["ue"])
        gain = stage_gains(scenario.ues[index], topology.seed, index, task["task"])[chain.index(task["cut"])]
        on_air = [
            row["gain"]
            for row in steps
            if (row["ue"], row["direction"]) == (task["ue"], "up")
            and task["head_end_seconds"] <= row["applied_seconds"] <= task["received_seconds"]
        ]
        assert any(np.isclose(gain, one, rtol=1e-9) for one in on_air), task
        sent += 1
    assert sent > 10
    assert {task["cut"] for task in tasks if task["status"] == "completed"} == {"input", "local"}
    updates = pq.read_table(directory / "updates.parquet").to_pylist()
    assert {row["version"] for row in updates if row["status"] == "placed"} >= {1, 2, 3}
    assert max(task["model_version"] or 0 for task in tasks) >= 3

    lab = str(LABS / "tiny.yaml")
    simulated = json.loads(bench.call("simulate", lab, "--slots", "32", *PLACEMENT, "--json").stdout)
    rows = pq.read_table(Path(simulated["run_dir"]) / "tasks.parquet").to_pylist()
    theirs = {(row["ue"], row["task"]): row["cut"] for row in rows if row["cut"] is not None}
    ours = {(row["ue"], row["task"]): row["cut"] for row in tasks if row["status"] == "completed"}
    common = theirs.keys() & ours.keys()
    assert len(common) > 30
    same = sum(theirs[key] == ours[key] for key in common)
    # a task at the very start has the decision that is in force before the policy's first
    assert same >= len(common) - 2

"""ResNet-18 uploads while it runs, in a whole lab: as fast as promised, and task by task what the simulator says."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from testbed.report.compare import compare
from tests.emulation.conftest import Bench

pytestmark = [pytest.mark.root, pytest.mark.quiet]

PROFILE = Path(__file__).parents[2] / "topologies" / "profiles" / "resnet18.json"
LAB = f"""
name: promise
seed: 4
slot: 0.5 s
model: torchvision:resnet18
profile: {PROFILE}
codec: {{input: uint8, boundary: fp32}}
edge: {{cpus: 0.8, gpu: off}}
radio: {{uplink: 15 MHz, downlink: 15 MHz, noise: -165 dBm/Hz}}
uploading: {{cache: per_query, memory: 60 MB}}
ues:
  - name: ue
    speed: 0.02
    arrivals: {{process: periodic, rate: 0.3 /s}}
    channel: {{fading: static, distance: 100 m}}
    link: {{delay: 0 ms}}
policy: mjoa-mu
monitoring: {{prometheus: off, grafana: off}}
"""


def test_a_first_query_takes_what_was_promised(bench: Bench, tmp_path: Path) -> None:
    lab = tmp_path / "promise.yaml"
    lab.write_text(LAB)
    measured = json.loads(
        bench.call(
            *("run", str(lab), "--name", bench.name(), "--runtime", "netns", "--duration", "7 s", "--json"), code=None
        ).stdout
    )
    assert measured["tasks"]["failed"] == 0
    assert measured["tasks"]["completed"] >= 2
    simulated = json.loads(bench.call("simulate", str(lab), "--slots", "30", "--json").stdout)
    run, simulation = Path(measured["run_dir"]), Path(simulated["run_dir"])
    row, _ = compare([run, simulation])
    found = row.predicted["ue"]
    assert found.tasks >= 2
    assert found.ratio == pytest.approx(1.0, abs=0.1)
    assert row.gap is not None
    assert row.gap.e2e_seconds.ratio == pytest.approx(1.0, abs=0.1)
    ours = {task["task"]: task for task in pq.read_table(run / "tasks.parquet").to_pylist()}
    theirs = {task["task"]: task for task in pq.read_table(simulation / "tasks.parquet").to_pylist()}
    for number, task in ours.items():
        assert task["boundary_bytes"] == theirs[number]["boundary_bytes"]
        assert task["wire_bytes"] == pytest.approx(theirs[number]["wire_bytes"], rel=0.02)
    segments = pq.read_table(run / "segments.parquet").to_pylist()
    assert {segment["site"] for segment in segments} == {"device", "edge"}

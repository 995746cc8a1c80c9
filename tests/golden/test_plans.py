"""Topology -> Plan pairs. After a change that is meant: TESTBED_REGENERATE=1 pytest tests/golden/test_plans.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from testbed.lab.plan import RuntimeName, make_plan
from testbed.labfile.channels import make_traces, peak_states
from testbed.labfile.load import load

HERE = Path(__file__).parent
CASES: dict[str, tuple[RuntimeName, list[str]]] = {
    "base": ("netns", []),
    "docker": ("docker", []),
    "one-ue": ("netns", ["ues.0.count=1", "edge.cpus=0.8"]),
    "delay-and-loss": ("netns", ["ues.0.link={delay: 20 ms, jitter: 2 ms, loss: 1 %, congestion_control: reno}"]),
    "fast-ue": ("netns", ["ues.0.speed=1.0", "ues.0.count=1"]),
}


@pytest.mark.parametrize("name", CASES)
def test_plan_is_the_golden_one(name: str) -> None:
    runtime, overrides = CASES[name]
    topology = load(HERE / "base.yaml", overrides)
    plan = make_plan(topology, runtime, peak_states(make_traces(topology, 10.0))).to_json()
    golden = HERE / "plans" / f"{name}.json"
    if os.environ.get("TESTBED_REGENERATE"):
        golden.write_text(json.dumps(plan, indent=1) + "\n")
    assert json.loads(json.dumps(plan)) == json.loads(golden.read_text())


def test_nodes_of_two_labs_have_different_names() -> None:
    from testbed.runtime.base import namespace_name

    names = {namespace_name(lab, node) for lab in ("a", "a-b") for node in ("ue1", "b-ue1", "edge")}
    assert len(names) == 6

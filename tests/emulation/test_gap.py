"""One lab in two worlds: the same tasks, channels and cuts, and delays that agree."""

from __future__ import annotations

import json
from typing import Any

import pytest

from testbed.runtime.processes.discovery import list_owned
from tests.emulation.conftest import LABS, Bench

pytestmark = pytest.mark.root

SLOTS, DURATION = 28, "7 s"


def _gap(bench: Bench, *policy: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the run's summary, its gap to the simulation)."""
    lab = str(LABS / "tiny.yaml")
    measured = bench.run(bench.name(), "--duration", DURATION, *policy, code=None)
    simulated = json.loads(bench.call("simulate", lab, "--slots", str(SLOTS), *policy, "--json").stdout)
    rows = json.loads(bench.call("compare", simulated["run_dir"], measured["run_dir"], "--json").stdout)
    assert rows[0]["gap"] is None
    return measured, rows[1]["gap"]


def test_both_worlds_meet_the_same_tasks(bench: Bench) -> None:
    measured, gap = _gap(bench, "--policy", "edge-only")
    assert gap["arrivals"]["equal"]
    assert gap["arrivals"]["simulated"] == gap["arrivals"]["measured"] == measured["tasks"]["arrived"]
    assert gap["same_cut_ratio"] == 1.0
    difference = gap["e2e_seconds"]["measured"] - gap["e2e_seconds"]["simulated"]
    assert sum(gap["causes_seconds"].values()) == pytest.approx(difference, abs=1e-9)


@pytest.mark.quiet
@pytest.mark.parametrize("policy", ["edge-only", "device-only"])
def test_mean_delay_is_within_ten_percent_of_the_simulator(bench: Bench, policy: str) -> None:
    # a narrow band makes transfers of tens of milliseconds, beside which what TCP adds is small
    _, gap = _gap(bench, "--policy", policy, "--set", "radio.uplink=300 kHz", "--set", "radio.downlink=1 MHz")
    assert gap["e2e_seconds"]["ratio"] == pytest.approx(1.0, abs=0.10), gap


@pytest.mark.parametrize("verb", ["run", "up"])
def test_a_policy_that_does_not_fit_is_refused_before_anything_starts(bench: Bench, verb: str) -> None:
    name = bench.name()
    arguments = ("--policy", "fixed", "--set", "policy.cut=nowhere", "--name", name, "--runtime", "netns")
    refused = bench.call(verb, str(LABS / "tiny.yaml"), *arguments, code=2)
    assert "nowhere" in refused.stderr
    assert not list_owned(name)

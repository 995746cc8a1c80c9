"""Containers to which something happens, in short; ``python -m benchmarks.chaos --runtime docker`` is the long form."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.chaos.experiment import experiment

pytestmark = [pytest.mark.root, pytest.mark.docker]


@pytest.mark.parametrize(
    ("event", "seed"), [("a container restarted", 1), ("a container paused", 2), ("the engine stopped", 3)]
)
def test_a_lab_tells_the_truth_and_goes(tmp_path: Path, event: str, seed: int) -> None:
    verdict = experiment(event, "docker", 3.0, random.Random(seed), tmp_path / "lab", "running", alone=False)
    assert verdict.outcome.did, "it met nothing that it could happen to"
    assert verdict.faults == (), verdict.outcome

"""Labs to which something happens, in short; ``python -m benchmarks.chaos`` is the long form."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.chaos.experiment import experiment

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("event", "moment", "seed"),
    [
        ("SIGSTOP of a program, for good", "running", 1),
        ("kill -9 of the command", "running", 2),
        ("a disk full for a moment", "running", 3),
        ("a torn state file", "coming up", 4),
    ],
)
def test_a_lab_tells_the_truth_and_goes(tmp_path: Path, event: str, moment: str, seed: int) -> None:
    verdict = experiment(event, "netns", 3.0, random.Random(seed), tmp_path / "lab", moment, alone=False)
    assert verdict.outcome.did, "it met nothing that it could happen to"
    assert verdict.faults == (), verdict.outcome

"""Training from the command line: a checkpoint that the lab takes, its curve, and how it goes on."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from simulated_lab import LAB, simulated

from controller.learning.checkpoint import load_checkpoint
from controller.learning.levels import LEVELS
from testbed.cli.train import command
from testbed.errors import InputError
from testbed.lab.train import TrainingSummary, read_curve, training_channel
from testbed.labfile.load import load


def trained(out: Path, *arguments: str) -> TrainingSummary:
    given = ["lymdo", str(LAB), "--set", "ues.0.count=2", "--out", str(out), "--json", *arguments]
    result = CliRunner().invoke(command, given, catch_exceptions=False)
    return msgspec.json.decode(result.stdout, type=TrainingSummary)


@pytest.mark.thorough
def test_a_checkpoint_that_the_lab_takes(tmp_path: Path) -> None:
    out = tmp_path / "actor.npz"
    summary = trained(out, "--learner", "ppo", "--updates", "1")
    assert (summary.learner, summary.updates, summary.v) == ("ppo", 1, 0.3)
    assert load_checkpoint(out).header.ues == 2
    assert Path(summary.curve_png).read_bytes().startswith(b"\x89PNG")
    assert len(read_curve(Path(summary.curve_csv)).steps) == 1
    run = simulated(
        tmp_path / "run", "policy=lymdo", "policy.V=0.3", f"policy.checkpoint={out}", "ues.0.count=2", slots=5
    )
    assert run.tasks.completed > 0


@pytest.mark.thorough
def test_by_default_the_actor_is_for_a_range_of_labs(tmp_path: Path) -> None:
    out = tmp_path / "actor.npz"
    summary = trained(out, "--updates", "2")
    assert (summary.learner, summary.updates, summary.training_state) == ("imitation", 2, None)
    header = load_checkpoint(out).header
    assert header.general
    assert header.ranges["number of UEs"] == (2, 30)
    # 4 UEs and another V, which the training lab did not have
    run = simulated(tmp_path / "run", "policy=lymdo", "policy.V=0.7", f"policy.checkpoint={out}", slots=5)
    assert run.tasks.completed > 0


@pytest.mark.thorough
def test_an_actor_for_everything_is_trained_by_the_same_verb(tmp_path: Path) -> None:
    out = tmp_path / "all.npz"
    arguments = ["ppo-all", str(LAB), "--set", "ues.0.count=2", "--out", str(out), "--updates", "1", "--json"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert msgspec.json.decode(result.stdout, type=TrainingSummary).policy == "ppo-all"
    header = load_checkpoint(out).header
    assert (header.learner, header.levels, header.ues) == ("ppo-all", LEVELS, 2)


@pytest.mark.thorough
def test_resume_goes_on_and_keeps_the_curve(tmp_path: Path) -> None:
    out = tmp_path / "actor.npz"
    trained(out, "--learner", "ppo", "--updates", "1")
    before = load_checkpoint(out).weights
    assert trained(out, "--learner", "ppo", "--updates", "2", "--resume").updates == 2
    after = load_checkpoint(out).weights
    assert any(not np.array_equal(before[name], after[name]) for name in before)
    curve = read_curve(out.with_suffix(".csv"))
    assert len(curve.steps) == 2
    assert curve.steps[1] == 2 * curve.steps[0]
    assert curve.seconds[1] > curve.seconds[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["neurosurgeon", str(LAB)], "does not learn"),
        (["ppo-all", str(LAB), "--learner", "imitation"], "has no such step"),
        (["lymdo", str(LAB), "--resume"], "no training to go on with"),
        (["lymdo", str(LAB), "--resume", "--learner", "ppo"], "no training to go on with"),
    ],
)
def test_orders_that_are_refused(arguments: list[str], says: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [*arguments, "--out", str(tmp_path / "actor.npz")])
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_what_is_trained_on_is_not_what_is_replayed() -> None:
    topology = load(LAB)
    first, other = training_channel(topology, 1), training_channel(topology, 2)
    assert first.up.shape == (20_000, 4)
    assert first.step_seconds == topology.slot
    assert np.array_equal(first.up, training_channel(topology, 1).up)
    assert not np.array_equal(first.up, other.up)
    assert not np.array_equal(first.up, training_channel(topology, topology.seed).up)

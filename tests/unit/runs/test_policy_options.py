"""Options of a policy that takes another's place: ``--policy``, and files that ``testbed policy set`` names."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.cli.policy import share_checkpoint
from testbed.errors import InputError
from testbed.lab.choice import LabChoice

LABS = Path(__file__).parents[3] / "topologies"
ACTOR = str(LABS / "checkpoints" / "lymdo-mobilenet_v2.npz")


@pytest.mark.parametrize(
    ("policy", "overrides", "options"),
    [
        ("lymdo", (), {"V": 0.2, "checkpoint": ACTOR}),
        ("lymdo-equal", (), {"V": 0.2, "checkpoint": ACTOR}),
        ("random+convex", (), {"V": 0.2}),
        ("random+convex", ("policy.V=0.7", "policy.solver=cvxpy"), {"V": 0.7, "solver": "cvxpy"}),
        ("neurosurgeon", (), {}),
        ("lymdo-equal", ("policy.checkpoint=",), {"V": 0.2, "checkpoint": None}),
        (None, ("policy=device-only+convex",), {"V": 0.2}),
        (None, ("policy={name: lymdo}",), {}),
        (None, ("policy=lymdo-cd", "policy=random", "policy=lymdo"), {}),
    ],
)
def test_a_policy_in_the_place_of_the_lab_s_keeps_the_options_that_both_have(
    policy: str | None, overrides: tuple[str, ...], options: dict[str, object]
) -> None:
    topology = LabChoice(LABS / "lymdo-mobilenet_v2.yaml", overrides, policy).read()
    assert topology.policy.options == options


def test_a_policy_in_the_place_of_a_mere_name_has_no_options() -> None:
    assert LabChoice(LABS / "dds.yaml", (), "dads").read().policy.options == {}


def test_an_unknown_policy_is_refused_by_its_name() -> None:
    with pytest.raises(InputError, match="unknown policy 'lymdoo'"):
        LabChoice(LABS / "lymdo.yaml", (), "lymdoo").read()


def test_a_relative_checkpoint_is_of_the_present_directory_and_copied_to_where_every_node_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    monkeypatch.chdir(tmp_path)
    Path("actor.npz").write_bytes(b"one")
    first = Path(share_checkpoint(Path("actor.npz"), lab))
    Path("actor.npz").write_bytes(b"another of the same name")
    second = Path(share_checkpoint(Path("actor.npz"), lab))
    assert first.parent == second.parent == lab
    assert (first.read_bytes(), second.read_bytes()) == (b"one", b"another of the same name")


def test_a_checkpoint_that_is_not_there_is_refused_with_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot be read") as refused:
        share_checkpoint(Path("none.npz"), tmp_path)
    assert str(tmp_path / "none.npz") in str(refused.value)

"""Options of ``testbed policy set`` that name a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.cli.policy import share_checkpoint
from testbed.errors import InputError


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

"""docs/python.md from its first line to its last, labs included."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.front.results import Run
from testbed.lab.state import existing
from tests.python_page import go_through

pytestmark = pytest.mark.root


def test_the_whole_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = go_through(tmp_path, lambda _code: True)
    run, standing = names["run"], names["standing"]
    assert isinstance(run, Run)
    assert isinstance(standing, Run)
    assert run.summary.policy == "edge-only"
    assert run.manifest.seed == 3
    assert run.summary.tasks.arrived > 0
    assert set(run.tasks["cut"].drop_null().to_pylist()) <= {"input", "local"}
    assert standing.summary.tasks.arrived > 0
    fixed = standing.links.filter(standing.links["ue"].to_numpy(zero_copy_only=False) == "ue1")
    assert 2e6 in fixed["applied_bits_per_second"].to_pylist()
    assert not {"python1", "python2"} & set(existing())

"""``--no-import``: what lies beside a lab file that somebody else wrote is not run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from testbed.cli import main

QUICKSTART = Path(__file__).parents[2] / "topologies" / "quickstart.yaml"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab whose model leaves a trace when it is imported."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "tempting", raising=False)
    (tmp_path / "tempting.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w').close()\nfactory = None\n")
    content = yaml.safe_load(QUICKSTART.read_text())
    content["model"] = "tempting:factory"
    del content["profile"]
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "lab.yaml"


@pytest.mark.parametrize("verb", ["validate", "plan", "graph"])
def test_code_beside_the_lab_file_is_run_only_without_it(verb: str, lab: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, str(lab), "--no-import"])
    assert caught.value.code == 0
    assert not (lab.parent / "trace").exists()
    assert str(lab.parent) not in sys.path
    with pytest.raises(SystemExit):
        main([verb, str(lab)])
    assert (lab.parent / "trace").exists()

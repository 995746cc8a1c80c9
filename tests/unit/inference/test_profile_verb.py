from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from testbed.cli.profile import command
from testbed.errors import InputError

HERE = Path(__file__).parent


def test_cuts_as_json_and_as_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)
    answer = CliRunner().invoke(command, ["branching:Branching", "--cuts", "--json"], catch_exceptions=False)
    cuts = json.loads(answer.stdout)
    assert cuts[0] == {"cut": "input", "bytes": 3072}
    assert cuts[-1] == {"cut": "local", "bytes": 0}
    table = CliRunner().invoke(command, ["branching:Branching", "--cuts"], catch_exceptions=False).stdout
    assert all(cut["cut"] in table for cut in cuts)


def test_unknown_model() -> None:
    with pytest.raises(InputError, match="resnet18"):
        CliRunner().invoke(command, ["torchvision:resnet81", "--cuts"], catch_exceptions=False)

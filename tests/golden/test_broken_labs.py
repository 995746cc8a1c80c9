"""Every rule of the lab file: one paragraph, exit 2, nothing started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.errors import InputError
from testbed.lab import checks
from testbed.labfile.load import load

HERE = Path(__file__).parent
CASES: dict[str, dict[str, Any]] = yaml.safe_load((HERE / "broken.yaml").read_text())


def _error_of(case: dict[str, Any], folder: Path) -> str:
    lab = folder / "lab.yaml"
    lab.write_text(case.get("text", (HERE / "base.yaml").read_text()))
    with pytest.raises(InputError) as caught:
        checks.check_models(load(lab, case.get("set", ())), str(lab), folder)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("name", CASES)
def test_error_says_what_where_value_and_choices(name: str, tmp_path: Path) -> None:
    text = _error_of(CASES[name], tmp_path)
    assert "\n" not in text, "an error is one paragraph"
    assert "lab.yaml" in text, "an error names the file"
    for words in CASES[name]["says"]:
        assert words in text


def test_base_lab_is_fine(tmp_path: Path) -> None:
    lab = tmp_path / "lab.yaml"
    lab.write_text((HERE / "base.yaml").read_text())
    topology = load(lab)
    assert [ue.name for ue in topology.expand()] == ["ue1", "ue2"]
    assert [ue.distance for ue in topology.expand()] == [100.0, 400.0]


@pytest.mark.parametrize("name", ["unknown key", "wrong unit mbps", "unknown policy"])
@pytest.mark.parametrize(
    "verb", ["validate", "plan", *(pytest.param(verb, marks=pytest.mark.thorough) for verb in ("run", "up"))]
)
def test_command_line_ends_with_exit_2(name: str, verb: str, tmp_path: Path) -> None:
    lab = tmp_path / "lab.yaml"
    lab.write_text((HERE / "base.yaml").read_text())
    arguments = [argument for override in CASES[name]["set"] for argument in ("--set", override)]
    result = subprocess.run(
        [sys.executable, "-m", "testbed", verb, str(lab), *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_overrides_must_be_understood(tmp_path: Path) -> None:
    lab = tmp_path / "lab.yaml"
    lab.write_text((HERE / "base.yaml").read_text())
    for override in ("slot", "ues.9.speed=1", "name.sub=1"):
        with pytest.raises(InputError, match="--set"):
            load(lab, [override])


def test_missing_lab_file_names_the_labs_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("")
    with pytest.raises(InputError, match=r"other\.yaml"):
        load(tmp_path / "lab.yaml")

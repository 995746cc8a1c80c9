"""``testbed init`` and ``testbed examples``: each starter is a lab that loads, with what it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from testbed.cli.examples import command as examples
from testbed.cli.init import command as init
from testbed.errors import InputError
from testbed.installed import CODE, shipped
from testbed.lab.starter import EXAMPLES
from testbed.labfile.load import load


@pytest.mark.parametrize(
    ("name", "policy", "model"),
    [
        ("quickstart", "neurosurgeon", "torchvision:mobilenet_v2"),
        ("policy", "my_policy:Threshold", "torchvision:mobilenet_v2"),
        ("model", "neurosurgeon", "my_models:classifier"),
    ],
)
def test_a_starter_is_a_lab_that_loads(
    name: str, policy: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lab"
    monkeypatch.syspath_prepend(folder)
    CliRunner().invoke(init, [str(folder), "--example", name], catch_exceptions=False)
    lab = load(folder / "lab.yaml")
    assert (lab.policy.name, lab.expand()[0].model) == (policy, model)
    assert (folder / "lab.yaml").read_text().startswith("# yaml-language-server: $schema=lab.schema.json\n")
    assert "ues" in json.loads((folder / "lab.schema.json").read_text())["properties"]
    for wanted in (lab.profile, f"{policy.partition(':')[0]}.py" if ":" in policy else None):
        assert wanted is None or (folder / wanted).is_file()
    assert f"--example {name}" in (folder / "README.md").read_text()
    with pytest.raises(InputError, match="such a file already"):
        CliRunner().invoke(init, [str(folder)], catch_exceptions=False)


def test_the_policy_to_begin_with_is_that_of_the_page() -> None:
    page = (CODE / "docs" / "policies.md").read_text()
    assert shipped("examples", "policy", "my_policy.py").read_text() in page


def test_examples_lists_starters_and_labs_with_what_they_are() -> None:
    text = CliRunner().invoke(examples, catch_exceptions=False).output
    assert all(f"--example {name}" in text for name in EXAMPLES)
    assert "quickstart.yaml" in text
    assert "Three slow UEs run MobileNetV2" in text

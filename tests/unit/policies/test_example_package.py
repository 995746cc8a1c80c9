"""The example of docs/policies.md, installed from a package outside this one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import contract_tables, pages

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "tests" / "data" / "example_policy"


@pytest.mark.thorough
def test_the_example_package_is_found_checked_and_created_with_its_options(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "site"
    shutil.copytree(PACKAGE, source)  # a build leaves files beside its source
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)],
        check=True,
    )
    program = (
        "from controller.policies import registry\n"
        "from controller.policies.check import check_policy\n"
        "policy = registry.create('threshold', {'ratio': 0.5})\n"
        "check_policy(policy)\n"
        "check_policy(registry.create('frugal'), slots=11)\n"
        "print(policy.ratio, registry.options('threshold'), 'neurosurgeon' in registry.available())\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(target)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout == "0.5 {'ratio': 1.0} True\n", answer.stderr


def test_the_page_shows_what_the_package_holds() -> None:
    page = (ROOT / "docs" / "policies.md").read_text()
    shown = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    example = (PACKAGE / "example_policy.py").read_text()
    assert shown[0] == example
    assert len(example.splitlines()) <= 20
    assert shown[2] == (PACKAGE / "frugal_policy.py").read_text()
    toml = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0]
    assert toml in (PACKAGE / "pyproject.toml").read_text()


def test_the_page_has_every_field_of_the_contract() -> None:
    """The tables are those that ``python -m benchmarks.pages`` writes today; no field is without words."""
    page = (pages.ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
    assert pages.written(page, "contract", contract_tables.tables()) == page
    rows = {kind.__name__: contract_tables.fields(kind) for kind in contract_tables.TYPES}
    for kind in contract_tables.TYPES:
        assert [row[0] for row in rows[kind.__name__]] == list(kind.__struct_fields__)
        assert all(meaning for *_, meaning in rows[kind.__name__])
    assert "Never this slot's future" in {row[0]: row[3] for row in rows["UeObservation"]}["gain_up"]

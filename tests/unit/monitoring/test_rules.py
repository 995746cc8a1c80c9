"""Prometheus's own judgement on the configuration, and unit tests of the alert rules."""

from __future__ import annotations

import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent


@pytest.fixture
def promtool() -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("needs promtool: apt-get install prometheus")
    return program


@pytest.mark.parametrize("arguments", [("config", "prometheus.yml"), ("rules", "rules.yml")])
def test_promtool_accepts(promtool: str, arguments: tuple[str, str]) -> None:
    kind, name = arguments
    done = subprocess.run(
        [promtool, "check", kind, str(ROOT / "grafana" / name)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "SUCCESS" in done.stdout


def test_rules_fire_and_keep_silent_as_they_should(promtool: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "grafana/rules.yml", tmp_path / "rules.yml")
    shutil.copy(HERE / "rules_test.yml", tmp_path / "rules_test.yml")
    done = subprocess.run(
        [promtool, "test", "rules", "rules_test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.thorough
def test_names_and_units_follow_prometheus(promtool: str, watched: Any) -> None:
    with urllib.request.urlopen(watched.exporter_url, timeout=5) as answer:
        text = answer.read()
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()

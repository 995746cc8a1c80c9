"""What is compiled is compiled anew when something changes that it has taken in from another file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ROUTINE = """
from constants import FLOOR
from helpers import twice
from controller.compiled import compiled

@compiled
def floored(value):
    return later(value)

@compiled
def later(value):
    return max(twice(value), FLOOR)

print(floored(1.0), sum(floored.stats.cache_hits.values()))
"""
HELPER = """
from constants import FACTOR
from controller.compiled import compiled

@compiled
def twice(value):
    return FACTOR * value
"""


@pytest.mark.thorough
def test_a_changed_constant_or_routine_of_another_file_is_seen(tmp_path: Path) -> None:
    (tmp_path / "routine.py").write_text(ROUTINE)
    (tmp_path / "helpers.py").write_text(HELPER)

    def run(constants: str) -> str:
        (tmp_path / "constants.py").write_text(constants)
        environment = {
            **os.environ,
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "NUMBA_CACHE_DIR": str(tmp_path / "kept"),
        }
        code = "import routine"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        return done.stdout.strip() or done.stderr

    assert run("FLOOR = 0.5\nFACTOR = 2.0") == "2.0 0"
    assert run("FLOOR = 0.5\nFACTOR = 2.0") == "2.0 1", "it is not kept"
    assert run("FLOOR = 7.0\nFACTOR = 2.0") == "7.0 0"
    assert run("FLOOR = 0.5\nFACTOR = 4.0") == "4.0 0", "taken in by what it calls"

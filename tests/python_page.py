"""The examples of a page, run as a reader would: one after the other, in a folder with the shipped labs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)


def makes_a_lab(code: str) -> bool:
    return "testbed.run(" in code or "testbed.up(" in code


def go_through(folder: Path, wanted: Callable[[str], bool], page: str = "python.md") -> dict[str, Any]:
    """Run the examples that are wanted, the present directory being ``folder``; what they leave behind."""
    shutil.copytree(ROOT / "topologies", folder / "topologies")
    quickstart = folder / "topologies" / "quickstart.yaml"  # images that a registry does not give are waited for
    quickstart.write_text(quickstart.read_text().replace(": auto, grafana: auto}", ": off, grafana: off}"))
    names: dict[str, Any] = {}
    for code in examples(page):
        if wanted(code):
            exec(compile(code, f"docs/{page}", "exec"), names)
    return names

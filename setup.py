"""What pyproject.toml cannot say: a wheel takes along what the program needs beside its code (testbed/installed.py)."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SHIPPED = ("images", "grafana", "topologies", "campaigns", "examples", "constraints.txt", "pyproject.toml")


class BuildWithFiles(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # they are where they are
            return
        target = Path(self.build_lib) / "testbed" / "shipped"
        shutil.rmtree(target, ignore_errors=True)
        for name in SHIPPED:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
            else:
                shutil.copy(ROOT / name, target / name)


setup(cmdclass={"build_py": BuildWithFiles})

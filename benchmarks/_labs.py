"""Runs of whole labs for benchmarks: the command line in a process of its own, kept directories, one at a time."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def add_options(parser: argparse.ArgumentParser) -> None:
    """What all of them have."""
    parser.add_argument("--keep", type=Path, help="where results stay; what is there already is not done again")
    parser.add_argument("--lock", type=Path, help="a file that is locked during each run, where others measure, too")


@contextlib.contextmanager
def alone(lock: Path | None) -> Iterator[None]:
    """Hold the lock, if there is one."""
    if lock is None:
        yield
        return
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def run(
    lab: Path,
    out: Path,
    seconds: float,
    *arguments: str,
    lock: Path | None = None,
    environment: Mapping[str, str] | None = None,
    **process: Any,
) -> None:
    """``testbed run``, unless ``out`` holds a finished run. An invalid run (exit code 4) is a result, too.

    Raises SystemExit when it ends otherwise.
    """
    if (out / "summary.json").exists():
        return
    command = [sys.executable, "-P", "-m", "testbed", "run", str(lab), "--duration", f"{seconds:g}s", "--out", str(out)]
    with alone(lock):
        done = subprocess.run(
            [*command, *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdout=subprocess.DEVNULL,
            check=False,
            **process,
        )
    if done.returncode not in (0, 4):
        raise SystemExit(f"{' '.join(command)} ended with exit code {done.returncode}")


def read(directory: Path, name: str) -> Any:
    """One of a run's JSON files."""
    return json.loads((directory / f"{name}.json").read_text())

"""Runs of whole labs for benchmarks: the command line in a process of its own, kept directories, one at a time."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks._as_user import command_as_user, environment

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
    as_user: bool = False,
) -> None:
    """``testbed run``, unless ``out`` holds a finished run. An invalid run (exit code 4) is a result, too.

    ``as_user``: without root; ``out`` has to be in a folder of :data:`benchmarks._as_user.USER`.
    Raises SystemExit when it ends otherwise.
    """
    if (out / "summary.json").exists():
        return
    command = [sys.executable, "-P", "-m", "testbed", "run", str(lab), "--duration", f"{seconds:g}s", "--out", str(out)]
    command += arguments
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    if as_user:
        command = command_as_user(*command)
        variables = {**environment(), "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(out.parent)}
    with alone(lock):
        done = subprocess.run(command, env=variables, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 4):
        raise SystemExit(f"{' '.join(command)} ended with exit code {done.returncode}")


def figures_of(directory: Path) -> dict[str, Any]:
    """The figures of a run's fidelity report by their names."""
    return {figure["name"]: figure["value"] for figure in read(directory, "fidelity")["figures"]}


def read(directory: Path, name: str) -> Any:
    """One of a run's JSON files."""
    return json.loads((directory / f"{name}.json").read_text())

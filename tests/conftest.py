"""Skips what this machine cannot run, with the reason; ``--require docker,root,netem`` makes such a skip a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from testbed.runtime.gpu import device_files

UNIT = Path(__file__).parent / "unit"


@cache
def _no_root() -> str:
    return "" if os.geteuid() == 0 else "needs root: network namespaces and cgroups"


@cache
def _no_docker() -> str:
    if shutil.which("docker") is None:
        return "needs a Docker Engine: no docker program"
    answer = subprocess.run(["docker", "info"], capture_output=True, text=True, check=False)
    return "" if answer.returncode == 0 else "needs a Docker Engine: none answers"


@cache
def _no_netem() -> str:
    if _no_root():
        return _no_root()
    name = f"tb-probe-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        probe = subprocess.run(
            ["tc", "-n", name, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    return "" if probe.returncode == 0 else "needs a kernel with sch_netem"


@cache
def _no_gpu() -> str:
    return "" if device_files() else "needs a CUDA device"


LACKING: dict[str, Callable[[], str]] = {"root": _no_root, "docker": _no_docker, "netem": _no_netem, "gpu": _no_gpu}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require", default="", help="comma-separated: a skip for lack of these is a failure")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is judged by the clock is tried again on a machine that was not quiet; a fault fails every time.

    The other unit tests may share the machine: ``-m parallel -n auto``.
    """
    for item in items:
        if item.get_closest_marker("quiet") is not None:
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=3))
        elif UNIT in item.path.parents:
            item.add_marker(pytest.mark.parallel)


def pytest_runtest_setup(item: pytest.Item) -> None:
    required = {part for part in str(item.config.getoption("--require")).split(",") if part}
    for mark, lacking in LACKING.items():
        if item.get_closest_marker(mark) is None:
            continue
        reason = lacking()
        if reason and mark in required:
            pytest.fail(f"--require {mark}: {reason}")
        if reason:
            pytest.skip(reason)

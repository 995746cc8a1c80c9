"""Skips what this machine cannot run, with the reason; ``--require docker,root,netem,quiet`` makes that a failure.

``HYPOTHESIS_PROFILE=thorough`` (``make test``) tries more examples than the default, which is for every save.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import hypothesis
import pytest

from testbed.runtime.host.gpu import device_files
from tests.host_watch import HostWatch
from tests.netem import uml
from tests.quiet import QuietTests

TESTS = Path(__file__).parent
#: Folders of what neither starts labs nor looks at those that are there.
COMPUTING = (
    TESTS / "golden",
    *(TESTS / "unit" / name for name in ("inference", "learning", "model", "policies", "simulator", "solvers")),
    TESTS / "unit" / "traces",
)

hypothesis.settings.register_profile("quick", max_examples=15, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=100, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


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
    parser.addoption("--unwatched", action="store_true", help="somebody else watches the host (in a guest)")


def required(config: pytest.Config) -> set[str]:
    return {part for part in str(config.getoption("--require")).split(",") if part}


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--unwatched"):
        return

    def start_watch() -> HostWatch:
        return HostWatch(Path(tempfile.mkdtemp(prefix="host-watch-")))

    config.pluginmanager.register(QuietTests(start_watch, "quiet" in required(config)), "quiet-tests")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one file are one worker's (``--dist loadgroup``), and share what it makes, but for those of labs.

    So are all that are not beside each other; guests are, where there is memory for two.
    """
    beside = uml.at_once() >= 2
    for item in items:
        if any(folder in item.path.parents for folder in COMPUTING):
            item.add_marker("computes")
        if item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.xdist_group("alone"))
        elif item.get_closest_marker("guest"):
            item.add_marker(pytest.mark.xdist_group(item.path.name if beside else "guest"))
        elif TESTS / "emulation" not in item.path.parents and item.get_closest_marker("xdist_group") is None:
            shared = {"watched"} & set(getattr(item, "fixturenames", ())) if TESTS / "unit" in item.path.parents else ()
            item.add_marker(pytest.mark.xdist_group(*(shared or {item.path.name})))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark, lacking in LACKING.items():
        if item.get_closest_marker(mark) is None:
            continue
        reason = lacking()
        if reason and mark in required(item.config):
            pytest.fail(f"--require {mark}: {reason}")
        if reason:
            pytest.skip(reason)

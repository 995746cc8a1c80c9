"""The docker runtime's limits on cgroup v2, by an engine inside the guest."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from testbed.runtime.docker_build import connect, has_image
from testbed.runtime.images import NODE_PACKAGES, PYTHON_REFERENCE, base_tag
from tests.netem import uml

pytestmark = [pytest.mark.docker, pytest.mark.root]

LIMIT_SECONDS = 280.0
TESTS = ("kernel_enforces", "change_of_the_cap")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the root of the base image, as the host's engine has it."""
    if reason := uml.missing():
        pytest.skip(reason)
    base = base_tag(NODE_PACKAGES, PYTHON_REFERENCE)
    client = connect()
    assert has_image(client, base), "scripts/engine builds the images"
    client.close()
    made = subprocess.run(["docker", "create", base, "true"], capture_output=True, text=True, check=True)
    container = made.stdout.strip()
    try:
        subprocess.run(["docker", "export", "--output", str(tmp_path / "base.tar"), container], check=True)
    finally:
        subprocess.run(["docker", "rm", container], capture_output=True, check=True)
    return tmp_path


@pytest.mark.timeout(LIMIT_SECONDS + 30)
def test_limits_of_containers_hold_on_cgroup_v2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = folder / "report.xml"
    command = [
        *(sys.executable, "-m", "tests.netem.guest.engine", str(folder)),
        *("-v", "--tb=short", "-p", "no:cacheprovider", "--require", "docker,root", f"--junitxml={report}"),
        *("-k", " or ".join(TESTS), "tests/docker/test_limits.py"),
    ]

    def echo(line: str) -> None:
        with capsys.disabled():
            print(f"guest | {line}", flush=True)

    answer = uml.run_in_guest(command, folder, timeout_seconds=LIMIT_SECONDS, echo=echo)
    assert answer.exit_code == 0, answer.output
    passed = [case for case in ElementTree.parse(report).iter("testcase") if case.find("skipped") is None]
    assert len(passed) == len(TESTS)

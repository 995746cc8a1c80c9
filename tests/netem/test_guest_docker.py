"""The docker runtime's limits on cgroup v2, by an engine inside the guest."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import msgspec
import pytest

from testbed.runtime.docker.client import connect
from testbed.runtime.docker.docker_build import code_files, has_image
from testbed.runtime.docker.images import NODE_PACKAGES, PYTHON_REFERENCE, base_tag
from tests.netem import uml

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.guest]

LIMIT_SECONDS = 280.0
TESTS = ("kernel_enforces", "change_of_the_cap")
#: Half of the base image, which an engine in a guest copies for each container, and which nobody reads here.
LEFT_OUT = ("perl", "gconv", "pydoc_data", "usr/share/", "var/lib/dpkg/", "var/cache/")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the node image of this checkout, as far as the tests' containers need it."""
    if reason := uml.missing():
        pytest.skip(reason)
    base = base_tag(NODE_PACKAGES, PYTHON_REFERENCE)
    client = connect()
    assert has_image(client, base), "scripts/engine builds the images"
    client.close()
    made = subprocess.run(["docker", "create", base, "true"], capture_output=True, text=True, check=True)
    container = made.stdout.strip()
    try:
        pack_image(container, tmp_path / "image.tar")
    finally:
        subprocess.run(["docker", "rm", container], capture_output=True, check=True)
    return tmp_path


def pack_image(container: str, archive: Path) -> None:
    """The root of a container of the base image, the project's code and what its entry point imports."""
    with (
        subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export,
        tarfile.open(fileobj=export.stdout, mode="r|") as root,
        tarfile.open(archive, "w") as packed,
    ):
        for entry in root:
            if not any(part in entry.name for part in LEFT_OUT):
                packed.addfile(entry, root.extractfile(entry) if entry.isreg() else None)
        for name, content in code_files().items():
            entry = tarfile.TarInfo(f"opt/testbed/{name}")
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
        packed.add(Path(msgspec.__file__).parent, arcname="opt/packages/msgspec")


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

"""In the guest: a Docker Engine on cgroup v2, an image for the runtime's tests, and those tests.

``engine.py FOLDER PYTEST_ARGUMENT...``. FOLDER holds ``image.tar``, the root of the node image, with no more than its
entry point imports: no agent is started.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from testbed.runtime.docker.images import node_tag

DATA = "/run/docker-data"  # in memory, as all that the guest writes; overlay2 does not work on the guest's own overlay
START_SECONDS = 60.0
ENVIRONMENT = "PYTHONPATH=/opt/testbed:/opt/packages PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1"


def start_engine() -> None:
    """Raises TimeoutError with the end of the engine's log."""
    log = Path("/run/dockerd.log")
    with log.open("wb") as stream:
        subprocess.Popen(
            ["dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false", "--data-root", DATA],
            stdout=stream,
            stderr=stream,
        )
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no engine after {START_SECONDS:g} s: {log.read_text()[-2000:]}")
        time.sleep(0.2)


def make_image(archive: Path) -> None:
    """Import the node image of this checkout."""
    changes = ["--change", f"ENV {ENVIRONMENT}", "--change", "USER 65532:65532", "--change", "WORKDIR /tmp"]
    subprocess.run(["docker", "import", *changes, str(archive), node_tag("cpu")], check=True)


def main(folder: Path, tests: list[str]) -> int:
    start_engine()
    make_image(folder / "image.tar")
    return subprocess.run([sys.executable, "-m", "pytest", *tests], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))

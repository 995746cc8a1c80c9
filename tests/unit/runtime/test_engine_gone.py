"""An engine that is there and then is not."""

from __future__ import annotations

from pathlib import Path

import docker
import pytest

from testbed.errors import TestbedError
from testbed.runtime.docker.docker_nodes import answering, find


def test_an_engine_that_goes_away_is_told_in_words(tmp_path: Path) -> None:
    client = docker.DockerClient(base_url=f"unix://{tmp_path}/gone.sock", version="1.41")
    with pytest.raises(TestbedError, match="does not answer any more"), answering():
        client.api.inspect_container("tb.lab.ue1")
    with pytest.raises(TestbedError, match=r"did not list containers: it does not answer$"):
        find(client, "lab")

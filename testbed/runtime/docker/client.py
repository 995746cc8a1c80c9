"""A client of this host's engine, by Docker's SDK, and its errors in words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import docker
from docker.credentials.errors import StoreError
from docker.errors import DockerException

from testbed.errors import HostError, TestbedError
from testbed.runtime.docker.engine import ELSE_NETNS, config_folder, require_local, security_options


def connect(timeout_seconds: float = 60.0) -> docker.DockerClient:
    """A client of the host's engine. Raises HostError when none answers, or one that is not on this machine."""
    address = require_local()
    try:
        client = docker.DockerClient(base_url=address, timeout=int(timeout_seconds))
        client.ping()
    except (DockerException, OSError) as error:
        raise HostError(
            f"No Docker Engine answers ({error})",
            fix="Start it (`service docker start`, or `dockerd` as root), or use --runtime netns.",
        ) from error
    return client


@contextmanager
def engine_errors(doing: str) -> Iterator[None]:
    """What the engine or its SDK raises in here: HostError for a credentials helper that fails, else TestbedError."""
    try:
        yield
    except (StoreError, DockerException, OSError) as error:  # OSError: requests' own, when the engine goes away
        if isinstance(error, StoreError) or "Credentials store error" in str(error):
            raise HostError(
                f"{doing}: docker's credentials helper fails ({error})",
                fix=f"Install it, or take it (credsStore, credHelpers) out of {config_folder() / 'config.json'}; "
                f"DOCKER_CONFIG may name another folder.",
            ) from error
        raise TestbedError(f"{doing}: the Docker Engine failed: {error}") from error


def require() -> docker.DockerClient:
    """A client of an engine that the docker runtime can use. Raises HostError that says why there is none."""
    if os.geteuid() != 0:
        raise HostError(
            "The docker runtime moves wires into containers",
            missing="root",
            fix="Run as root (sudo), or use --runtime netns.",
        )
    client = connect()
    if "rootless" in security_options(client):
        client.close()
        raise HostError(
            "The Docker Engine is a rootless one: its containers cannot be given wires and caps",
            fix=f"Unset DOCKER_HOST, or choose the system's engine (docker context use default), {ELSE_NETNS}",
        )
    return client

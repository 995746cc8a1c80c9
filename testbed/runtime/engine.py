"""Containers of ours, for commands that mostly have nothing to do with them: no SDK is loaded where no engine runs."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from testbed.errors import HostError
from testbed.runtime.base import Owned

if TYPE_CHECKING:
    import docker

DEFAULT_SOCKET = "/var/run/docker.sock"


def may_answer() -> bool:
    """Whether something listens where this user's engine would. Takes microseconds; false for another user's socket."""
    host = os.environ.get("DOCKER_HOST", f"unix://{DEFAULT_SOCKET}")
    if not host.startswith("unix://"):
        return True  # the client finds out
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(host.removeprefix("unix://"))
        except OSError:
            return False
    return True


def client_if_any() -> docker.DockerClient | None:
    """A client of the engine; None where none answers."""
    if not may_answer():
        return None
    from testbed.runtime.docker_build import connect

    try:
        return connect(timeout_seconds=20)
    except HostError:
        return None


def list_containers(lab: str | None = None, *, running: bool = False) -> list[Owned]:
    """Containers of one lab, or of all; also those that have ended, unless ``running``.

    Raises TestbedError when an engine answers, and then fails.
    """
    client = client_if_any()
    if client is None:
        return []
    from testbed.runtime.docker_nodes import list_owned

    try:
        return list_owned(client, lab, running=running)
    finally:
        client.close()


def remove_containers(lab: str) -> None:
    """Remove a lab's containers, found by label. Raises TestbedError when the engine refuses."""
    client = client_if_any()
    if client is None:
        return
    from testbed.runtime.docker_nodes import remove

    try:
        remove(client, lab)
    finally:
        client.close()

"""What of ours an engine has, if there is one. No SDK is loaded where no engine runs: most commands have nothing to do
with containers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from testbed.errors import HostError
from testbed.runtime.base import Owned
from testbed.runtime.docker.engine import may_answer

if TYPE_CHECKING:
    import docker


def client_if_any() -> docker.DockerClient | None:
    """A client of the local engine; None where none answers."""
    if not may_answer():
        return None
    from testbed.runtime.docker.client import connect

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
    from testbed.runtime.docker.docker_nodes import list_owned

    try:
        return list_owned(client, lab, running=running)
    finally:
        client.close()


def remove_containers(lab: str) -> None:
    """Remove a lab's containers, found by label. Raises TestbedError when the engine refuses."""
    client = client_if_any()
    if client is None:
        return
    from testbed.runtime.docker.docker_nodes import remove

    try:
        remove(client, lab)
    finally:
        client.close()

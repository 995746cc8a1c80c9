"""The Docker Engine of this host: where it answers, whether its containers are ours to steer, and what of ours it has.

No SDK is loaded where no engine runs: most commands have nothing to do with containers.

Wires, caps and priorities are set by a container's process id. An engine on another machine, or outside of the
container that this program runs in, numbers processes differently: nothing must be done to what its numbers mean here.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.errors import HostError
from testbed.runtime.base import Owned

if TYPE_CHECKING:
    import docker

DEFAULT_HOST = "unix:///var/run/docker.sock"
_NETNS = "or use --runtime netns."


def host() -> str:
    """Address of the engine that the ``docker`` command would ask: DOCKER_HOST, else that of the current context.

    Raises HostError for a context that does not exist.
    """
    if named := os.environ.get("DOCKER_HOST"):
        return named
    folder = config_folder()
    context = os.environ.get("DOCKER_CONTEXT") or _read(folder / "config.json").get("currentContext") or "default"
    if context == "default":
        return DEFAULT_HOST
    meta = folder / "contexts" / "meta" / hashlib.sha256(str(context).encode()).hexdigest() / "meta.json"
    found = _read(meta).get("Endpoints", {}).get("docker", {}).get("Host")
    if not found:
        raise HostError(
            f"the docker context {context!r} names no engine ({meta})",
            fix=f"Choose another (docker context use), {_NETNS}",
        )
    return str(found)


def config_folder() -> Path:
    """Where the ``docker`` command keeps its settings."""
    return Path(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))  # noqa: PTH111 - there may be no home


def require_local() -> str:
    """Address of the engine. Raises HostError where none listens, or one that is not on this machine."""
    address = host()
    if not address.startswith("unix://"):
        raise HostError(
            f"The Docker Engine at {address} is reached over a network: its processes may be of another machine",
            fix=f"Unset DOCKER_HOST, or choose the context of a local engine (docker context use default), {_NETNS}",
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address.removeprefix("unix://"))
        except OSError as error:
            raise HostError(
                f"No Docker Engine answers at {address} ({error.strerror or error})",
                fix=f"Start it (`service docker start`, or `dockerd` as root), {_NETNS}",
            ) from None
        peer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    if struct.unpack("3i", peer)[0] == 0:
        raise HostError(
            f"The Docker Engine at {address} runs outside of this container: its process ids mean nothing in here",
            fix=f"Run the testbed where the engine runs, {_NETNS}",
        )
    return address


def require() -> docker.DockerClient:
    """A client of an engine that the docker runtime can use. Raises HostError that says why there is none."""
    if os.geteuid() != 0:
        raise HostError(
            "The docker runtime moves wires into containers",
            missing="root",
            fix="Run as root (sudo), or use --runtime netns.",
        )
    from testbed.runtime.docker.docker_build import connect

    client = connect()
    if "rootless" in security_options(client):
        client.close()
        raise HostError(
            "The Docker Engine is a rootless one: its containers cannot be given wires and caps",
            fix=f"Unset DOCKER_HOST, or choose the system's engine (docker context use default), {_NETNS}",
        )
    return client


@lru_cache(maxsize=8)
def security_options(client: docker.DockerClient) -> frozenset[str]:
    """Names under "Security Options" of ``docker info``: "seccomp", "selinux", "userns", "rootless", ..."""
    return options_of(client.info())


def options_of(information: dict[str, Any]) -> frozenset[str]:
    """The names in what an engine says of itself: ``name=seccomp,profile=default`` is "seccomp"."""
    found = information.get("SecurityOptions") or []
    return frozenset(option.partition(",")[0].removeprefix("name=") for option in found)


def may_answer() -> bool:
    """Whether something listens where the local engine would. Takes microseconds."""
    try:
        require_local()
    except HostError:
        return False
    return True


def client_if_any() -> docker.DockerClient | None:
    """A client of the local engine; None where none answers."""
    if not may_answer():
        return None
    from testbed.runtime.docker.docker_build import connect

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


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

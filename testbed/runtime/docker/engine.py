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

if TYPE_CHECKING:
    import docker

DEFAULT_HOST = "unix:///var/run/docker.sock"
ELSE_NETNS = "or use --runtime netns."


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
            fix=f"Choose another (docker context use), {ELSE_NETNS}",
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
            fix="Unset DOCKER_HOST, or choose the context of a local engine (docker context use default), "
            f"{ELSE_NETNS}",
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address.removeprefix("unix://"))
        except OSError as error:
            raise HostError(
                f"No Docker Engine answers at {address} ({error.strerror or error})",
                fix=f"Start it (`service docker start`, or `dockerd` as root), {ELSE_NETNS}",
            ) from None
        peer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    if struct.unpack("3i", peer)[0] == 0:
        raise HostError(
            f"The Docker Engine at {address} runs outside of this container: its process ids mean nothing in here",
            fix=f"Run the testbed where the engine runs, {ELSE_NETNS}",
        )
    return address


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


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

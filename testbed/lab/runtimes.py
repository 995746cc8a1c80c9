"""Which runtime a lab gets: what ``--runtime auto`` means on this host, and the object that makes its nodes."""

from __future__ import annotations

from collections.abc import Callable

from testbed.errors import HostError
from testbed.lab.plan import RuntimeName
from testbed.labfile.policy import Notify
from testbed.labfile.schema_base import Wanted
from testbed.runtime.base import Runtime
from testbed.runtime.docker.client import require
from testbed.runtime.host.gpu import check_host
from testbed.runtime.host.state import state_root
from testbed.runtime.netns.netns_runtime import NetnsRuntime

RUNTIME_CHOICES = ("auto", "docker", "netns")


def select(choice: str, notify: Callable[[str], None]) -> RuntimeName:
    """``auto`` is docker where an engine answers and has this checkout's node image, else netns; says which."""
    if choice == "docker":
        return "docker"
    if choice == "netns":
        return "netns"
    runtime, reason = _choose()
    notify(f"runtime {runtime}: {reason}")
    return runtime


def _choose() -> tuple[RuntimeName, str]:
    try:
        client = require()
    except HostError as error:
        return "netns", error.text
    from testbed.runtime.docker.docker_build import has_image
    from testbed.runtime.docker.images import node_tag

    try:
        if has_image(client, node_tag()):
            return "docker", "an engine answers and has the node image"
    except HostError:
        return "netns", "images are built from a checkout of the project, and this is none"
    finally:
        client.close()
    return "netns", "the engine has no node image of this code (`testbed images build` makes it)"


def check_gpu(kind: RuntimeName, gpu: Wanted) -> None:
    """Before anything is started: raises HostError when a GPU is required and the edge cannot have one."""
    if kind == "docker":
        from testbed.runtime.docker.engine_gpu import check_engine

        check_engine(gpu)
    else:
        check_host(gpu)


def runtime_of(
    kind: RuntimeName, lab: str, run_id: str, *, gpu: Wanted = "off", notify: Notify = lambda _: None
) -> Runtime:
    """The runtime object of a lab. ``gpu`` and ``notify`` matter to one that is to be created."""
    if kind == "docker":
        from testbed.runtime.docker.docker_runtime import DockerRuntime

        return DockerRuntime(lab, state_root() / lab, run_id, gpu=gpu, progress=notify)
    return NetnsRuntime(lab, state_root() / lab, run_id)

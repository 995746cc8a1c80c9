"""Which runtime ``--runtime auto`` means on this host."""

from __future__ import annotations

from collections.abc import Callable

from testbed.errors import HostError
from testbed.lab.plan import RuntimeName
from testbed.runtime.docker.client import require

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

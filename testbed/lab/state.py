"""What a lab was made from (``lab.json`` in its directory), and which labs there are.

What is needed to find a lab again is on the system (names, cgroups, processes); its state only adds to that.
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from testbed.errors import InputError, TestbedError, first_line
from testbed.folders import write_whole
from testbed.lab.plan import RuntimeName
from testbed.labfile.schema_base import Wanted
from testbed.runtime.base import NodeSpec
from testbed.runtime.docker.presence import list_containers
from testbed.runtime.host.state import state_root
from testbed.runtime.netns import rootless
from testbed.runtime.processes.discovery import list_owned

STATE_FILE = "lab.json"


class LabState(msgspec.Struct, frozen=True):
    """What a lab was made from (``LAB_DIR/lab.json``)."""

    name: str
    run_id: str
    runtime: RuntimeName
    policy: str
    run_directory: str
    created_utc: str
    resolved_lab: dict[str, Any]
    nodes: tuple[NodeSpec, ...]
    realtime: bool = True  # until a thread could not be made so
    urls: dict[str, str] = {}


class LabUnreadableError(TestbedError):
    """What a lab was made from cannot be read; what it put on the system can still be found and removed."""


def write_state(state: LabState) -> None:
    path = state_root() / state.name / STATE_FILE
    write_whole(path, msgspec.json.format(msgspec.json.encode(state), indent=1))


def read_state(name: str) -> tuple[LabState, Wanted]:
    """What a lab was made from, and whether its edge has a GPU. Raises InputError, LabUnreadableError."""
    path = state_root() / name / STATE_FILE
    try:
        state = msgspec.json.decode(path.read_bytes(), type=LabState)
        gpu: Wanted = state.resolved_lab["edge"]["gpu"]
    except FileNotFoundError:
        raise InputError("no such lab is up", value=name, allowed=", ".join(existing()) or "none is up") from None
    except (msgspec.DecodeError, UnicodeDecodeError, OSError, LookupError, TypeError) as error:
        raise LabUnreadableError(
            f"what lab {name!r} was made from cannot be read ({path}: {first_line(error)}), as after a full disk or by "
            f"another version of the testbed. Take it down with: testbed down {name}"
        ) from error
    return state, gpu


def existing() -> list[str]:
    """Names of all labs that have anything on this system, alive or in pieces."""
    labs = {owned.lab for owned in list_owned()}
    with contextlib.suppress(TestbedError):  # labs are known by their directories, too
        labs |= {owned.lab for owned in list_containers()}
    if rootless.needed():
        labs |= {holder.lab for holder in rootless.holders()}
    return sorted(labs)


class _Runtime(msgspec.Struct):
    runtime: str = ""


def was_docker(name: str) -> bool:
    """As far as a state file that cannot be read tells."""
    try:
        return msgspec.json.decode((state_root() / name / STATE_FILE).read_bytes(), type=_Runtime).runtime == "docker"
    except (msgspec.DecodeError, UnicodeDecodeError, OSError):
        return False

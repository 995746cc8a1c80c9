"""Where the processes of a lab hear each other: UNIX sockets ``LAB_DIR/ipc/NODE/NAME``.

``NODE/control``: a node's agent, or the player, connects a DEALER; the controller hears that node alone.
``.operator/control``: the command line connects a DEALER; no node can reach it.
``NODE/records``: everybody PUSHes what it records; the recorder hears it.
``.operator/live``: the recorder publishes every record (PUB).
"""

from __future__ import annotations

from pathlib import Path

from testbed.runtime.base import OPERATOR


def socket_path(lab_directory: str | Path, node: str, name: str) -> Path:
    """A socket of a node. Its folder is all that a container sees of the lab's sockets."""
    return Path(lab_directory) / "ipc" / node / name


def control_endpoint(lab_directory: str | Path, node: str) -> str:
    return f"ipc://{socket_path(lab_directory, node, 'control')}"


def records_endpoint(lab_directory: str | Path, node: str) -> str:
    return f"ipc://{socket_path(lab_directory, node, 'records')}"


def make_folder(endpoint: str) -> None:
    """The folder of a socket that is to be bound."""
    Path(endpoint.removeprefix("ipc://")).parent.mkdir(parents=True, exist_ok=True)


def live_endpoint(lab_directory: str | Path) -> str:
    return f"ipc://{socket_path(lab_directory, OPERATOR, 'live')}"

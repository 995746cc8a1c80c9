"""What a container runs: ``python3 -m testbed.runtime.docker.docker_entry LAB_DIRECTORY NODE PREPARATION``.

It imports and loads what its program will need while the host still plumbs the wires, says so (:data:`WARM`), waits
for its order in its folder, and then *is* the program: the container ends when the program does.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

import msgspec

from testbed.errors import InputError
from testbed.runtime.processes.zygote import Preparation, carry_out

POLL_SECONDS = 0.01
#: Orders are written whole: one that cannot be read was torn later, as by a full disk.
UNREADABLE = "(a program)"


class StartOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which program to become."""

    program: str  # module with main(config_path)
    config: str


#: The one place that a container can write to; the host sees it through /proc.
WARM = Path("/tmp/testbed.warm")


def orders(lab_directory: Path, node: str) -> Path:
    """Folder of what a node is told: its order, and the configuration of its program."""
    return lab_directory / "orders" / node


def order_path(lab_directory: Path, node: str) -> Path:
    return orders(lab_directory, node) / "order"


def program_of(lab_directory: Path, node: str) -> str:
    """The program that a node was told; empty before, :data:`UNREADABLE` where the order was torn after it."""
    try:
        return msgspec.json.decode(order_path(lab_directory, node).read_bytes(), type=StartOrder).program
    except FileNotFoundError:
        return ""
    except (msgspec.DecodeError, UnicodeDecodeError):
        return UNREADABLE


def wait_for_order(lab_directory: Path, node: str) -> StartOrder:
    """Blocks until the host has written the order (by rename, so that it is never seen in part)."""
    path = order_path(lab_directory, node)
    while not path.exists():
        time.sleep(POLL_SECONDS)
    return msgspec.json.decode(path.read_bytes(), type=StartOrder)


def main(lab_directory: Path, node: str, preparation: Preparation) -> None:
    try:
        carry_out(preparation)
    except InputError as error:  # of a user's model: what to do about it, without our stack
        sys.exit(f"error: {error}")
    WARM.touch()
    order = wait_for_order(lab_directory, node)
    importlib.import_module(order.program).main(Path(order.config))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], msgspec.json.decode(sys.argv[3], type=Preparation))

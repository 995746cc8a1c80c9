"""Without root a lab lives in a user namespace of its own: the same command line, run again in there."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from testbed.runtime import rootless


def again(arguments: Sequence[str] | None = None) -> list[str]:
    """This command line."""
    return [sys.executable, "-m", "testbed", *(sys.argv[1:] if arguments is None else arguments)]


def enter(lab: str) -> None:
    """For verbs that make a lab: without root, run again in the lab's user namespace (made if need be), and end.

    Returns where that is not needed. Raises HostError where no user namespace can be made.
    """
    if not rootless.needed():
        return
    holders = rootless.holders(lab)
    sys.exit(rootless.run_in_lab(holders[0], again()) if holders else rootless.run_in_new(lab, again()))

"""Without root a lab lives in a user namespace of its own: the same command line, run again in there."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from testbed.runtime.netns import rootless
from testbed.runtime.processes.lab_lock import lab_lock


def again(arguments: Sequence[str] | None = None) -> list[str]:
    """This command line."""
    return [sys.executable, "-P", "-m", "testbed", *(sys.argv[1:] if arguments is None else arguments)]


def enter(lab: str, doing: str) -> None:
    """For verbs that make a lab: without root, run again in the lab's user namespace (made if need be), and end.

    Returns where that is not needed. ``doing`` is what others are told (:func:`lab_lock`). Raises HostError where no
    user namespace can be made, LabBusyError while another command works on this lab.
    """
    if not rootless.needed():
        return
    with lab_lock(lab, doing) as lock:
        holders = rootless.holders(lab)
        code = rootless.run_in_lab(holders[0], again(), lock) if holders else rootless.run_in_new(lab, again(), lock)
    sys.exit(code)

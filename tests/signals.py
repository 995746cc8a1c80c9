"""What ends a command: a shell or nohup that starts the tests may have them, and so their children, ignore it."""

from __future__ import annotations

import signal


def heard() -> None:
    """For ``preexec_fn``: the child hears Ctrl-C, SIGTERM and SIGHUP, whoever started the tests."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)

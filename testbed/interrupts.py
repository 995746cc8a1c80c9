"""Signals that end a command: Ctrl-C, SIGTERM (timeout, systemd, batch schedulers) and SIGHUP (a closed terminal).

Each is raised in the main thread as KeyboardInterrupt, once: the command then takes down what it began, and a second
signal must not stop it from doing so. What must not be cut short holds them back (:func:`held`).
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class _State:
    number: int = 0  # the first that came; 0: none
    again: int = 0  # Ctrl-C after that
    holds: int = 0
    due: bool = False  # came while held


_state = _State()


def install() -> None:
    """Raise KeyboardInterrupt for each of them, but for those that whoever started this process ignores (nohup)."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _receive)


def exit_code() -> int:
    """What a shell shows for a process that the signal ended: 130, 143 or 129."""
    return 128 + (_state.number or signal.SIGINT)


@contextmanager
def held() -> Iterator[None]:
    """A signal that comes in here is raised at the end."""
    _state.holds += 1
    try:
        yield
    finally:
        _state.holds -= 1
        if _state.due and not _state.holds:
            _state.due = False
            raise KeyboardInterrupt


def _receive(number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGHUP:
        _leave_terminal()
    if not _state.number:
        _state.number = number
        if not _state.holds:
            raise KeyboardInterrupt
        _state.due = True
    elif number == signal.SIGINT:
        _state.again += 1
        if _state.again > 1:
            raise KeyboardInterrupt
        with suppress(OSError):
            os.write(2, b"- taking down what was started; Ctrl-C once more leaves it as it is\n")


def _leave_terminal() -> None:
    """What is written to a terminal that has gone is an error, and would stop what has yet to be done."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(null, stream)
    os.close(null)

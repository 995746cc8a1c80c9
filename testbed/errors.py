"""The errors that a user may see. ``cli`` turns each into one paragraph and an exit code; core code only raises."""

from __future__ import annotations

import errno
from pathlib import PurePath


def first_line(error: BaseException) -> str:
    """What an error of a library says, without what it adds below; its type if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def os_error_text(error: OSError) -> str:
    """``FILE: REASON``, and what to do about reasons that a user can change."""
    files = [str(name) for name in (error.filename, error.filename2) if name is not None]
    if not files and error.errno in _OF_WRITING:
        files = _handled(error)
    reason = error.strerror or first_line(error)
    hint = _HINTS.get(error.errno or 0, "")
    return f"{': '.join([' -> '.join(files), reason] if files else [reason])}.{f' {hint}' if hint else ''}"


#: Only opening a file names it in an error, and these come when it is written.
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _handled(error: OSError) -> list[str]:
    """The file that was being written."""
    found: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        paths = [value for value in trace.tb_frame.f_locals.values() if isinstance(value, PurePath)]
        found = [str(paths[-1])] if paths else found
        trace = trace.tb_next
    return found


_HINTS = {
    errno.EACCES: "This user may not do that: look at the owner and mode of it and of the folders above it.",
    errno.EPERM: "This user may not do that.",
    errno.ENOSPC: "Free some space there, or have it written elsewhere.",
    errno.EDQUOT: "This user's quota is used up: free some space there.",
    errno.EROFS: "Name a place on a file system that can be written to.",
    errno.ENOTDIR: "A file is where a folder would have to be.",
    errno.EMFILE: "Raise the limit on open files (ulimit -n).",
}


class TestbedError(Exception):
    """Something failed while running."""

    __test__ = False  # not a pytest class
    exit_code = 1


class InputError(TestbedError):
    """Bad input: what, where, the value, what is allowed, what to do. Nothing was started."""

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", value: object = None, allowed: str = "", fix: str = "") -> None:
        self.what, self.where, self.value, self.allowed, self.fix = what, where, value, allowed, fix
        parts = [f"{where}: {what}" if where else what]
        if value is not None:
            parts.append(f"got {value!r}")
        if allowed:
            parts.append(f"allowed: {allowed}")
        text = "; ".join(parts) + "."
        super().__init__(f"{text} {fix}".strip())


class HostError(TestbedError):
    """The host lacks something: what was asked, what is missing, the ways to get it."""

    exit_code = 3

    def __init__(self, what: str, *, missing: str = "", fix: str = "") -> None:
        self.fix = fix
        self.text = text = what if not missing else f"{what}: {missing} is missing on this host"
        super().__init__(f"{text}. {fix}".strip())


class InvalidRunError(TestbedError):
    """The run finished, but its figures must not be used: the host could not keep up, tasks or records are missing."""

    exit_code = 4

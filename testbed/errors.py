"""The errors that a user may see. ``cli`` turns each into one paragraph and an exit code; core code only raises."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """What an error of a library says, without what it adds below; its type if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


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
        text = what if not missing else f"{what}: {missing} is missing on this host"
        super().__init__(f"{text}. {fix}".strip())


class InvalidRunError(TestbedError):
    """The run finished, but its figures must not be used: the host could not keep up, tasks or records are missing."""

    exit_code = 4

"""Commands as processes of their own: labs are made by ``testbed run`` and ``testbed up``, whoever asks for them.

The command finds its user namespace where there is no root, hears signals, and dies without the notebook.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from testbed.errors import HostError, InputError, TestbedError

INVALID = 4  # the exit code of a run that finished, but whose figures must not be used
_SECONDS = re.compile(r"(\d+) s of (\d+) s")


def command(arguments: Sequence[str], heard: Callable[[str], None]) -> str:
    """What ``testbed ARGUMENT...`` prints; each line of its progress goes to ``heard``.

    Raises InputError, HostError or TestbedError with the command's paragraph. Ctrl-C (KeyboardInterrupt) ends the
    command as it does in a terminal, and waits until it has tidied up.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "testbed", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a notebook's Ctrl-C reaches all of its group; this one is told once
    )
    failures: list[str] = []
    reader = threading.Thread(target=_read, args=(process, heard, failures), daemon=True)
    reader.start()
    assert process.stdout is not None
    try:
        printed = process.stdout.read()
        code = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    finally:
        reader.join(timeout=5.0)
    if code in (0, INVALID):
        return printed
    text = " ".join(failures) or f"`testbed {' '.join(arguments)}` ended with exit code {code}"
    kinds: dict[int, Callable[[str], TestbedError]] = {2: InputError, 3: HostError}
    raise kinds.get(code, TestbedError)(text.rstrip("."))


def _read(process: subprocess.Popen[str], heard: Callable[[str], None], failures: list[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        text = line.strip()
        if text.startswith("error: "):
            failures.append(text.removeprefix("error: "))
        elif text.startswith("warning: "):
            warnings.warn(text.removeprefix("warning: "), stacklevel=2)
        elif text:
            heard(text.removeprefix("- "))


class Bar(AbstractContextManager["Bar"]):
    """A progress bar; ``shown`` None: where somebody looks, at a terminal or at a notebook."""

    def __init__(self, title: str, total_seconds: float | None, *, shown: bool | None) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, disable=not (_is_watched() if shown is None else shown), transient=True)
        self._task = self._progress.add_task(title, total=total_seconds)
        self._title = title

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, text: str) -> None:
        """A line of the command's progress."""
        if found := _SECONDS.match(text):
            self._progress.update(self._task, completed=float(found[1]), description=f"{self._title}: running")
        else:
            self._progress.update(self._task, description=f"{self._title}: {text[:60]}")


def _is_watched() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules

"""What is done inside a network namespace by a thread that entered it: batches of ``ip`` and ``tc``, and sysctls."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from testbed.errors import HostError, TestbedError
from testbed.runtime.host import executables


def batch(program: str, lines: Sequence[str], *, force: bool = False) -> None:
    """``ip -batch -`` or ``tc -batch -`` in the calling thread's namespace. Raises TestbedError with what failed,
    HostError without that program.

    ``force`` goes on after a line that fails and then raises nothing.
    """
    if not lines:
        return
    command = [*executables.require("making wires", program), *(["-force"] if force else []), "-batch", "-"]
    answer = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    if answer.returncode != 0 and not force:
        reason = " ".join(answer.stderr.split())
        failed = reason.rpartition("-:")[2].rstrip()
        line = f" ({lines[int(failed) - 1]!r})" if failed.isdigit() and 0 < int(failed) <= len(lines) else ""
        raise TestbedError(f"{program} -batch failed: {reason}{line}")


def write_sysctls(values: Mapping[str, str], optional: frozenset[str] = frozenset()) -> None:
    """Write ``net/...`` sysctls of the calling thread's namespace; ``optional`` ones only where the kernel has them.

    Raises HostError for one that is refused or lacks.
    """
    for key, value in values.items():
        path = Path("/proc/sys") / key
        try:
            path.write_text(value, encoding="ascii")
        except FileNotFoundError:
            if key not in optional:
                raise HostError(f"setting {key} to {value}", missing="that sysctl") from None
        except OSError as error:
            raise HostError(f"setting {key} to {value} was refused: {error.strerror}") from None

"""``python -m testbed.runtime.netns.launch LAB_DIRECTORY SPEC STARTED``: one program without torch, and a parent that
outlives the command line to record how it ended. ``STARTED`` is a descriptor: a byte tells that the start is recorded.

``python -m testbed.runtime.netns.launch --exec PLACE COMMAND...``: become a command inside a node.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from testbed.runtime.host import executables
from testbed.runtime.processes.child import (
    LOG_SECONDS,
    ChildSpec,
    ProcessEvent,
    become,
    cap_log,
    enter,
    record,
    run_program,
    start_ticks,
)


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where ``exec`` goes."""

    namespace: str
    cgroups: tuple[str, ...]


def supervise(lab_directory: Path, spec: ChildSpec, started: int) -> None:
    """Fork; the child runs the program, the parent caps its log, waits for it and records its end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # to be waited for
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.close(started)
        become(spec)
        run_program(spec)
        return
    ticks = start_ticks(pid)
    record(lab_directory, ProcessEvent("start", spec.node, spec.program, pid, ticks))
    with suppress(BrokenPipeError):  # whoever started us has ended
        os.write(started, b"\n")
    os.close(started)
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        signal.sigtimedwait({signal.SIGCHLD}, LOG_SECONDS)
        cap_log(Path(spec.log))
    _, status = ended
    code = os.waitstatus_to_exitcode(status)
    if lab_directory.is_dir():
        record(lab_directory, ProcessEvent("exit", spec.node, spec.program, pid, ticks, code))


def execute(place: Place, command: list[str]) -> int:
    """Replace this process by ``command`` inside the node. Returns 127 if there is no such command, as a shell does."""
    enter(place.cgroups, place.namespace)
    os.environ["PATH"] = executables.search_path()  # `ip` and `tc` are what is mostly asked for
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        sys.stderr.write(f"{command[0]}: command not found\n")
        return 127
    except PermissionError:
        sys.stderr.write(f"{command[0]}: permission denied\n")
        return 126


if __name__ == "__main__":
    if sys.argv[1] == "--exec":
        sys.exit(execute(msgspec.json.decode(sys.argv[2], type=Place), sys.argv[3:]))
    supervise(Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=ChildSpec), int(sys.argv[3]))

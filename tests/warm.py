"""The command line without its start: a process that has imported it once, and forks for each command.

A command is what ``python -m testbed ARGUMENT...`` is - a process of its own with the arguments, environment, folder
and pipes that it was given, that hears signals and ends with its exit code - but for a second of imports. What judges
the start itself, PATH, users or signals starts the real one.

``python -m tests.warm DESCRIPTOR`` serves one connection: a JSON text, with the three standard descriptors and one to
tell on, is answered on the latter with the pid, and with the exit status once it has ended.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.signals import heard

ROOT = Path(__file__).parents[1]
#: What verbs import when they need it; torch is not among it.
LATER = ("testbed.report.conclude", "testbed.runtime.docker.docker_runtime", "testbed.monitoring.bringup")
WITH_TORCH = {"train"}


class Command(subprocess.Popen[str]):
    """A command, forked by this process's server: a child of that, and so waited for through it."""

    def __init__(self, arguments: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
        self._told, self._tell = os.pipe()
        pipe = subprocess.PIPE
        super().__init__(arguments, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)

    def _execute_child(self, *given: Any) -> None:  # its arguments: see subprocess.Popen of CPython, 3.2 to 3.14
        arguments, folder, environment = given[0], given[5], given[6]
        to_close = set()
        read, out, errors = given[10], given[13], given[15]
        if read == -1:
            read = os.open(os.devnull, os.O_RDONLY)
            to_close.add(read)
        request = {"arguments": arguments, "folder": str(folder), "environment": environment}
        socket.send_fds(server(), [json.dumps(request).encode()], [read, out, errors, self._tell])
        for descriptor in (*to_close, out, errors, self._tell):
            os.close(descriptor)
        self.pid = int(self._line())
        self._child_created = True

    def _line(self) -> bytes:
        """What the server says next; empty if it is gone."""
        line = b""
        while not line.endswith(b"\n") and (byte := os.read(self._told, 1)):
            line += byte
        return line

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._line())
            os.close(self._told)
        return self.returncode


@cache
def server() -> socket.socket:
    """This process's connection to its server, which is started, and ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    subprocess.Popen(
        [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # a child of a process with threads may hang
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    return ours


def serve(connection: socket.socket) -> list[str]:
    """Fork on request. Returns in a child only, with its arguments; the process ends when the connection does."""
    running: dict[int, int] = {}  # pid: descriptor to tell on
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(ended, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C is for pytest, which then ends this process
    while True:
        ready = select.select([connection, ended], [], [])[0]
        if ended in ready:
            os.read(ended, 4096)
            reap(running)
        if connection not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 4)
        if not message:
            os._exit(0)
        if (pid := os.fork()) == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            heard()
            for descriptor in (connection.detach(), ended, wake, *running.values()):
                os.close(descriptor)
            return become(json.loads(message), descriptors)
        for descriptor in descriptors[:3]:
            os.close(descriptor)
        running[pid] = descriptors[3]
        os.write(descriptors[3], b"%d\n" % pid)


def reap(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        descriptor = running.pop(pid)
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
            os.write(descriptor, b"%d\n" % os.waitstatus_to_exitcode(status))
        os.close(descriptor)


def become(request: dict[str, Any], descriptors: list[int]) -> list[str]:
    """Be the command that was asked for, in a child; returns its arguments."""
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    # as an interpreter makes them; the server's own may be of another kind
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    os.chdir(request["folder"])
    arguments: list[str] = request["arguments"]
    sys.argv = [str(ROOT / "testbed" / "__main__.py"), *arguments]
    return arguments


def main() -> None:
    del sys.path[0]  # as __main__.py does with the present directory
    from testbed.cli.main import VERBS, main

    for verb in set(VERBS) - WITH_TORCH:
        importlib.import_module(f"testbed.cli.{VERBS[verb]}")
    for name in LATER:
        importlib.import_module(name)
    assert "torch" not in sys.modules
    threads = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    assert len(threads - {"jemalloc_bg_thd"}) == 1, threads  # pyarrow's allocator has one, and knows of forks
    gc.collect()
    gc.freeze()
    main(serve(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()

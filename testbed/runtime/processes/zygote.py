"""The process that imports torch once and forks a lab's agents.

``python -m testbed.runtime.processes.zygote LAB_DIRECTORY PREPARATION``. Until it forks it runs one thread, no CUDA and
no ZeroMQ: after a multi-threaded operation in the parent, a child hangs in its first convolution. It belongs to the
lab, not to the command that started it, and serves a UNIX socket: one :class:`ForkRequest` per connection, answered by
a
:class:`ForkReply`, each a JSON text ended by end-of-file.
"""

from __future__ import annotations

import gc
import importlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from testbed.errors import TestbedError
from testbed.runtime.processes.child import (
    LOG_SECONDS,
    ChildSpec,
    ProcessEvent,
    become,
    cap_log,
    record,
    run_program,
    start_ticks,
)

_SOCKET = "ipc/.operator/zygote"
_LOG = "logs/zygote.log"


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function to call before the first fork, so that children share what it caches (copy on write)."""

    target: str  # "package.module:function"
    arguments: tuple[str | int | float | bool | None, ...] = ()


class Preparation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the zygote does before it serves: imports, then calls."""

    imports: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()


class ForkRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    children: tuple[ChildSpec, ...]


class ForkReply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pids: tuple[int, ...]


# ------------------------------------------------------------------------------------------------------------- client


class ZygoteClient:
    """The zygote as the runtime sees it. It may have been started by another command, or have died."""

    def __init__(self, lab_directory: Path) -> None:
        self._lab_directory = lab_directory
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self, environment: Mapping[str, str], preparation: Preparation) -> None:
        """Start one; returns at once, while it imports."""
        (self._lab_directory / _SOCKET).unlink(missing_ok=True)
        with (self._lab_directory / _LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "testbed.runtime.processes.zygote"),
                    *(str(self._lab_directory), msgspec.json.encode(preparation).decode()),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def alive(self) -> bool:
        """Whether one serves, or is on its way to."""
        if self._process is not None:
            return self._process.poll() is None
        try:
            self._connect().close()
        except OSError:
            return False
        return True

    def fork(self, children: Sequence[ChildSpec], timeout_seconds: float = 120.0) -> tuple[int, ...]:
        """Fork children; waits until the imports are done. Raises TestbedError with the end of its log if it died."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                connection = self._connect()
                break
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if not self._starting() or time.monotonic() > deadline:
                    raise self._died() from error
                time.sleep(0.005)
        with connection:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                connection.sendall(msgspec.json.encode(ForkRequest(tuple(children))))
                connection.shutdown(socket.SHUT_WR)
                reply = _receive(connection)
            except TimeoutError as error:
                raise TestbedError(f"the zygote did not answer within {timeout_seconds:.0f} s") from error
            except ConnectionError as error:
                raise self._died() from error
        try:
            return msgspec.json.decode(reply, type=ForkReply).pids
        except msgspec.DecodeError as error:  # none, or a part: it was killed
            raise self._died() from error

    def reap(self) -> None:
        """Collect the exit status of a zygote that this process started and that has been killed."""
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _starting(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(self._lab_directory / _SOCKET))
        except OSError:
            connection.close()
            raise
        return connection

    def _died(self) -> TestbedError:
        log = self._lab_directory / _LOG
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        tail = " | ".join(lines[-4:]) if lines else "its log is empty"
        return TestbedError(f"the process that forks the agents ended before it served ({log}): {tail}")


# ------------------------------------------------------------------------------------------------------------- server


def prepare(preparation: Preparation) -> None:
    """Import and call what the children shall share. Raises TestbedError if that started threads."""
    carry_out(preparation)
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise TestbedError(f"{threads} threads before the first fork: children would hang; a model starts threads")
    # Objects of the parent would otherwise be written to, and so copied, by each child's first collection.
    gc.collect()
    gc.freeze()


def carry_out(preparation: Preparation) -> None:
    """Import, then call, with one thread for torch."""
    for name in preparation.imports:
        module = importlib.import_module(name)
        if name == "torch":
            module.set_num_threads(1)
    for call in preparation.calls:
        module_name, _, function = call.target.partition(":")
        getattr(importlib.import_module(module_name), function)(*call.arguments)


def serve(listener: socket.socket, lab_directory: Path) -> ChildSpec | None:
    """Fork on request and record how children end. Returns only in a child, with what it has to be.

    Returning, instead of running the program down here, lets a child end like any Python program.
    """
    wake_read, wake_write = socket.socketpair()
    wake_read.setblocking(False)
    wake_write.setblocking(False)
    old_wakeup = signal.set_wakeup_fd(wake_write.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, ProcessEvent] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select(LOG_SECONDS)}
            for node in ("zygote", *(event.node for event in running.values())):
                cap_log(lab_directory / "logs" / f"{node}.log")
            if wake_read in ready:
                wake_read.recv(4096)
            _reap(running, lab_directory)
            if not lab_directory.is_dir():
                return None
            if listener in ready:
                connection, _ = listener.accept()
                with connection:
                    message = _receive(connection)
                    if not message:  # somebody only looked whether we live
                        continue
                    request = msgspec.json.decode(message, type=ForkRequest)
                    spec = _fork_all(request, running, lab_directory)
                    if spec is None:
                        reply = ForkReply(tuple(running)[len(running) - len(request.children) :])
                        connection.sendall(msgspec.json.encode(reply))
                        # the children hold copies: closing ours alone would not end the answer
                        connection.shutdown(socket.SHUT_RDWR)
                        continue
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.set_wakeup_fd(old_wakeup)
                wake_read.close()
                wake_write.close()
                listener.close()
                return spec


def _fork_all(request: ForkRequest, running: dict[int, ProcessEvent], lab_directory: Path) -> ChildSpec | None:
    """Fork each child; None in the parent, its own specification in a child."""
    for spec in request.children:
        pid = os.fork()
        if pid == 0:
            return spec
        event = ProcessEvent("start", spec.node, spec.program, pid, start_ticks(pid))
        record(lab_directory, event)
        running[pid] = event
    return None


def _reap(running: dict[int, ProcessEvent], lab_directory: Path) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        event = running.pop(pid)
        if lab_directory.is_dir():
            code = os.waitstatus_to_exitcode(status)
            record(lab_directory, ProcessEvent("exit", event.node, event.program, pid, event.start_ticks, code))


def _receive(connection: socket.socket) -> bytes:
    parts: list[bytes] = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def main(arguments: Sequence[str]) -> None:
    """Serve; in a child, be the child."""
    lab_directory = Path(arguments[0])
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Listening comes first: a request that arrives during the imports waits in the backlog.
    listener.bind(str(lab_directory / _SOCKET))
    listener.listen(16)
    try:
        prepare(msgspec.json.decode(arguments[1], type=Preparation))
    except TestbedError as error:  # what to do about it, without our stack
        sys.exit(f"error: {error}")
    spec = serve(listener, lab_directory)
    if spec is not None:
        become(spec)
        run_program(spec)
        # Fifty interpreters that take torch apart need seconds of CPU; the program has closed what it opened.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])

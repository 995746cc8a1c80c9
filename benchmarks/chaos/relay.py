"""A socket between a lab's commands and the engine, so that the engine can be gone for this lab and nobody else."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path

from testbed.runtime.docker.engine import DEFAULT_HOST


class Relay:
    """Listens at a path and passes everything on to the real engine, until :meth:`cut`; :meth:`mend` begins anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self.mend()

    @property
    def address(self) -> str:
        return f"unix://{self.path}"

    def mend(self) -> None:
        if self._listener is None:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self.path))
            self._listener.listen(64)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """As when an engine ends: its socket is gone, and so are its connections."""
        listener, self._listener = self._listener, None
        self.path.unlink(missing_ok=True)
        for one in (*self._open, *([listener] if listener else [])):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(DEFAULT_HOST.removeprefix("unix://"))
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_pass, args=(one, other), daemon=True).start()


def _pass(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for one in (source, target):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)

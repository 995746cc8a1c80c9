"""A TCP connection between a UE and the edge that a test can slow down, break, and damage."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time

_BLOCK_BYTES = 4096
_DOWN_BLOCK_BYTES = 1024


class RoughWire:
    """Listens on :attr:`port` and forwards to ``target_port``: up at ``bits_per_second``, down at its own rate."""

    def __init__(self, target_port: int, bits_per_second: float, down_bits_per_second: float = math.inf) -> None:
        self.target_port = target_port
        self.bits_per_second = bits_per_second
        self.down_bits_per_second = down_bits_per_second
        self.up_bytes = self.down_bytes = 0
        self.damage_after: int | None = None  # bytes up, from the start: one byte is flipped in the block that follows
        self.closed = False  # nothing connects
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break what is connected; a new connection may come."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.closed:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:
                near.close()
                continue
            self._sockets += [near, far]
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._forward, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._forward, args=(far, near, False), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        due = time.monotonic()
        with contextlib.suppress(OSError):
            while data := source.recv(_BLOCK_BYTES if up else _DOWN_BLOCK_BYTES):
                if up:
                    data = self._damaged(data)
                rate = self.bits_per_second if up else self.down_bits_per_second
                due = max(due, time.monotonic()) + len(data) * 8 / rate
                time.sleep(max(0.0, due - time.monotonic()))
                if up:
                    self.up_bytes += len(data)
                else:
                    self.down_bytes += len(data)
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _damaged(self, data: bytes) -> bytes:
        if self.damage_after is None or self.up_bytes < self.damage_after or len(data) < _BLOCK_BYTES:
            return data
        self.damage_after = None
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 0x40]) + data[middle + 1 :]

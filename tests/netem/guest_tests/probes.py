"""What a wire does to packets, seen at the receiver's interface (imported by the tests that run in the guest)."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.runtime.host.namespaces import run_inside

_STAMP = struct.Struct("=qqi")  # when it was sent, its number, padding
_TIMESPEC = struct.Struct("=qq")
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35  # asm-generic/socket.h; CPython does not name them
_PORT = 7000
_QUEUE_BYTES = 8 << 20
_SETTLE_SECONDS = 0.3


@dataclass(frozen=True)
class Packets:
    """What arrived of a train of packets, in the order of arrival."""

    numbers: NDArray[np.int64]
    delays_seconds: NDArray[np.float64]
    sent: int

    @property
    def lost(self) -> int:
        return self.sent - len(np.unique(self.numbers))


def send_train(
    sender: str, receiver: str, address: str, count: int, interval_seconds: float, *, drain_seconds: float
) -> Packets:
    """Datagrams at even intervals from one namespace to ``address`` in another; sender and receiver share a clock.

    A delay is from before the call that sends to the kernel's stamp at the receiver's interface: how late the
    receiving program wakes up is not in it.
    """
    arrived: list[tuple[int, float]] = []
    with _socket(receiver, address) as receiving, run_inside(sender, _datagram_socket) as sending:
        ended = threading.Event()
        thread = threading.Thread(target=_receive, args=(receiving, arrived, ended))
        thread.start()
        sending.connect((address, _PORT))
        start = time.monotonic()
        for number in range(count):
            if (left := start + number * interval_seconds - time.monotonic()) > 0:
                time.sleep(left)
            sending.send(_STAMP.pack(time.time_ns(), number, 0))
        time.sleep(drain_seconds + _SETTLE_SECONDS)
        ended.set()
        thread.join()
    numbers = np.array([number for number, _ in arrived], dtype=np.int64)
    delays = np.array([delay for _, delay in arrived])
    return Packets(numbers, delays, count)


@contextmanager
def echo(namespace: str, address: str) -> Iterator[None]:
    """Sends every datagram back to where it came from."""
    with _socket(namespace, address) as answering:
        ended = threading.Event()

        def body() -> None:
            while not ended.is_set():
                try:
                    data, origin = answering.recvfrom(2048)
                except TimeoutError:
                    continue
                answering.sendto(data, origin)

        thread = threading.Thread(target=body)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def round_trips(sender: str, address: str, count: int, timeout_seconds: float = 2.0) -> NDArray[np.float64]:
    """Seconds until an :func:`echo` answered, one after the other."""
    times = []
    with run_inside(sender, _datagram_socket) as asking:
        asking.settimeout(timeout_seconds)
        asking.connect((address, _PORT))
        for _ in range(count):
            start = time.monotonic()
            asking.send(b"x" * 64)
            asking.recv(2048)
            times.append(time.monotonic() - start)
    return np.array(times)


def _datagram_socket() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _QUEUE_BYTES)
    return made


def _socket(namespace: str, address: str) -> socket.socket:
    def bind() -> socket.socket:
        made = _datagram_socket()
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE_BYTES)
        made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        made.bind((address, _PORT))
        made.settimeout(0.2)
        return made

    return run_inside(namespace, bind)


def _receive(receiving: socket.socket, arrived: list[tuple[int, float]], ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            data, ancillary, _, _ = receiving.recvmsg(256, 256)
        except TimeoutError:
            continue
        seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2][: _TIMESPEC.size])
        sent, number, _ = _STAMP.unpack(data)
        arrived.append((number, (seconds * 1_000_000_000 + nanoseconds - sent) * 1e-9))

"""Traffic of our own through a wire: how fast it really is, and when it is back after an outage."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from controller.frames import FRAMING_RATIO
from testbed.errors import TestbedError
from testbed.runtime.host.namespaces import run_inside

_CHUNK = bytes(1 << 16)
_CONNECT_SECONDS = 10.0
#: Reading counters takes some tens of microseconds.
_PROMPT_SECONDS = 0.5e-3


@dataclass(frozen=True)
class Arrivals:
    """What a flow's receiver saw: cumulative payload bytes and when (CLOCK_MONOTONIC), one entry per read."""

    times_seconds: NDArray[np.float64]
    total_bytes: NDArray[np.float64]

    def bytes_until(self, time_seconds: float) -> float:
        position = int(np.searchsorted(self.times_seconds, time_seconds, side="right"))
        return float(self.total_bytes[position - 1]) if position else 0.0

    def bits_per_second(self, start_seconds: float, end_seconds: float) -> float:
        """Layer-2 rate between two times."""
        payload = self.bytes_until(end_seconds) - self.bytes_until(start_seconds)
        return payload * 8 * FRAMING_RATIO / (end_seconds - start_seconds)

    def first_after(self, time_seconds: float) -> float:
        """When the first byte after a time came; inf if none did."""
        position = int(np.searchsorted(self.times_seconds, time_seconds, side="right"))
        return float(self.times_seconds[position]) if position < self.times_seconds.size else float("inf")


class Counter:
    """Layer-2 bytes that an interface receives, read from its counters while in the context.

    Each reading is as old as it says, so that a program which is woken late sees windows of another length, not of
    another rate. Not for wires with segmentation offload: the headers of a super-packet count once.
    """

    def __init__(self, namespace: str, interface: str, every_seconds: float = 0.02) -> None:
        self._every_seconds = every_seconds
        self._interface = interface
        counters = Path("/proc/thread-self/net/dev")  # of the namespace that opens it
        self._file = run_inside(namespace, lambda: counters.open("rb", buffering=0))
        self._ending = threading.Event()
        self._times: list[float] = []
        self._bytes: list[int] = []
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Counter:
        self._read()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._file.close()

    def between(self, start_seconds: float, end_seconds: float) -> tuple[float, float, float]:
        """The times of the readings next to two (CLOCK_MONOTONIC), and the bits that came between them."""
        count = len(self._bytes)
        times = np.array(self._times[:count])
        first, last = (int(np.abs(times - at).argmin()) for at in (start_seconds, end_seconds))
        return float(times[first]), float(times[last]), 8.0 * (self._bytes[last] - self._bytes[first])

    def _watch(self) -> None:
        while not self._ending.wait(self._every_seconds):
            self._read()

    def _read(self) -> None:
        before = time.monotonic()
        self._file.seek(0)
        text = self._file.read()
        after = time.monotonic()
        if after - before > _PROMPT_SECONDS:
            return  # interrupted: nobody knows when it was counted
        for line in text.decode("ascii").splitlines():
            name, colon, values = line.partition(":")
            if colon and name.strip() == self._interface:
                self._times.append((before + after) / 2)
                self._bytes.append(int(values.split()[0]))


class Flow:
    """A TCP flow that always has something to send, between two namespaces, from entering the context to leaving it."""

    def __init__(self, sender: str, receiver: str, address: str, *, port: int = 5001, send_buffer: int = 0) -> None:
        def listen() -> socket.socket:
            listening = socket.socket()
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((address, port))
            listening.listen(1)
            return listening

        def connect() -> socket.socket:
            sending = socket.socket()
            if send_buffer:
                sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
            sending.settimeout(_CONNECT_SECONDS)
            try:
                sending.connect((address, port))
            except OSError as error:
                sending.close()
                raise TestbedError(f"no connection from {sender} to {receiver} ({address}): {error}") from None
            return sending

        with run_inside(receiver, listen) as listening:
            self._sending = run_inside(sender, connect)
            self._receiving, _ = listening.accept()
        self._ending = threading.Event()
        self._times: list[float] = []
        self._totals: list[int] = []
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]

    def __enter__(self) -> Flow:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        for end in (self._sending, self._receiving):
            end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in (self._sending, self._receiving):
            end.close()

    def arrivals(self) -> Arrivals:
        """What has arrived so far."""
        count = len(self._totals)
        return Arrivals(np.array(self._times[:count]), np.array(self._totals[:count], dtype=np.float64))

    def _send(self) -> None:
        self._sending.settimeout(None)
        try:
            while not self._ending.is_set():
                self._sending.send(_CHUNK)
        except OSError:
            if not self._ending.is_set():
                raise

    def _receive(self) -> None:
        buffer = bytearray(len(_CHUNK))
        total = 0
        try:
            while count := self._receiving.recv_into(buffer):
                total += count
                self._times.append(time.monotonic())
                self._totals.append(total)
        except ConnectionResetError:  # what was still queued found its reader gone
            if not self._ending.is_set():
                raise


def measure_rate(
    sender: str, receiver: str, address: str, seconds: float, *, settle_seconds: float = 0.5, port: int = 5001
) -> float:
    """Layer-2 bit/s of a saturating TCP flow, after it has settled. Raises TestbedError if nothing gets through."""
    with Flow(sender, receiver, address, port=port) as flow:
        time.sleep(settle_seconds)
        start = time.monotonic()
        time.sleep(seconds)
        end = time.monotonic()
        arrivals = flow.arrivals()
    rate = arrivals.bits_per_second(start, end)
    if rate == 0:
        raise TestbedError(f"nothing arrived from {sender} at {receiver} within {seconds:g} s")
    return rate

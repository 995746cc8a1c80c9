"""Round trips through wires: ICMP echoes, answered by the kernel at the other end and stamped by the one at this end.

No program is woken between question and answer, so what is measured is the wire, whatever else the host does.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from testbed.runtime.host.namespaces import run_inside
from testbed.wires.stamps import ask_for_stamps, stamped_packets

_REQUEST, _REPLY = 8, 0
_ICMP = struct.Struct("!BBHHH")
_PAYLOAD = bytes(48)


@dataclass
class Echoes:
    """What came of the echoes through one wire."""

    sent: int = 0
    round_trips_seconds: list[float] = field(default_factory=list)

    @property
    def answered(self) -> int:
        return len(self.round_trips_seconds)

    @property
    def median_seconds(self) -> float:
        """nan without an answer."""
        return float(np.median(self.round_trips_seconds)) if self.round_trips_seconds else float("nan")

    @property
    def mean_seconds(self) -> float:
        return float(np.mean(self.round_trips_seconds)) if self.round_trips_seconds else float("nan")


def round_trips(
    paths: Mapping[str, tuple[str, str]], count: int, interval_seconds: float, patience_seconds: float
) -> dict[str, Echoes]:
    """Send ``count`` echoes through each of several wires, all wires at once.

    ``paths``: by any name, the namespace to send from and the address to ask. Answers are waited for until
    ``patience_seconds`` after the last echo. Raises OSError where raw sockets are refused.
    """
    with ExitStack() as stack:
        probes = {
            name: _Probe(stack.enter_context(run_inside(namespace, _raw_socket)), address, number)
            for number, (name, (namespace, address)) in enumerate(paths.items())
        }
        poller = select.poll()
        by_descriptor = {probe.socket.fileno(): probe for probe in probes.values()}
        for descriptor in by_descriptor:
            poller.register(descriptor, select.POLLIN)

        def listen_until(deadline_seconds: float) -> None:
            while (left := deadline_seconds - time.monotonic()) > 0:
                for descriptor, _ in poller.poll(left * 1e3):
                    by_descriptor[descriptor].receive()

        start = time.monotonic()
        for number in range(count):
            for probe in probes.values():
                probe.send(number)
            listen_until(start + (number + 1) * interval_seconds)
        deadline = time.monotonic() + patience_seconds
        while time.monotonic() < deadline and any(probe.echoes.answered < count for probe in probes.values()):
            listen_until(min(deadline, time.monotonic() + 0.01))
        return {name: probe.echoes for name, probe in probes.items()}


def _raw_socket() -> socket.socket:
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
    ask_for_stamps(raw)
    return raw


class _Probe:
    def __init__(self, raw: socket.socket, address: str, number: int) -> None:
        self.socket = raw
        self.echoes = Echoes()
        self._address = address
        self._identifier = (os.getpid() + number) & 0xFFFF
        self._sent_seconds: dict[int, float] = {}

    def send(self, number: int) -> None:
        message = bytearray(_ICMP.pack(_REQUEST, 0, 0, self._identifier, number) + _PAYLOAD)
        struct.pack_into("!H", message, 2, _checksum(message))
        self._sent_seconds[number] = time.time()
        self.socket.sendto(message, (self._address, 0))
        self.echoes.sent += 1

    def receive(self) -> None:
        for packet, arrived in stamped_packets(self.socket):
            header = (packet[0] & 0xF) * 4  # the IP header comes with it
            kind, _, _, identifier, number = _ICMP.unpack_from(packet, header)
            sent = self._sent_seconds.pop(number, None) if kind == _REPLY and identifier == self._identifier else None
            if sent is None:  # of somebody else, or a duplicate
                continue
            self.echoes.round_trips_seconds.append(arrived - sent)


def _checksum(message: bytes | bytearray) -> int:
    total: int = sum(struct.unpack(f"!{len(message) // 2}H", message))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF

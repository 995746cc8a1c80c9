"""Arrival times that the kernel puts on packets: no program's wake-up is in them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator

_SO_TIMESTAMPNS = getattr(socket, "SO_TIMESTAMPNS", 35)
_TIMESTAMP = struct.Struct("qq")  # struct timespec, CLOCK_REALTIME
_LARGEST_PACKET_BYTES, _ANCILLARY_BYTES = 2048, 64


def ask_for_stamps(receiver: socket.socket) -> None:
    """From now on each packet that comes bears a stamp."""
    receiver.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def stamped_packets(receiver: socket.socket) -> Iterator[tuple[bytes, float]]:
    """What has come to a socket that does not block: packets with the CLOCK_REALTIME at which each arrived.

    Those that came before :func:`ask_for_stamps` are dropped.
    """
    while True:
        try:
            packet, ancillary, _, _ = receiver.recvmsg(_LARGEST_PACKET_BYTES, _ANCILLARY_BYTES)
        except BlockingIOError:
            return
        arrived = _stamp_seconds(ancillary)
        if arrived is not None:
            yield packet, arrived


def _stamp_seconds(ancillary: Iterable[tuple[int, int, bytes]]) -> float | None:
    for _, what, data in ancillary:
        if what == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESTAMP.unpack(data)
            return float(seconds + nanoseconds * 1e-9)
    return None

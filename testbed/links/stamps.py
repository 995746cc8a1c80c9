"""Arrival times that the kernel puts on packets: no program's wake-up is in them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

_SO_TIMESTAMPNS = getattr(socket, "SO_TIMESTAMPNS", 35)
_TIMESTAMP = struct.Struct("qq")  # struct timespec, CLOCK_REALTIME


def ask_for_stamps(receiver: socket.socket) -> None:
    """From now on ``recvmsg`` gives a stamp with each packet."""
    receiver.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def stamp_seconds(ancillary: Iterable[tuple[int, int, bytes]]) -> float | None:
    """CLOCK_REALTIME at which a packet arrived; None if it bears no stamp."""
    for _, what, data in ancillary:
        if what == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESTAMP.unpack(data)
            return float(seconds + nanoseconds * 1e-9)
    return None

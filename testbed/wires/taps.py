"""What went into the filters of vde wires and what came out of them: the losses that they were told to make.

A filter says nothing of what it lost, but the kernel counts the packets on both of its TAPs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from testbed.runtime.host.namespaces import run_inside
from testbed.wires.vde import tap_in, tap_out

_RECEIVED_PACKETS, _SENT_PACKETS = 1, 9  # columns of /proc/net/dev behind the name


class TapCounters:
    """Of the filtered ports in one namespace. Not thread-safe."""

    def __init__(self, radio_namespace: str, ports: Iterable[str]) -> None:
        self._ports = tuple(ports)
        # The file shows the namespace in which it was opened.
        self._file: TextIO | None = run_inside(radio_namespace, _open) if self._ports else None
        self._missing = self._read()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def lost(self) -> dict[str, int]:
        """Packets that each filter took and did not give back since the last call.

        What a filter delays at the moment counts as lost now, and as less than nothing when it comes: sums are right.
        """
        before, self._missing = self._missing, self._read()
        return {port: missing - before.get(port, 0) for port, missing in self._missing.items()}

    def _read(self) -> dict[str, int]:
        if self._file is None:
            return {}
        self._file.seek(0)
        counters = {
            name.strip(): [int(word) for word in values.split()]
            for name, _, values in (line.partition(":") for line in self._file.readlines()[2:])
        }
        return {
            port: counters[tap_in(port)][_SENT_PACKETS] - counters[tap_out(port)][_RECEIVED_PACKETS]
            for port in self._ports
            if tap_in(port) in counters and tap_out(port) in counters
        }


def _open() -> TextIO:
    return Path("/proc/thread-self/net/dev").open(encoding="ascii")

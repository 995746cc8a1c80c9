"""What the kernel says of a lab's links now: rates, queues, drops."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from testbed.errors import TestbedError
from testbed.runtime.host import executables
from testbed.runtime.host.namespaces import run_inside

_RATE = re.compile(r"class htb 1:1 .*? rate ([0-9.]+)([KMG]?)bit")
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class DirectionState:
    """One direction of one link."""

    ue: str
    direction: str  # "up" | "down"
    rate_bits_per_second: float
    backlog_bytes: int
    sent_bytes: int
    dropped_packets: int


def link_states(radio_namespace: str, ues: Sequence[str]) -> list[DirectionState]:
    """Both directions of every UE's link; ``ues`` in the order of their indices. Raises TestbedError if it is gone."""

    [tc] = executables.require("reading the links", "tc")

    def ask(*arguments: str) -> str:
        return subprocess.run([tc, *arguments], capture_output=True, text=True, check=True).stdout

    def read() -> list[DirectionState]:
        qdiscs: list[dict[str, Any]] = json.loads(ask("-json", "-s", "qdisc", "show") or "[]")
        leaves = {str(qdisc["dev"]): qdisc for qdisc in qdiscs if qdisc.get("parent") == "1:1"}
        states = []
        for index, ue in enumerate(ues):
            for direction, port in (("up", f"e{index}"), ("down", f"u{index}")):
                leaf = leaves[port]
                # not JSON: what tc 6.1 (Debian 12) prints for a class with -json cannot be parsed
                shaper = _RATE.search(ask("class", "show", "dev", port))
                if shaper is None:
                    raise TestbedError(f"{port} in {radio_namespace} has no shaper")
                states.append(
                    DirectionState(
                        ue,
                        direction,
                        float(shaper[1]) * _UNITS[shaper[2]],
                        int(leaf["backlog"]),
                        int(leaf["bytes"]),
                        int(leaf["drops"]),
                    )
                )
        return states

    return run_inside(radio_namespace, read)

"""What the kernel says of a lab's links now: rates, queues, drops."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from testbed.runtime.namespaces import run_inside


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

    def ask(*arguments: str) -> list[dict[str, Any]]:
        answer = subprocess.run(["tc", "-json", "-s", *arguments], capture_output=True, text=True, check=True)
        listed: list[dict[str, Any]] = json.loads(answer.stdout or "[]")
        return listed

    def read() -> list[DirectionState]:
        leaves = {str(qdisc["dev"]): qdisc for qdisc in ask("qdisc", "show") if qdisc.get("parent") == "1:1"}
        states = []
        for index, ue in enumerate(ues):
            for direction, port in (("up", f"e{index}"), ("down", f"u{index}")):
                leaf = leaves[port]
                (shaper,) = (c for c in ask("class", "show", "dev", port) if c.get("class") == "htb")
                states.append(
                    DirectionState(
                        ue,
                        direction,
                        8.0 * float(shaper["rate"]),  # tc's JSON counts bytes
                        int(leaf["backlog"]),
                        int(leaf["bytes"]),
                        int(leaf["drops"]),
                    )
                )
        return states

    return run_inside(radio_namespace, read)

"""Which cores of the host each part of a lab may use, so that UEs cannot disturb the edge, controller and player."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from testbed.runtime.base import Role

Mode = Literal["auto", "off", "split"]

#: With fewer, a core of their own for the edge and for what steers would leave the UEs too little.
RESERVE_FROM_CORES = 4


@dataclass(frozen=True)
class Cpusets:
    """Core lists as the kernel writes them (``0-2,5``); empty: all cores, shared."""

    steering: str = ""  # controller, player, recorder
    edge: str = ""
    ues: str = ""
    shared_because: str = ""  # why there are none

    def of(self, role: Role) -> str:
        match role:
            case "ue":
                return self.ues
            case "edge":
                return self.edge
            case "controller" | "player" | "recorder" | "exporter":
                return self.steering
            case "radio":  # a namespace: nothing runs in it
                return ""


SHARED = Cpusets(shared_because="not asked for")


def assign(mode: Mode, cores: Sequence[int], possible: bool) -> Cpusets:
    """Divide the host's ``cores``. ``possible``: whether nodes can be kept on some of them here.

    From four cores on the first is for what steers, the second for the edge (its tails run on one), the others are the
    UEs'. ``split`` also divides two or three: the first for all but the UEs. Raises ValueError for one core.
    """
    if mode == "off":
        return Cpusets(shared_because="the lab says cpusets: off")
    if not possible:
        return Cpusets(shared_because="this host lets us have no cpuset")
    if len(cores) >= RESERVE_FROM_CORES:
        return Cpusets(kernel_list(cores[:1]), kernel_list(cores[1:2]), kernel_list(cores[2:]))
    if mode == "auto":
        return Cpusets(shared_because=f"{len(cores)} cores; they are divided from {RESERVE_FROM_CORES} on")
    if len(cores) < 2:
        raise ValueError("cpusets: split needs two cores, and this host has one")
    return Cpusets(kernel_list(cores[:1]), kernel_list(cores[:1]), kernel_list(cores[1:]))


def kernel_list(cores: Sequence[int]) -> str:
    """``[0, 1, 2, 5]`` -> ``0-2,5``."""
    parts = []
    for _, group in itertools.groupby(enumerate(sorted(cores)), lambda pair: pair[1] - pair[0]):
        run = [core for _, core in group]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(parts)

"""The options of the kernel's ``netem``, as linux/pkt_sched.h has them."""

from __future__ import annotations

import struct
from functools import cache
from statistics import NormalDist

from testbed.wires.impairment import Distribution, Impairment
from testbed.wires.netlink import attribute

_CORRELATIONS, _DISTRIBUTION, _REORDER, _CORRUPT, _LOSS, _LATENCY64, _JITTER64 = 1, 2, 3, 4, 5, 10, 11
_LOSS_GILBERT_ELLIOTT = 2
_U32_MAX = 0xFFFF_FFFF
_TABLE_ENTRIES, _TABLE_SCALE = 4096, 8192  # a standard deviation is 8192


def netem_options(impairment: Impairment, limit_packets: int) -> bytes:
    """All of them. Correlations are 0; without a table of its own a jitter keeps the distribution that was sent."""
    bursts = impairment.bursts
    reorder = _share(impairment.reorder_ratio)
    options = struct.pack(
        "=IIIIII",
        0,  # delay in ticks: sent in nanoseconds below
        limit_packets,
        _share(impairment.loss_ratio if bursts is None else 0.0),
        1 if reorder else 0,  # gap
        _share(impairment.duplicate_ratio),
        0,  # jitter in ticks
    )
    options += attribute(_CORRELATIONS, bytes(12))
    options += attribute(_REORDER, struct.pack("=II", reorder, 0))
    options += attribute(_CORRUPT, struct.pack("=II", _share(impairment.corrupt_ratio), 0))
    if bursts is not None:
        states = struct.pack("=IIII", _share(bursts.p), _share(bursts.r), _share(1 - bursts.bad), _share(bursts.good))
        options += attribute(_LOSS | 0x8000, attribute(_LOSS_GILBERT_ELLIOTT, states))
    options += attribute(_LATENCY64, struct.pack("=q", round(impairment.delay_seconds * 1e9)))
    options += attribute(_JITTER64, struct.pack("=q", round(impairment.jitter_seconds * 1e9)))
    return options


@cache
def distribution_table(distribution: Distribution) -> bytes:
    """The attribute that makes jitter normal; nothing for a uniform one, which is the kernel's own."""
    if distribution == "uniform":
        return b""
    law = NormalDist()
    values = [round(_TABLE_SCALE * law.inv_cdf((k + 0.5) / _TABLE_ENTRIES)) for k in range(_TABLE_ENTRIES)]
    clipped = [max(-32768, min(32767, value)) for value in values]
    return attribute(_DISTRIBUTION, struct.pack(f"={_TABLE_ENTRIES}h", *clipped))


def _share(ratio: float) -> int:
    return min(_U32_MAX, round(ratio * _U32_MAX))

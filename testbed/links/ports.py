"""What is in force on each direction of each wire, and bringing the kernel to what is wanted."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from testbed.configs import LinkConfig
from testbed.errors import TestbedError
from testbed.links.impairment import Impairment
from testbed.links.netlink import QdiscStatistics
from testbed.links.shaping import FRAME_BYTES, Shaper
from testbed.links.vde import Filters
from testbed.links.wire import DEFAULT_LEAF_BYTES, packets_of, under_way_bytes
from testbed.messages import ChannelDrops

Direction = Literal["up", "down"]

#: What a wire in outage lets through at least: a packet of 1514 bytes holds HTB up for 0.76 s, and that is the longest
#: that the wire may still stand still when the outage is over. Where its end is nearer the rate is higher, so that the
#: packet which leaves at its beginning is paid for at its end.
OUTAGE_BITS_PER_SECOND = 16e3
OUTAGE_FRAME_SECONDS = FRAME_BYTES * 8 / OUTAGE_BITS_PER_SECOND

#: HTB pays for a packet when it leaves, in time and at the rate of that moment: here a frame takes 5 ms,
#: below it more, and after a step up the wire stands still for up to as long. What it then owes is made up for.
SLOW_BITS_PER_SECOND = FRAME_BYTES * 8 / 5e-3
#: ... by at most this part of the rate, and no more than this is owed.
MAKE_UP_RATIO = 0.25
OWED_SECONDS = 1.0

#: Losses of an honest netem lie within so many standard deviations; what is beyond was not ordered.
_DEVIATIONS = 6


@dataclass
class Port:
    """One direction of one wire."""

    name: str
    direction: Direction
    config: LinkConfig
    lab: Impairment
    planned_bits_per_second: float = math.nan
    applied_bits_per_second: float = math.nan  # planned, or an outage's; without what is made up for
    sent_to_kernel: float = math.nan
    outage: bool = False
    #: the leaf's limit as the wire was made; what it has when the port is not in an outage by loss
    leaf_bytes: int | None = None
    #: of a netem leaf
    leaf_packets: int | None = None
    impairment: Impairment | None = None  # in force; None: not known
    #: the greatest loss that was in force since the last statistics
    lossiest: Impairment | None = None
    dropping: bool = False
    #: dropped on purpose at some time since the last statistics
    dropped_on_purpose: bool = False
    played_delay_seconds: float | None = None
    played_loss_ratio: float | None = None
    command_bits_per_second: float | None = None
    command_delay_seconds: float | None = None
    command_jitter_seconds: float | None = None
    command_loss_ratio: float | None = None
    since_seconds: float = field(default_factory=time.monotonic)
    bits: float = 0.0
    #: the planned rate since the last :meth:`Ports.settle`
    unsettled_bits: float = 0.0
    #: what was missing (or too much) then
    owed_bits: float = 0.0
    #: what the rate in force pays of it
    paying_bits: float = 0.0
    was_backlogged: bool = False
    counted_bytes: int = 0
    sent_bytes: int = 0
    sent_packets: int = 0
    dropped_packets: int = 0

    @property
    def ue(self) -> str:
        return self.config.ue

    def reset(self) -> None:
        """Give everything that was commanded back to lab, trace and decision."""
        self.command_bits_per_second = self.command_delay_seconds = None
        self.command_jitter_seconds = self.command_loss_ratio = None

    def wanted_impairment(self) -> Impairment:
        """The lab's, with what is played and what is commanded."""
        played = self.lab.merged(self.played_delay_seconds, None, self.played_loss_ratio)
        return played.merged(self.command_delay_seconds, self.command_jitter_seconds, self.command_loss_ratio)

    def advance(self, now_seconds: float) -> None:
        """Add the rates up to now."""
        if not math.isnan(self.applied_bits_per_second):
            elapsed = now_seconds - self.since_seconds
            self.bits += self.applied_bits_per_second * elapsed
            self.unsettled_bits += self.planned_bits_per_second * elapsed
        self.since_seconds = now_seconds

    def made_up(self, bits_per_second: float, seconds: float) -> float:
        """The rate that also pays what is owed, if nothing else comes for ``seconds``.

        What the rate before this one pays is no longer owed, though nobody has counted it yet.
        """
        most = MAKE_UP_RATIO * bits_per_second
        extra = max(-most, min(most, (self.owed_bits - self.paying_bits) / max(seconds, 1e-3)))
        self.paying_bits = extra * seconds
        return bits_per_second + extra

    def count(self, leaf: QdiscStatistics) -> None:
        """Counters from which the next differences are taken."""
        self.sent_bytes, self.sent_packets = leaf.sent_bytes, leaf.sent_packets
        self.dropped_packets = leaf.dropped_packets


class Ports:
    """Every port of a lab's wires. Raises TestbedError when one has no shaper."""

    def __init__(self, links: Sequence[LinkConfig], shaper: Shaper) -> None:
        self._shaper = shaper
        self._filters = Filters(shaper.namespace)
        self.by_name: dict[str, Port] = {}
        for link in links:
            self.by_name[link.up_port] = Port(link.up_port, "up", link, link.impairment_up)
            self.by_name[link.down_port] = Port(link.down_port, "down", link, link.impairment_down)
        leaves = shaper.leaves(list(self.by_name))
        for port in self.by_name.values():
            leaf = leaves.get(port.name)
            if leaf is None:
                raise TestbedError(f"the port {port.name!r} has no shaper: is the lab's network up?")
            self._found(port, leaf)

    def _found(self, port: Port, leaf: QdiscStatistics) -> None:
        # 0: a player died in the middle of an outage by loss
        port.leaf_bytes = DEFAULT_LEAF_BYTES if leaf.limit_bytes == 0 else leaf.limit_bytes
        port.dropping = leaf.limit_bytes == 0
        port.leaf_packets = leaf.limit_packets
        if leaf.limit_packets is None and port.name not in self._filters.ports:
            port.impairment = port.lab  # nothing could have changed it
        port.count(leaf)
        port.counted_bytes = leaf.sent_bytes

    def close(self) -> None:
        self._filters.close()

    # ------------------------------------------------------------------------------------------------------- applying

    def apply(
        self,
        wanted_bits_per_second: Mapping[str, float],
        until_seconds: float = math.inf,
        outage_ends_seconds: Mapping[str, float] | None = None,
    ) -> float:
        """Bring the kernel to rates and impairments; returns when it had acknowledged.

        ``until_seconds``: when the next change is expected; what is owed is spread over the time until then.
        ``outage_ends_seconds``: by port, where the end of an outage is in sight. Raises TestbedError for an impairment
        that these wires cannot have; the rates are then as they were.
        """
        ends = outage_ends_seconds or {}
        rates: dict[str, float] = {}
        limits: dict[str, int] = {}
        outages: dict[str, bool] = {}
        targets: dict[str, float] = {}
        start = time.monotonic()
        left = until_seconds - start
        for name, wanted in wanted_bits_per_second.items():
            port = self.by_name[name]
            outages[name] = outage = wanted < port.config.outage_floor_bits_per_second
            targets[name] = target = OUTAGE_BITS_PER_SECOND if outage else wanted
            rate = target
            if port.owed_bits and math.isfinite(left) and not outage:
                rate = port.made_up(target, left)
            else:
                port.paying_bits = 0.0
                if outage and name in ends:
                    rate = max(target, FRAME_BYTES * 8 / max(ends[name] - start, 1e-3))
            if rate != port.sent_to_kernel:
                rates[name] = rate
            dropping = outage and port.config.outage == "loss"
            if dropping != port.dropping and port.leaf_bytes is not None:
                limits[name] = 0 if dropping else port.leaf_bytes
        self._impair(outages, targets)
        if limits:
            self._shaper.set_leaf_limits(limits)
        self._shaper.set_rates(rates)
        now = time.monotonic()
        for name, target in targets.items():
            port = self.by_name[name]
            port.advance(now)
            port.planned_bits_per_second = wanted_bits_per_second[name]
            port.applied_bits_per_second = target
            port.sent_to_kernel = rates.get(name, port.sent_to_kernel)
            port.outage = outages[name]
            port.dropping = outages[name] and port.config.outage == "loss"
            port.dropped_on_purpose |= port.dropping
        return now

    def _impair(self, outages: Mapping[str, bool], targets: Mapping[str, float]) -> None:
        """Change what packets suffer besides the rate, where it differs from what is in force."""
        by_netem: dict[str, tuple[Impairment, int]] = {}
        by_filter: dict[str, Impairment] = {}
        for name, outage in outages.items():
            port = self.by_name[name]
            wanted = port.wanted_impairment()
            if outage and port.config.outage == "loss" and port.leaf_packets is not None:
                wanted = replace(wanted, loss_ratio=1.0, bursts=None)
            if wanted == port.impairment:
                continue
            needed = packets_of(under_way_bytes(targets[name], wanted.delay_seconds))
            if port.leaf_packets is not None:
                by_netem[name] = (wanted, max(port.leaf_packets, needed))
            elif name in self._filters.ports:
                by_filter[name] = wanted
            else:
                self._put_netem(port, wanted, max(needed, packets_of(port.leaf_bytes or DEFAULT_LEAF_BYTES)))
            port.impairment = wanted
            if port.lossiest is None or wanted.mean_loss_ratio > port.lossiest.mean_loss_ratio:
                port.lossiest = wanted
        self._shaper.set_netem(by_netem)
        self._filters.set(by_filter)

    def _put_netem(self, port: Port, wanted: Impairment, limit_packets: int) -> None:
        try:
            self._shaper.put_netem(port.name, wanted, limit_packets)
        except TestbedError as error:
            raise TestbedError(
                f"the link of {port.ue} was made without delay, jitter and loss, and this kernel cannot add them now"
                f" ({error}); give it a small delay in the lab file"
            ) from error
        port.leaf_packets, port.leaf_bytes = limit_packets, None

    # ------------------------------------------------------------------------------------------------------- counting

    def settle(self) -> None:
        """Find out what slow wires that always had something to send owe to their rate.

        A wire with nothing waiting owes nothing: chances that nobody takes are gone.
        """
        slow = [
            port.name
            for port in self.by_name.values()
            if port.owed_bits or port.unsettled_bits or port.applied_bits_per_second < SLOW_BITS_PER_SECOND
        ]
        if not slow:
            return
        leaves = self._shaper.counters(slow)
        now = time.monotonic()
        for name in slow:
            port, leaf = self.by_name[name], leaves[name]
            port.advance(now)
            port.owed_bits += port.unsettled_bits - 8 * (leaf.sent_bytes - port.counted_bytes)
            port.unsettled_bits = 0.0
            port.counted_bytes = leaf.sent_bytes
            backlogged = leaf.backlog_bytes > 0
            if not (backlogged and port.was_backlogged) or port.dropping:
                port.owed_bits = 0.0
            most = OWED_SECONDS * max(port.applied_bits_per_second, SLOW_BITS_PER_SECOND)
            port.owed_bits = max(-most, min(most, port.owed_bits))
            port.was_backlogged = backlogged

    def drops(self) -> list[ChannelDrops]:
        """What each leaf sent, lost by order, and dropped though nobody ordered it, since the last call."""
        now = time.monotonic()
        result = []
        for name, leaf in self._shaper.leaves(list(self.by_name)).items():
            port = self.by_name[name]
            sent, gone = leaf.sent_packets - port.sent_packets, leaf.dropped_packets - port.dropped_packets
            lost = _ordered(gone, sent, port)
            result.append(
                ChannelDrops(
                    ue=port.ue,
                    direction=port.direction,
                    monotonic_seconds=now,
                    sent_bytes=leaf.sent_bytes - port.sent_bytes,
                    dropped_packets=0 if port.dropped_on_purpose else gone - lost,
                    backlog_bytes=leaf.backlog_bytes,
                    sent_packets=sent,
                    lost_packets=lost,
                )
            )
            port.count(leaf)
            port.dropped_on_purpose, port.lossiest = port.dropping, port.impairment
        return result


def _ordered(gone: int, sent: int, port: Port) -> int:
    """How many of the packets that left a leaf unsent its losses explain: netem counts them and its overflow as one.

    Losses of a vde wire are none of its leaf's.
    """
    impairment = port.lossiest
    if port.leaf_packets is None or impairment is None or not impairment.mean_loss_ratio:
        return 0
    loss = impairment.mean_loss_ratio
    # losses in bursts spread wider, by the length of a burst and of what is between two
    spread = 1.0 if impairment.bursts is None else 2 / (impairment.bursts.p + impairment.bursts.r)
    most = loss * (gone + sent) + _DEVIATIONS * math.sqrt(max(1.0, loss * (gone + sent) * spread))
    return min(gone, math.ceil(most))

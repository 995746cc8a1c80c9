"""What is in force on each direction of each wire, and bringing the kernel to what is wanted."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from testbed.errors import TestbedError
from testbed.protocol.configs import LinkConfig
from testbed.protocol.records import ChannelDrops
from testbed.wires.impairment import Impairment
from testbed.wires.netlink import QdiscStatistics
from testbed.wires.shaping import Shaper
from testbed.wires.taps import TapCounters
from testbed.wires.vde import Filters, emulated_delay_seconds
from testbed.wires.wire import DEFAULT_LEAF_BYTES, packets_of, under_way_bytes

Direction = Literal["up", "down"]

#: Losses of an honest netem lie within so many standard deviations; what is beyond was not ordered.
_DEVIATIONS = 6


@dataclass(frozen=True)
class Order:
    """What a port is to do from now on."""

    applied_bits_per_second: float  # 0 in an outage whose end is in sight
    shaper_bits_per_second: float
    outage: bool


@dataclass
class Port:
    """One direction of one wire."""

    name: str
    direction: Direction
    config: LinkConfig
    lab: Impairment
    applied_bits_per_second: float = math.nan
    #: what HTB was told last
    shaper_bits_per_second: float = math.nan
    outage: bool = False
    #: since when it lets nothing through, or something again
    silent_since_seconds: float = math.nan
    #: the leaf's limit as the wire was made; what it has when the port is not in an outage by loss
    leaf_bytes: int | None = None
    #: of a netem leaf
    leaf_packets: int | None = None
    #: vde delays and loses its packets
    filtered: bool = False
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
    sent_bytes: int = 0
    sent_packets: int = 0
    dropped_packets: int = 0

    @property
    def ue(self) -> str:
        return self.config.ue

    @property
    def silent(self) -> bool:
        """Whether it lets nothing through, for as long as somebody foresees."""
        return self.applied_bits_per_second == 0

    @property
    def delay_seconds(self) -> float:
        """In force, as it is emulated."""
        if self.impairment is None:
            return 0.0
        delay = self.impairment.delay_seconds
        return emulated_delay_seconds(delay, self.impairment.jitter_seconds) if self.filtered else delay

    def reset(self) -> None:
        """Give everything that was commanded back to lab, trace and decision."""
        self.command_bits_per_second = self.command_delay_seconds = None
        self.command_jitter_seconds = self.command_loss_ratio = None

    def wanted_impairment(self) -> Impairment:
        """The lab's, with what is played and what is commanded."""
        given = (self.played_delay_seconds, self.played_loss_ratio, self.command_delay_seconds)
        if given == (None, None, None) and self.command_jitter_seconds is None and self.command_loss_ratio is None:
            return self.lab
        played = self.lab.merged(self.played_delay_seconds, None, self.played_loss_ratio)
        return played.merged(self.command_delay_seconds, self.command_jitter_seconds, self.command_loss_ratio)

    def advance(self, now_seconds: float) -> None:
        """Add the rates up to now."""
        if not math.isnan(self.applied_bits_per_second):
            self.bits += self.applied_bits_per_second * (now_seconds - self.since_seconds)
        self.since_seconds = now_seconds

    def count(self, leaf: QdiscStatistics) -> None:
        """Counters from which the next differences are taken."""
        self.sent_bytes, self.sent_packets = leaf.sent_bytes, leaf.sent_packets
        self.dropped_packets = leaf.dropped_packets


class Ports:
    """Every port of a lab's wires. Raises TestbedError when one has no shaper."""

    def __init__(self, links: Sequence[LinkConfig], shaper: Shaper) -> None:
        self._shaper = shaper
        self._filters = Filters(shaper.namespace)
        self._taps = TapCounters(shaper.namespace, self._filters.ports)
        self.by_name: dict[str, Port] = {}
        #: uplinks that fell silent, or did so no longer, and were not told of yet
        self.changed_air: deque[Port] = deque()
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
        port.filtered = port.name in self._filters.ports
        if leaf.limit_packets is None and not port.filtered:
            port.impairment = port.lab  # nothing could have changed it
        port.count(leaf)

    def close(self) -> None:
        self._filters.close()
        self._taps.close()

    # ------------------------------------------------------------------------------------------------------- applying

    def apply(self, orders: Mapping[str, Order]) -> float:
        """Bring the kernel to rates and impairments; returns when it had acknowledged.

        Raises TestbedError for an impairment that these wires cannot have; the rates are then as they were.
        """
        limits: dict[str, int] = {}
        for name, order in orders.items():
            port = self.by_name[name]
            dropping = order.outage and port.config.outage == "loss"
            if dropping != port.dropping and port.leaf_bytes is not None:
                limits[name] = 0 if dropping else port.leaf_bytes
        self._impair(orders)
        if limits:
            self._shaper.set_leaf_limits(limits)
        now = self.tell({name: order.shaper_bits_per_second for name, order in orders.items()})
        for name, order in orders.items():
            port = self.by_name[name]
            port.advance(now)
            silent, port.applied_bits_per_second = port.silent, order.applied_bits_per_second
            if port.silent != silent:
                port.silent_since_seconds = now
                if port.direction == "up":
                    self.changed_air.append(port)
            port.outage = order.outage
            port.dropping = order.outage and port.config.outage == "loss"
            port.dropped_on_purpose |= port.dropping
        return now

    def rehearse(self, orders: Mapping[str, Order]) -> None:
        """All of :meth:`apply` but the kernel's part, so that its code and data are in the CPU's caches then."""
        for name in orders:
            self.by_name[name].wanted_impairment()
        self._shaper.rate_messages(self._untold({name: order.shaper_bits_per_second for name, order in orders.items()}))

    def _untold(self, shaper_bits_per_second: Mapping[str, float]) -> dict[str, float]:
        """Those that differ from what HTB was told."""
        return {
            name: rate
            for name, rate in shaper_bits_per_second.items()
            if rate != self.by_name[name].shaper_bits_per_second
        }

    def tell(self, shaper_bits_per_second: Mapping[str, float]) -> float:
        """Tell HTB rates, where they differ from what it was told; returns when the kernel had acknowledged."""
        self._shaper.set_rates(self._untold(shaper_bits_per_second))
        now = time.monotonic()
        for name, rate in shaper_bits_per_second.items():
            self.by_name[name].shaper_bits_per_second = rate
        return now

    def _impair(self, orders: Mapping[str, Order]) -> None:
        """Change what packets suffer besides the rate, where it differs from what is in force."""
        by_netem: dict[str, tuple[Impairment, int]] = {}
        by_filter: dict[str, Impairment] = {}
        for name, order in orders.items():
            port = self.by_name[name]
            wanted = port.wanted_impairment()
            if order.outage and port.config.outage == "loss" and port.leaf_packets is not None:
                wanted = replace(wanted, loss_ratio=1.0, bursts=None)
            if wanted is port.impairment or wanted == port.impairment:
                continue
            needed = packets_of(under_way_bytes(order.applied_bits_per_second, wanted.delay_seconds))
            if port.leaf_packets is not None:
                by_netem[name] = (wanted, max(port.leaf_packets, needed))
            elif port.filtered:
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

    def drops(self) -> list[ChannelDrops]:
        """What each leaf sent, lost by order, and dropped though nobody ordered it, since the last call."""
        now = time.monotonic()
        result = []
        filtered = self._taps.lost()
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
                    lost_packets=lost + filtered.get(name, 0),
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

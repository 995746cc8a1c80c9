"""The shaper of one wire's direction - an HTB root with one class and one leaf - and changing it in place.

HTB, because it decides when a packet *leaves*: netem fixes that when the packet is queued, so a backlog keeps the old
rate, and TBF refills its bucket at every change (+4 to +15 % at ten changes a second).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from controller.frames import FRAME_BYTES
from testbed.errors import TestbedError
from testbed.wires.impairment import Impairment
from testbed.wires.netem import distribution_table, netem_options
from testbed.wires.netlink import RTM_NEWQDISC, RTM_NEWTCLASS, QdiscStatistics, RouteSocket, attribute, tc_message

#: A wake-up of the shaper that is late by less than this costs nothing: the bucket holds what it missed. Every transfer
#: that begins on an idle link is early by as much, so it is small: with 4 ms a 26 kB tensor at 10 Mbit/s took 19 % less
#: than its bytes over the rate. Less than a frame is fine, since HTB sends while its bucket is not negative.
BURST_SECONDS = 0.5e-3
_MINIMUM_BURST_BYTES = 64
MINIMUM_BITS_PER_SECOND = 8.0  # HTB counts whole bytes and refuses 0

ROOT_HANDLE, CLASS_HANDLE, LEAF_HANDLE = 0x1_0000, 0x1_0001, 0xA_0000  # 1:, 1:1, a:
NETEM_HANDLE = 0xB_0000  # b:, of a netem that came later

_TCA_HTB_PARMS, _TCA_HTB_RATE64, _TCA_HTB_CEIL64 = 1, 6, 7
_LINKLAYER_ETHERNET = 1  # without it the kernel wants iproute2's rate tables
_TICK_SECONDS = 64e-9  # PSCHED_SHIFT 6
_U32_MAX = 0xFFFF_FFFF
_RATE_SPEC = "BBHhHI"
_HTB_OPTIONS = struct.Struct(f"={_RATE_SPEC}{_RATE_SPEC}IIIII")
_HTB_ATTRIBUTES = struct.Struct("=QHHQ")  # the value of RATE64, then CEIL64 with its header


def burst_bytes(bits_per_second: float) -> int:
    """What may leave at once after a pause, beyond one frame: ``BURST_SECONDS`` at the rate."""
    return max(_MINIMUM_BURST_BYTES, round(bits_per_second / 8 * BURST_SECONDS))


def class_parameters(bits_per_second: float) -> str:
    """The same shaper for a ``tc class add ... htb`` line."""
    burst = burst_bytes(bits_per_second)
    rate = max(MINIMUM_BITS_PER_SECOND, bits_per_second)
    return f"rate {round(rate)}bit burst {burst}b cburst {burst}b quantum {FRAME_BYTES}"


class Shaper:
    """The shapers in one namespace, over one long-lived netlink socket. Not thread-safe.

    Ports are interface names. All methods return after the kernel's acknowledgement; they raise TestbedError for a
    port that is not there and for what the kernel refuses.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._route = RouteSocket(namespace)
        self._names = {index: name for name, index in self._route.interfaces.items()}
        self._templates: dict[str, tuple[bytearray, int, int]] = {}
        self._leaf_handles: dict[str, int] = {}

    @property
    def namespace(self) -> str:
        return self._namespace

    def close(self) -> None:
        self._route.close()

    def set_rates(self, bits_per_second: Mapping[str, float]) -> None:
        """Change the rates of ports in one go. Rates are of layer 2; the queues and what is in them stay."""
        self._route.change(self.rate_messages(bits_per_second))

    def rate_messages(self, bits_per_second: Mapping[str, float]) -> list[bytearray]:
        """What the kernel is sent to change rates; good until the next call."""
        messages = []
        for port, rate in bits_per_second.items():
            message, options, rate64 = self._templates.get(port) or self._template(port)
            bytes_per_second = max(1, round(rate / 8))
            ticks = min(_U32_MAX, round(burst_bytes(rate) / bytes_per_second / _TICK_SECONDS))
            low = min(_U32_MAX, bytes_per_second)
            spec = (0, _LINKLAYER_ETHERNET, 0, 0, 0, low)
            _HTB_OPTIONS.pack_into(message, options, *spec, *spec, ticks, ticks, FRAME_BYTES, 0, 0)
            _HTB_ATTRIBUTES.pack_into(message, rate64, bytes_per_second, 12, _TCA_HTB_CEIL64, bytes_per_second)
            messages.append(message)
        return messages

    def set_leaf_limits(self, limit_bytes: Mapping[str, int]) -> None:
        """Change how much the ``bfifo`` leaves of ports may hold; 0 drops every packet that arrives from then on."""
        self._route.change(
            [
                tc_message(
                    RTM_NEWQDISC, self._index(port), LEAF_HANDLE, CLASS_HANDLE, "bfifo", struct.pack("=I", limit)
                )
                for port, limit in limit_bytes.items()
            ]
        )

    def set_netem(self, wanted: Mapping[str, tuple[Impairment, int]]) -> None:
        """Change the ``netem`` leaves of ports: what each does, and how many packets it may hold.

        Every value is sent, because the kernel keeps some and overwrites others; queues, seed and distribution stay.
        """
        self._route.change(
            [
                tc_message(
                    RTM_NEWQDISC,
                    self._index(port),
                    self._leaf_handles.get(port, LEAF_HANDLE),
                    CLASS_HANDLE,
                    "netem",
                    netem_options(impairment, limit),
                )
                for port, (impairment, limit) in wanted.items()
            ]
        )

    def put_netem(self, port: str, impairment: Impairment, limit_packets: int) -> None:
        """Give a port a ``netem`` leaf instead of the one it has; what is queued in that one is lost."""
        options = netem_options(impairment, limit_packets) + distribution_table(impairment.distribution)
        self._route.change(
            [tc_message(RTM_NEWQDISC, self._index(port), NETEM_HANDLE, CLASS_HANDLE, "netem", options, replace=True)]
        )
        self._leaf_handles[port] = NETEM_HANDLE

    def leaves(self, ports: Sequence[str]) -> dict[str, QdiscStatistics]:
        """Counters of the ports' leaves. Ports without one are left out."""
        wanted = {self._index(port): port for port in ports}
        found = {
            wanted[entry.interface]: entry
            for entry in self._route.statistics()
            if entry.parent == CLASS_HANDLE and entry.interface in wanted
        }
        self._leaf_handles.update({port: leaf.handle for port, leaf in found.items()})
        return found

    def _index(self, port: str) -> int:
        index = self._route.interfaces.get(port)
        if index is None:
            known = ", ".join(sorted(self._route.interfaces))
            raise TestbedError(f"{self._namespace} has no interface {port!r}; it has {known}")
        return index

    def _template(self, port: str) -> tuple[bytearray, int, int]:
        """A message whose numbers are filled in later: what Python saves at each change."""
        options = (
            attribute(_TCA_HTB_PARMS, bytes(_HTB_OPTIONS.size))
            + attribute(_TCA_HTB_RATE64, bytes(8))
            + attribute(_TCA_HTB_CEIL64, bytes(8))
        )
        message = bytearray(tc_message(RTM_NEWTCLASS, self._index(port), CLASS_HANDLE, ROOT_HANDLE, "htb", options))
        start = len(message) - len(options)
        template = (message, start + 4, start + 4 + _HTB_OPTIONS.size + 4)
        self._templates[port] = template
        return template

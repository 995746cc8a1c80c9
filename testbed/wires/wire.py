"""What a wire is: names, addresses and limits, all of them from its index.

UE eth1 --(veth)-- radio uN <=> radio eN --(veth)-- edge wN
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from ipaddress import IPv4Address

from controller.frames import FRAME_BYTES
from testbed.wires.impairment import UNIMPAIRED, Impairment

UE_INTERFACE = "eth1"
MTU_BYTES = 1500
#: One /31 per wire. Labs do not see each other (nor does the host), so every lab uses the same ones.
_FIRST_ADDRESS = int(IPv4Address("10.77.0.0"))
MAXIMUM_WIRES = 1 << 15

DEFAULT_LEAF_BYTES = 2 << 20

#: From this rate on, segmentation offload does less harm (-0.2 % at 100 Mbit/s) than the packets it saves cost in CPU;
#: below it one super-packet is a burst of up to 64 kB (105 ms at 5 Mbit/s).
OFFLOAD_BITS_PER_SECOND = 100e6


def under_way_bytes(bits_per_second: float, delay_seconds: float) -> int:
    """What a leaf holds because of its delay, with room for a burst."""
    return math.ceil(bits_per_second / 8 * delay_seconds) + 65536


def packets_of(leaf_bytes: int) -> int:
    """A leaf's limit for netem, which counts packets: TCP's acknowledgements, too, so twice as many as full ones."""
    return 2 * math.ceil(leaf_bytes / FRAME_BYTES)


@dataclass(frozen=True)
class WireSpec:
    """One wire between a UE and the edge. ``index`` is the UE's, unique in its lab."""

    index: int
    ue: str
    rate_up_bits_per_second: float
    rate_down_bits_per_second: float
    up: Impairment = UNIMPAIRED
    down: Impairment = UNIMPAIRED
    #: the highest rate that is expected; sizes the leaves and decides about segmentation offload
    max_rate_bits_per_second: float = OFFLOAD_BITS_PER_SECOND
    send_buffer_bytes: int = DEFAULT_LEAF_BYTES // 2
    congestion_control: str = "cubic"
    #: delay or loss will change while the lab is up
    changing: bool = False
    #: netem draws its losses and jitter from it
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.index < MAXIMUM_WIRES:
            raise ValueError(f"a wire's index is 0 to {MAXIMUM_WIRES - 1}, got {self.index}")

    @property
    def up_port(self) -> str:
        """Interface in the radio namespace whose egress is the uplink."""
        return f"e{self.index}"

    @property
    def down_port(self) -> str:
        """Interface in the radio namespace whose egress is the downlink."""
        return f"u{self.index}"

    @property
    def edge_interface(self) -> str:
        return f"w{self.index}"

    @property
    def ue_address(self) -> str:
        return str(IPv4Address(_FIRST_ADDRESS + 2 * self.index))

    @property
    def edge_address(self) -> str:
        return str(IPv4Address(_FIRST_ADDRESS + 2 * self.index + 1))

    @property
    def ue_mac(self) -> str:
        return self._mac(0)

    @property
    def edge_mac(self) -> str:
        return self._mac(1)

    @property
    def offload(self) -> bool:
        """Whether the ends may hand over packets of more than one segment."""
        return self.max_rate_bits_per_second > OFFLOAD_BITS_PER_SECOND

    def leaf_bytes(self, impairment: Impairment) -> int:
        """What a leaf must hold so that it drops nothing: the senders' buffers, and what is under way."""
        return max(2 * self.send_buffer_bytes, under_way_bytes(self.max_rate_bits_per_second, impairment.delay_seconds))

    def leaf_packets(self, impairment: Impairment) -> int:
        """The same for netem."""
        return packets_of(self.leaf_bytes(impairment))

    @property
    def impaired(self) -> bool:
        """Whether more than rates has to be emulated."""
        return self.changing or self.up.any or self.down.any

    def _mac(self, side: int) -> str:
        return f"02:74:62:{side:02x}:{self.index >> 8:02x}:{self.index & 255:02x}"

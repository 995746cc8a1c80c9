"""What follows from a wire's index and limits, and what a burst is."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from testbed.wires.impairment import Impairment
from testbed.wires.shaping import burst_bytes
from testbed.wires.wire import MAXIMUM_WIRES, WireSpec


def wire(index: int, **more: float) -> WireSpec:
    return WireSpec(index, f"ue{index}", 1e6, 1e6, **more)  # type: ignore[arg-type]


def test_the_two_ends_of_a_wire_share_a_network_with_nobody() -> None:
    networks = set()
    for index in (0, 1, 127, 128, 255, 256, MAXIMUM_WIRES - 1):
        own = wire(index)
        network = ip_network(f"{own.ue_address}/31")
        assert own.edge_address in [str(address) for address in network]
        assert own.edge_address != own.ue_address
        networks |= {network, own.ue_mac, own.edge_mac, own.up_port, own.down_port, own.edge_interface}
    assert len(networks) == 7 * 6


def test_too_many_wires_are_refused() -> None:
    with pytest.raises(ValueError, match="index"):
        wire(MAXIMUM_WIRES)


def test_a_leaf_holds_the_senders_buffers_or_what_is_under_way() -> None:
    assert wire(0, send_buffer_bytes=32_000).leaf_bytes(Impairment()) == 65_536
    assert wire(0, send_buffer_bytes=500_000).leaf_bytes(Impairment()) == 1_000_000
    long = wire(0, send_buffer_bytes=1000, max_rate_bits_per_second=100e6)
    assert long.leaf_bytes(Impairment(delay_seconds=0.1)) == 1_250_000 + 65_536


def test_offload_is_off_up_to_100_megabits() -> None:
    assert not wire(0, max_rate_bits_per_second=100e6).offload
    assert wire(0, max_rate_bits_per_second=101e6).offload


def test_a_burst_is_half_a_millisecond() -> None:
    assert burst_bytes(16e3) == 64
    assert burst_bytes(100e6) == 6_250

"""Wires made and found: veth pairs, addresses, cross-connects and shapers, in a handful of batches.

The radio namespace joins the two halves of every wire by redirecting what comes in at one interface to the egress of
the other (``u32`` + ``mirred``). So both directions are shaped at an egress of ours: away from throttled CPUs, whose
quota would slow the shaper's own work, and from the sender's namespace, where TCP Small Queues hides the queue.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from testbed.errors import InputError
from testbed.links import capabilities
from testbed.links.netns import batch, in_namespace, write_sysctls
from testbed.links.shaping import class_parameters
from testbed.links.wire import MTU_BYTES, UE_INTERFACE, Impairment, WireSpec

NamespaceOf = Callable[[str], str]

#: IPv6 would chatter on wires that a test expects to be silent.
_RADIO_SYSCTLS = {"net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1"}
_END_SYSCTLS = {
    **_RADIO_SYSCTLS,
    # A task after a pause would pay for slow start again, though the wire is as it was.
    "net/ipv4/tcp_slow_start_after_idle": "0",
    # After an outage the sender tries again within a second instead of within two minutes.
    "net/ipv4/tcp_rto_max_ms": "1000",
}
_OPTIONAL = frozenset(_RADIO_SYSCTLS) | {"net/ipv4/tcp_rto_max_ms"}


def connect(wires: Sequence[WireSpec], netns_name: NamespaceOf, *, radio: str = "radio", edge: str = "edge") -> None:
    """Make wires. ``netns_name`` maps a node's name to its namespace under /run/netns, which exists.

    Raises HostError, before anything is made, for what the kernel cannot do; TestbedError for what failed.
    """
    _check(wires)
    radio_namespace, edge_namespace = netns_name(radio), netns_name(edge)
    in_namespace(radio_namespace, lambda: write_sysctls(_RADIO_SYSCTLS, _OPTIONAL))
    in_namespace(edge_namespace, lambda: write_sysctls(_END_SYSCTLS, _OPTIONAL))
    for wire in wires:
        in_namespace(netns_name(wire.ue), lambda: write_sysctls(_END_SYSCTLS, _OPTIONAL))
    batch("ip", [line for wire in wires for line in _veths(wire, netns_name(wire.ue), radio_namespace, edge_namespace)])
    in_namespace(radio_namespace, lambda: _join(wires))
    in_namespace(edge_namespace, lambda: batch("ip", ["link set lo up", *_edge_ends(wires)]))
    for wire in wires:
        _connect_ue(wire, netns_name(wire.ue))


def _join(wires: Sequence[WireSpec]) -> None:
    # A peer cannot be made already up: the kernel says "Transport endpoint is not connected".
    batch("ip", [f"link set dev {port} up" for wire in wires for port in (wire.up_port, wire.down_port)])
    batch("tc", [line for wire in wires for line in _shapers(wire)])


def _connect_ue(wire: WireSpec, namespace: str) -> None:
    lines = ["link set lo up", *_end(UE_INTERFACE, wire.ue_address, wire.edge_address, wire.edge_mac, wire)]
    in_namespace(namespace, lambda: batch("ip", lines))


def _edge_ends(wires: Sequence[WireSpec]) -> list[str]:
    return [
        line
        for wire in wires
        for line in _end(wire.edge_interface, wire.edge_address, wire.ue_address, wire.ue_mac, wire)
    ]


def _check(wires: Sequence[WireSpec]) -> None:
    found = capabilities.probe()
    found.require("a wire", "htb", "u32", "mirred")
    if any(wire.up.any or wire.down.any for wire in wires):
        found.require("a link with delay, jitter or loss", "netem")
    for wire in wires:
        if wire.congestion_control not in found.congestion_controls:
            raise InputError(
                f"the congestion control of {wire.ue!r} is not in this kernel",
                value=wire.congestion_control,
                allowed=", ".join(found.congestion_controls),
            )


def _veths(wire: WireSpec, ue: str, radio: str, edge: str) -> list[str]:
    """Each end is made where it belongs: nothing ever shows up in the host's namespace."""
    limits = f"mtu {MTU_BYTES}"
    if not wire.offload:
        limits += f" gso_max_segs 1 gso_max_size {MTU_BYTES + 14}"
    return [
        f"link add name {UE_INTERFACE} netns {ue} address {wire.ue_mac} {limits} up type veth "
        f"peer name {wire.down_port} netns {radio} {limits}",
        f"link add name {wire.edge_interface} netns {edge} address {wire.edge_mac} {limits} up type veth "
        f"peer name {wire.up_port} netns {radio} {limits}",
    ]


def _end(interface: str, own: str, other: str, other_mac: str, wire: WireSpec) -> list[str]:
    """Neighbours are permanent: an ARP request would cross the shaped wire, and could be lost in an outage.

    The congestion control is the route's, because some hosts refuse the sysctl in a namespace.
    """
    return [
        f"address add {own}/31 dev {interface}",
        f"neighbour replace {other} lladdr {other_mac} dev {interface} nud permanent",
        f"route replace {other}/32 dev {interface} src {own} congctl {wire.congestion_control}",
    ]


def _shapers(wire: WireSpec) -> list[str]:
    lines = []
    for port, source, rate, impairment, direction in (
        (wire.up_port, wire.down_port, wire.rate_up_bits_per_second, wire.up, 0),
        (wire.down_port, wire.up_port, wire.rate_down_bits_per_second, wire.down, 1),
    ):
        lines += [
            f"qdisc add dev {port} root handle 1: htb default 1",
            f"class add dev {port} parent 1: classid 1:1 htb {class_parameters(rate)}",
            f"qdisc add dev {port} parent 1:1 handle a: {_leaf(wire, impairment, direction)}",
            f"qdisc add dev {source} ingress",
            f"filter add dev {source} parent ffff: protocol all prio 1 u32 match u32 0 0 "
            f"action mirred egress redirect dev {port}",
        ]
    return lines


def _leaf(wire: WireSpec, impairment: Impairment, direction: int) -> str:
    """An explicit leaf: HTB's own would be 1000 packets, which is 6 s at 2 Mbit/s."""
    if not impairment.any:
        return f"bfifo limit {wire.leaf_bytes(impairment)}"
    parts = [f"netem limit {wire.leaf_packets(impairment)}"]
    if impairment.delay_seconds or impairment.jitter_seconds:
        parts.append(f"delay {impairment.delay_seconds * 1e6:.0f}us")
        if impairment.jitter_seconds:
            parts.append(f"{impairment.jitter_seconds * 1e6:.0f}us distribution normal")
    if impairment.loss_ratio:
        parts.append(f"loss {impairment.loss_ratio * 100:.6f}%")
    if capabilities.probe().netem_seed:
        parts.append(f"seed {wire.seed * 2 + direction}")
    return " ".join(parts)


# ------------------------------------------------------------------------------------------------- finding and repair


@dataclass(frozen=True)
class WireState:
    """What exists of a wire in the radio namespace."""

    index: int
    ports: tuple[str, ...]  # those of uN and eN that exist
    shaped: tuple[str, ...]  # ... that have an HTB root and its leaf
    joined: tuple[str, ...]  # ... that have an ingress qdisc

    @property
    def whole(self) -> bool:
        return len(self.ports) == len(self.shaped) == len(self.joined) == 2


def inspect(radio_namespace: str) -> dict[int, WireState]:
    """The wires of a radio namespace by index, from the system itself."""

    def ask(*command: str) -> list[dict[str, object]]:
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        listed: list[dict[str, object]] = json.loads(answer.stdout or "[]")
        return listed

    links, qdiscs = in_namespace(
        radio_namespace, lambda: (ask("ip", "-json", "link", "show"), ask("tc", "-json", "qdisc", "show"))
    )
    ports = sorted(str(link["ifname"]) for link in links)
    roots = {str(entry["dev"]) for entry in qdiscs if entry["kind"] == "htb"}
    leaves = {str(entry["dev"]) for entry in qdiscs if entry.get("parent") == "1:1"}
    ingress = {str(entry["dev"]) for entry in qdiscs if entry["kind"] == "ingress"}
    indices = sorted({int(port[1:]) for port in ports if port[0] in "ue" and port[1:].isdigit()})
    return {
        index: WireState(
            index,
            tuple(port for port in (f"u{index}", f"e{index}") if port in ports),
            tuple(port for port in (f"u{index}", f"e{index}") if port in roots & leaves),
            tuple(port for port in (f"u{index}", f"e{index}") if port in ingress),
        )
        for index in indices
    }


def repair(
    wires: Sequence[WireSpec], netns_name: NamespaceOf, *, radio: str = "radio", edge: str = "edge"
) -> list[WireSpec]:
    """Make the wires that are not whole, after removing what is left of them. Returns those that it made."""
    states = inspect(netns_name(radio))
    broken = [wire for wire in wires if wire.index not in states or not states[wire.index].whole]
    leftovers = [f"link del dev {port}" for wire in broken if wire.index in states for port in states[wire.index].ports]
    in_namespace(netns_name(radio), lambda: batch("ip", leftovers))
    connect(broken, netns_name, radio=radio, edge=edge)
    return broken

"""Wires made and found: veth pairs, addresses, cross-connects and shapers, in a handful of batches.

The radio namespace joins the two halves of every wire by redirecting what comes in at one interface to the egress of
the other (``u32`` + ``mirred``). So both directions are shaped at an egress of ours: away from throttled CPUs, whose
quota would slow the shaper's own work, and from the sender's namespace, where TCP Small Queues hides the queue.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from testbed.runtime.host import executables
from testbed.runtime.host.namespaces import run_inside
from testbed.wires import capabilities, vde
from testbed.wires.capabilities import Delayer
from testbed.wires.impairment import Impairment
from testbed.wires.netns import batch, write_sysctls
from testbed.wires.shaping import class_parameters
from testbed.wires.wire import MTU_BYTES, UE_INTERFACE, WireSpec

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
    delayer = _check(wires)
    radio_namespace, edge_namespace = netns_name(radio), netns_name(edge)
    run_inside(radio_namespace, lambda: write_sysctls(_RADIO_SYSCTLS, _OPTIONAL))
    run_inside(edge_namespace, lambda: write_sysctls(_END_SYSCTLS, _OPTIONAL))
    for wire in wires:
        run_inside(netns_name(wire.ue), lambda: write_sysctls(_END_SYSCTLS, _OPTIONAL))
    batch("ip", [line for wire in wires for line in _veths(wire, netns_name(wire.ue), radio_namespace, edge_namespace)])
    if delayer == "vde":
        vde.start(radio_namespace, {port: each for wire in wires if wire.impaired for port, each in _directions(wire)})
    run_inside(radio_namespace, lambda: _join(wires, delayer))
    run_inside(edge_namespace, lambda: batch("ip", ["link set lo up", *_edge_ends(wires)]))
    for wire in wires:
        _connect_ue(wire, netns_name(wire.ue))


def link_backend(wires: Sequence[WireSpec]) -> str:
    """What emulates these links on this host: "htb", "htb+netem" or "htb+vde". Raises HostError."""
    delayer = _check(wires)
    return "htb" if delayer is None else f"htb+{delayer}"


def _directions(wire: WireSpec) -> tuple[tuple[str, Impairment], tuple[str, Impairment]]:
    return (wire.up_port, wire.up), (wire.down_port, wire.down)


def _join(wires: Sequence[WireSpec], delayer: Delayer | None) -> None:
    # A peer cannot be made already up: the kernel says "Transport endpoint is not connected".
    batch("ip", [f"link set dev {port} up" for wire in wires for port in (wire.up_port, wire.down_port)])
    batch("tc", [line for wire in wires for line in _shapers(wire, delayer)])


def _connect_ue(wire: WireSpec, namespace: str) -> None:
    lines = ["link set lo up", *_end(UE_INTERFACE, wire.ue_address, wire.edge_address, wire.edge_mac, wire)]
    run_inside(namespace, lambda: batch("ip", lines))


def _edge_ends(wires: Sequence[WireSpec]) -> list[str]:
    return [
        line
        for wire in wires
        for line in _end(wire.edge_interface, wire.edge_address, wire.ue_address, wire.ue_mac, wire)
    ]


def _check(wires: Sequence[WireSpec]) -> Delayer | None:
    """What delays packets on these wires, if anything has to."""
    found = capabilities.probe()
    found.require("a wire", "htb", "u32", "mirred")
    impaired = [wire for wire in wires if wire.impaired]
    if impaired:
        found.require("a link with delay, jitter or loss", "delayer")
    if found.delayer == "vde":
        for wire in impaired:
            if only := [*wire.up.netem_only(), *wire.down.netem_only()]:
                found.require(f"a link with {only[0]} (of {wire.ue!r})", "netem")
    for wire in wires:
        capabilities.require_congestion_control(wire.congestion_control, wire.ue)
    return found.delayer if impaired else None


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


def _shapers(wire: WireSpec, delayer: Delayer | None) -> list[str]:
    lines = []
    for port, source, rate, impairment, direction in (
        (wire.up_port, wire.down_port, wire.rate_up_bits_per_second, wire.up, 0),
        (wire.down_port, wire.up_port, wire.rate_down_bits_per_second, wire.down, 1),
    ):
        lines += [
            f"qdisc add dev {port} root handle 1: htb default 1",
            f"class add dev {port} parent 1: classid 1:1 htb {class_parameters(rate)}",
        ]
        if wire.impaired and delayer == "netem":
            lines += _netem(port, wire, impairment, direction)
        else:
            # an explicit leaf: HTB's own would be 1000 packets, which is 6 s at 2 Mbit/s
            lines.append(f"qdisc add dev {port} parent 1:1 handle a: bfifo limit {wire.leaf_bytes(impairment)}")
        if wire.impaired and delayer == "vde":
            lines += [*_redirect(source, vde.tap_in(port)), *_redirect(vde.tap_out(port), port)]
        else:
            lines += _redirect(source, port)
    return lines


def _redirect(source: str, target: str) -> list[str]:
    return [
        f"qdisc add dev {source} ingress",
        f"filter add dev {source} parent ffff: protocol all prio 1 u32 match u32 0 0 "
        f"action mirred egress redirect dev {target}",
    ]


def _netem(port: str, wire: WireSpec, impairment: Impairment, direction: int) -> list[str]:
    """Seeded once, when it is made: a seed that is sent again starts the sequence again.

    First with a jitter, because only then tc takes a distribution; the kernel keeps its table through all changes.
    """
    leaf = f"dev {port} parent 1:1 handle a: netem limit {wire.leaf_packets(impairment)}"
    law = "" if impairment.distribution == "uniform" else f" distribution {impairment.distribution}"
    seed = f" seed {wire.seed * 2 + direction}" if capabilities.probe().netem_seed else ""
    return [f"qdisc add {leaf} delay 1us 1us{law}{seed}", f"qdisc change {leaf} {_netem_values(impairment)}"]


def _netem_values(impairment: Impairment) -> str:
    def percent(ratio: float) -> str:
        return f"{ratio * 100:.6f}%"

    parts = [f"delay {impairment.delay_seconds * 1e6:.0f}us {impairment.jitter_seconds * 1e6:.0f}us"]
    bursts = impairment.bursts
    if bursts is not None:
        parts.append(f"loss gemodel {' '.join(percent(x) for x in (bursts.p, bursts.r, bursts.bad, bursts.good))}")
    elif impairment.loss_ratio:
        parts.append(f"loss {percent(impairment.loss_ratio)}")
    for name, ratio in (
        ("duplicate", impairment.duplicate_ratio),
        ("corrupt", impairment.corrupt_ratio),
        ("reorder", impairment.reorder_ratio),
    ):
        if ratio:
            parts.append(f"{name} {percent(ratio)}")
    return " ".join(parts)


# ------------------------------------------------------------------------------------------------- finding and repair


@dataclass(frozen=True)
class WireState:
    """What exists of a wire in the radio namespace."""

    index: int
    ports: tuple[str, ...]  # those of uN and eN that exist
    shaped: tuple[str, ...]  # ... that have an HTB root and its leaf
    joined: tuple[str, ...]  # ... that have an ingress qdisc
    interrupted: tuple[str, ...] = ()  # ... whose vde filter has ended

    @property
    def whole(self) -> bool:
        return len(self.ports) == len(self.shaped) == len(self.joined) == 2 and not self.interrupted


def inspect(radio_namespace: str) -> dict[int, WireState]:
    """The wires of a radio namespace by index, from the system itself."""

    ip, tc = executables.require("reading the wires", "ip", "tc")

    def ask(*command: str) -> list[dict[str, object]]:
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        listed: list[dict[str, object]] = json.loads(answer.stdout or "[]")
        return listed

    links, qdiscs = run_inside(
        radio_namespace, lambda: (ask(ip, "-json", "link", "show"), ask(tc, "-json", "qdisc", "show"))
    )
    ports = sorted(str(link["ifname"]) for link in links)
    roots = {str(entry["dev"]) for entry in qdiscs if entry["kind"] == "htb"}
    leaves = {str(entry["dev"]) for entry in qdiscs if entry.get("parent") == "1:1"}
    ingress = {str(entry["dev"]) for entry in qdiscs if entry["kind"] == "ingress"}
    interrupted = {port for port in vde.filtered_ports(radio_namespace) if vde.tap_out(port) not in ports}
    indices = sorted({int(port[1:]) for port in ports if port[0] in "ue" and port[1:].isdigit()})
    return {
        index: WireState(
            index,
            tuple(port for port in (f"u{index}", f"e{index}") if port in ports),
            tuple(port for port in (f"u{index}", f"e{index}") if port in roots & leaves),
            tuple(port for port in (f"u{index}", f"e{index}") if port in ingress),
            tuple(port for port in (f"u{index}", f"e{index}") if port in interrupted),
        )
        for index in indices
    }


def repair(
    wires: Sequence[WireSpec], netns_name: NamespaceOf, *, radio: str = "radio", edge: str = "edge"
) -> list[WireSpec]:
    """Make the wires that are not whole, after removing what is left of them. Returns those that it made."""
    states = inspect(netns_name(radio))
    at_edge = _interfaces(netns_name(edge))
    broken = [
        wire
        for wire in wires
        if wire.index not in states
        or not states[wire.index].whole
        # of a node that was made again: what its wire had in the radio goes with the old namespace, some time later
        or wire.edge_interface not in at_edge
        or UE_INTERFACE not in _interfaces(netns_name(wire.ue))
    ]
    leftovers = [f"link del dev {port}" for wire in broken if wire.index in states for port in states[wire.index].ports]
    vde.stop(netns_name(radio), [port for wire in broken for port in (wire.up_port, wire.down_port)])
    run_inside(netns_name(radio), lambda: batch("ip", leftovers, force=True))
    connect(broken, netns_name, radio=radio, edge=edge)
    return broken


def _interfaces(namespace: str) -> set[str]:
    return run_inside(namespace, lambda: {name for _, name in socket.if_nameindex()})

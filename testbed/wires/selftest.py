"""Wires tried with packets of our own, each direction by itself: how long one takes, how many arrive, how fast.

Senders and receivers are sockets in the namespaces at a wire's two ends, all of them in this process. The kernel stamps
what arrives, so that a wake-up of ours that is late changes no figure. No other program is needed.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal

from controller.frames import FRAME_BYTES
from testbed.runtime.host.namespaces import run_inside
from testbed.wires.impairment import Impairment
from testbed.wires.stamps import ask_for_stamps, stamped_packets
from testbed.wires.wire import WireSpec

PORT = 5556
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER_BYTES = 16 << 20
_HEADER = struct.Struct("!Qd")  # number, seconds when it was sent
_SMALL = bytes(32 - _HEADER.size)
_FULL = bytes(FRAME_BYTES - 42 - _HEADER.size)  # 42: Ethernet, IP and UDP
#: More than the wire carries, so that its queue never runs empty; what a wire loses comes on top.
_OVERLOAD = 1.25
#: A burst of losses takes many in a row.
_OVERLOAD_IN_BURSTS = 2.5
_HEAD_START_SECONDS = 0.03
_TICK_SECONDS = 0.002


@dataclass(frozen=True)
class Direction:
    """One direction of a wire, and what it was told to do."""

    ue: str
    way: Literal["up", "down"]
    source: str  # namespaces under /run/netns
    target: str
    address: str  # of the target
    rate_bits_per_second: float
    impairment: Impairment

    @property
    def name(self) -> str:
        return f"{self.ue} {'uplink' if self.way == 'up' else 'downlink'}"


def directions(wires: Sequence[WireSpec], netns_name: Callable[[str], str], edge: str = "edge") -> list[Direction]:
    """Both directions of each wire."""
    found: list[Direction] = []
    for wire in wires:
        ue, server = netns_name(wire.ue), netns_name(edge)
        found.append(Direction(wire.ue, "up", ue, server, wire.edge_address, wire.rate_up_bits_per_second, wire.up))
        found.append(Direction(wire.ue, "down", server, ue, wire.ue_address, wire.rate_down_bits_per_second, wire.down))
    return found


def expected_loss_ratio(impairment: Impairment) -> float:
    """Part of the packets that do not arrive intact, in the long run."""
    return 1 - (1 - impairment.mean_loss_ratio) * (1 - impairment.corrupt_ratio)


@dataclass
class Arrivals:
    """What one direction delivered."""

    sent: int = 0
    seconds: dict[int, float] = field(default_factory=dict)  # one-way, by number of the packet; duplicates count once
    packets: int = 0
    first_seconds: float = 0.0  # CLOCK_REALTIME, as the kernel stamped it
    last_seconds: float = 0.0

    @property
    def rate_bits_per_second(self) -> float:
        """Layer-2 bits between the first and the last arrival over the time between them."""
        span = self.last_seconds - self.first_seconds
        return (self.packets - 1) * FRAME_BYTES * 8 / span if span > 0 else 0.0


def one_way(
    ways: Sequence[Direction], count: int, interval_seconds: float, patience_seconds: float
) -> dict[str, Arrivals]:
    """``count`` small packets through each direction, all at once; by :attr:`Direction.name`."""
    with _sockets(ways) as (senders, found, _):
        start = time.monotonic()
        for number in range(count):
            for way in ways:
                found[way.name].sent += 1
                senders[way.name].send(_HEADER.pack(number, time.time()) + _SMALL)
            time.sleep(max(0.0, start + (number + 1) * interval_seconds - time.monotonic()))
        time.sleep(patience_seconds)
    return found


def saturate(ways: Sequence[Direction], seconds: float) -> dict[str, Arrivals]:
    """Full frames through each direction, a quarter more than it carries, all at once; until the queues are empty."""
    with _sockets(ways) as (senders, found, quiet_since):
        paces = {
            way.name: way.rate_bits_per_second
            * (_OVERLOAD if way.impairment.bursts is None else _OVERLOAD_IN_BURSTS)
            / max(1 - expected_loss_ratio(way.impairment), 0.1)
            / (8 * FRAME_BYTES)
            for way in ways
        }
        start = time.monotonic()
        while (elapsed := time.monotonic() - start) < seconds:
            for name, packets_per_second in paces.items():
                arrivals, sender = found[name], senders[name]
                due = int((elapsed + _HEAD_START_SECONDS) * packets_per_second)
                for number in range(arrivals.sent, due):
                    try:
                        sender.send(_HEADER.pack(number, time.time()) + _FULL)
                    except BlockingIOError:  # the sender's own buffer: the wire is full
                        break
                    arrivals.sent = number + 1
            time.sleep(_TICK_SECONDS)
        limit = time.monotonic() + seconds
        while time.monotonic() < limit and time.monotonic() - quiet_since() < 0.1:
            time.sleep(0.02)
    return found


@contextmanager
def _sockets(
    ways: Sequence[Direction],
) -> Iterator[tuple[Mapping[str, socket.socket], dict[str, Arrivals], Callable[[], float]]]:
    """Senders, arrivals, and a thread that fills the arrivals in; with when the last one came (CLOCK_MONOTONIC)."""
    found = {way.name: Arrivals() for way in ways}
    latest = [time.monotonic()]
    with ExitStack() as stack:
        receivers = {
            way.name: stack.enter_context(run_inside(way.target, lambda: _receiver(way.address)))  # noqa: B023
            for way in ways
        }
        senders = {
            way.name: stack.enter_context(run_inside(way.source, lambda: _sender(way.address)))  # noqa: B023
            for way in ways
        }
        stop = threading.Event()
        listener = threading.Thread(target=_listen, args=(receivers, found, latest, stop), daemon=True)
        listener.start()
        try:
            yield senders, found, lambda: latest[0]
        finally:
            stop.set()
            listener.join()


def _receiver(address: str) -> socket.socket:
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    ask_for_stamps(receiver)
    try:
        receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    except PermissionError:  # root of a user namespace only
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    receiver.bind((address, PORT))
    return receiver


def _sender(address: str) -> socket.socket:
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sender.connect((address, PORT))
    return sender


def _listen(
    receivers: Mapping[str, socket.socket], found: Mapping[str, Arrivals], latest: list[float], stop: threading.Event
) -> None:
    poller = select.poll()
    names = {receiver.fileno(): name for name, receiver in receivers.items()}
    sockets = {receiver.fileno(): receiver for receiver in receivers.values()}
    for descriptor in names:
        poller.register(descriptor, select.POLLIN)
    while True:
        ready = poller.poll(20)
        for descriptor, _ in ready:
            _take(sockets[descriptor], found[names[descriptor]])
            latest[0] = time.monotonic()
        if stop.is_set() and not ready:
            return


def _take(receiver: socket.socket, arrivals: Arrivals) -> None:
    for packet, arrived in stamped_packets(receiver):
        if len(packet) < _HEADER.size:
            continue
        number, sent = _HEADER.unpack_from(packet)
        arrivals.seconds.setdefault(number, arrived - sent)
        arrivals.first_seconds = min(arrivals.first_seconds, arrived) if arrivals.packets else arrived
        arrivals.last_seconds = max(arrivals.last_seconds, arrived)
        arrivals.packets += 1

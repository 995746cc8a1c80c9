"""The edge's sockets on the wires, by real ZeroMQ peers and by raw bytes; a loopback address stands for each wire."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest
import zmq

from testbed.node import ue_sockets
from testbed.node.ue_sockets import MOST_PARTS, UeSockets
from tests.unit.test_node_listener import HELLO, open_descriptors

ADDRESSES = {"ue1": "127.0.0.1", "ue2": "127.0.0.2"}


class Edge:
    """Sockets for two UEs, and a loop as the edge's around them."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.endpoints = {ue: f"tcp://{address}:{self.port}" for ue, address in ADDRESSES.items()}
        self.sockets = UeSockets(
            context,
            {ue: (endpoint, 0.0) for ue, endpoint in self.endpoints.items()},
            part_bytes=1 << 20,
            send_high_water=100,
        )
        self.poller = zmq.Poller()
        self.sockets.poll_with(self.poller)
        self.heard: list[tuple[str, list[bytes] | None]] = []
        self.cuts: list[tuple[str, str]] = []

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, (self.cuts, self.heard[:5])
            self.turn()

    def turn(self) -> None:
        ready = dict(self.poller.poll(20))
        for ue, frames in self.sockets.received(ready, 64):
            self.heard.append((ue, None if frames is None else [bytes(frame) for frame in frames]))
        self.sockets.check(time.monotonic())
        self.cuts += self.sockets.take_cuts()


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def edge(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Edge]:
    made = Edge(context)
    yield made
    made.sockets.close()


def ue(edge: Edge, context: zmq.Context[zmq.Socket[bytes]], name: str, on: str = "") -> zmq.Socket[bytes]:
    made = context.socket(zmq.DEALER)
    made.set(zmq.LINGER, 0)
    made.set(zmq.IDENTITY, name.encode())
    made.connect(edge.endpoints[on or name])
    return made


def raw(edge: Edge, name: str) -> socket.socket:
    made = socket.create_connection((ADDRESSES[name], edge.port))
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
    ready += b"\x08Identity" + struct.pack(">I", len(name)) + name.encode()
    made.sendall(HELLO[:64] + bytes((4, len(ready))) + ready)
    made.recv(64 + 2, socket.MSG_WAITALL)  # a message before the other's handshake would break it
    made.recv(1000)
    return made


def test_a_ue_is_known_by_its_wire(edge: Edge, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    honest, liar = ue(edge, context, "ue2"), ue(edge, context, "ue2", on="ue1")
    honest.send_multipart([b"a", b"b"])
    edge.until(lambda: ("ue2", [b"a", b"b"]) in edge.heard)
    liar.send_multipart([b"mine"])
    edge.until(lambda: ("ue1", None) in edge.heard)
    assert edge.sockets.send("ue2", [b"an answer"])
    assert honest.recv() == b"an answer"
    assert not liar.poll(100)
    assert not edge.sockets.send("ue1", [b"nobody is there"])


@pytest.mark.parametrize(
    "part", [b"\x01\x00", b"\x03" + struct.pack(">Q", 60_000) + bytes(60_000)], ids=["empty", "large"]
)
def test_a_message_without_end_is_cut_off_and_the_other_ue_is_served(
    edge: Edge, context: zmq.Context[zmq.Socket[bytes]], part: bytes
) -> None:
    block = part * (1 + 60_000 // len(part))
    other = ue(edge, context, "ue2")
    sent, ended = 0, False

    def flood() -> bool:
        nonlocal sent, ended
        try:
            for _ in range(20):
                sent += hostile.send(block[sent % len(block) :])
        except BlockingIOError:
            pass
        except OSError:
            ended = True
        return ended

    with raw(edge, "ue1") as hostile:
        hostile.setblocking(False)
        edge.until(flood)
    assert [name for name, _ in edge.cuts] == ["ue1"]
    assert sent < 200e6  # as much as a loopback takes within a tenth of a second
    other.send(b"served")
    edge.until(lambda: ("ue2", [b"served"]) in edge.heard)
    again = ue(edge, context, "ue1")  # waits until the edge listens again
    again.send(b"back")
    edge.until(lambda: ("ue1", [b"back"]) in edge.heard)


def test_a_burst_that_is_read_before_its_connection_is_looked_at_is_nobodys_fault(
    edge: Edge, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """A UE whose edge was away sends its backlog at once; the edge may be too busy to look at connections meanwhile."""
    sender = ue(edge, context, "ue1")
    for _ in range(100):
        sender.send(bytes(60_000))
    read = 0
    while read < 100:
        read += len(list(edge.sockets.received(dict(edge.poller.poll(1000)), 64)))
    sender.send(b"the next")
    edge.until(lambda: ("ue1", [b"the next"]) in edge.heard)
    for _ in range(3):
        time.sleep(ue_sockets.CHECK_SECONDS)
        edge.sockets.check(time.monotonic())
    assert edge.cuts == []


def test_too_many_parts_are_cut_off(edge: Edge, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    sender = ue(edge, context, "ue1")
    sender.send_multipart([b"x"] * MOST_PARTS)
    edge.until(lambda: len(edge.heard) == 1)
    sender.send_multipart([b"x"] * (MOST_PARTS + 1))
    edge.until(lambda: bool(edge.cuts))
    assert "parts" in edge.cuts[0][1]
    while ("ue1", [b"after it has reconnected"]) not in edge.heard:  # what goes into the old connection is lost
        sender.send(b"after it has reconnected")
        time.sleep(0.05)
        edge.turn()


def test_many_connections_are_cut_off_and_one_more_replaces_the_last(
    edge: Edge, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    before = open_descriptors()
    many = [raw(edge, "ue1") for _ in range(50)]
    edge.until(lambda: bool(edge.cuts))
    assert "connections" in edge.cuts[0][1]
    for one in many:
        one.close()
    edge.until(lambda: open_descriptors() <= before + 2)
    with raw(edge, "ue2") as first:
        edge.until(lambda: bool(edge.sockets._peers["ue2"].connections))
        with raw(edge, "ue2") as second:
            second.sendall(b"\x00\x02hi")
            edge.until(lambda: ("ue2", [b"hi"]) in edge.heard)
            edge.until(lambda: is_closed(first))
            assert not is_closed(second)


def is_closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        while sock.recv(1000):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


def test_a_fast_link_with_a_long_round_trip_may_have_more_under_way(edge: Edge) -> None:
    peer = edge.sockets._peers["ue1"]
    edge.sockets.rates({"ue1": 10e6, "unknown": 1.0})
    assert ue_sockets.SLACK_BYTES < peer.most_unread_bytes < 5e6
    peer.round_trip_seconds = 0.4
    edge.sockets.rates({"ue1": 100e6})
    assert peer.most_unread_bytes > 2 * 100e6 / 8 * 0.4

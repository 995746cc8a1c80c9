"""The sockets at which nodes are heard, by real ZeroMQ peers and by raw bytes."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import zmq

from controller.contract import STAGES, UeDecision, UeName
from controller.service import admission, protocol
from controller.service.node_listener import Limits, NodeListener
from testbed.protocol import records, roles

LIMITS = Limits(message_bytes=10_000, bytes_per_second=1e9, burst_bytes=1e9)
GREETING = b"\xff" + bytes(7) + b"\x01\x7f\x03\x00NULL".ljust(24, b"\0") + bytes(32)
READY = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
HELLO = GREETING + bytes((4, len(READY))) + READY


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[NodeListener]:
    made = NodeListener("ROUTER", {name: (tmp_path / name / "control", LIMITS) for name in ("ue1", "ue2")})
    yield made
    made.close()


def hear(listener: NodeListener, until: Callable[[list[tuple[str, bytes]]], bool]) -> list[tuple[str, bytes]]:
    heard: list[tuple[str, bytes]] = []
    deadline = time.monotonic() + 20
    while not until(heard):
        assert time.monotonic() < deadline, heard
        listener.wait(0.05)
        heard += listener.received()
    return heard


def dealer(context: zmq.Context[zmq.Socket[bytes]], path: Path, identity: str = "") -> zmq.Socket[bytes]:
    made = context.socket(zmq.DEALER)
    made.setsockopt(zmq.LINGER, 0)
    if identity:
        made.setsockopt(zmq.ROUTING_ID, identity.encode())
    made.connect(f"ipc://{path}")
    return made


def raw(path: Path, data: bytes = HELLO) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(str(path))
    made.sendall(data)
    return made


def test_messages_of_every_size_go_both_ways(listener: NodeListener, tmp_path: Path) -> None:
    sizes = [0, 1, 255, 256, 9_999]
    with zmq.Context() as context, dealer(context, tmp_path / "ue1" / "control") as ue:
        for size in sizes:
            ue.send(b"x" * size)
        heard = hear(listener, lambda found: len(found) == len(sizes))
        assert heard == [("ue1", b"x" * size) for size in sizes]
        for size in (*sizes, 3_000_000):
            assert listener.send("ue1", b"y" * size)
        for size in (*sizes, 3_000_000):
            while not ue.poll(10):
                listener.received()  # sends on what the socket had no room for
            assert ue.recv() == b"y" * size
    assert not listener.send("ue2", b"nobody")


def test_who_speaks_is_known_from_the_socket_not_from_its_claim(listener: NodeListener, tmp_path: Path) -> None:
    with (
        zmq.Context() as context,
        dealer(context, tmp_path / "ue1" / "control", "ue2") as liar,
        dealer(context, tmp_path / "ue2" / "control", "ue2") as honest,
    ):
        honest.send(b"mine")
        liar.send(b"mine, too")
        assert sorted(hear(listener, lambda found: len(found) == 2)) == [("ue1", b"mine, too"), ("ue2", b"mine")]
        assert listener.send("ue2", b"for ue2")
        assert honest.recv() == b"for ue2"
        assert not liar.poll(100)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n" + bytes(80), "does not speak ZMTP"),
        (GREETING.replace(b"NULL", b"PLAI"), "security mechanism"),
        (GREETING + b"\x00\x01x", "before the handshake"),
        (HELLO.replace(b"DEALER", b"PUBPUB"), "is no DEALER"),
        (HELLO + b"\x04\x05\x04JUNK", "unexpected command"),
        (HELLO + b"\x80\x01x", "flags"),
        (HELLO + b"\x01\x01x\x00\x01y", "several parts"),
        (HELLO + b"\x02" + struct.pack(">Q", 1 << 62), "bytes, and 10000 are allowed"),
        (HELLO + b"\x02" + struct.pack(">Q", 10_001), "bytes, and 10000 are allowed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_breaks_the_protocol_is_cut_off_and_told(
    listener: NodeListener, tmp_path: Path, data: bytes, reason: str
) -> None:
    with raw(tmp_path / "ue1" / "control", data) as broken:
        assert hear(listener, lambda _: bool(listener.notices)) == []
        assert [node for node, _ in listener.notices] == ["ue1"]
        assert reason in listener.notices[0][1]
        broken.settimeout(5)
        while broken.recv(4096):  # until it is closed
            pass
    with zmq.Context() as context, dealer(context, tmp_path / "ue1" / "control") as ue:
        ue.send(b"in order")
        assert hear(listener, lambda found: bool(found)) == [("ue1", b"in order")]


def test_a_message_without_end_ends_with_its_second_part(listener: NodeListener, tmp_path: Path) -> None:
    """libzmq held 820 MB of it after five seconds."""
    part = b"\x03" + struct.pack(">Q", 9_000) + bytes(9_000)
    taken = 0
    with raw(tmp_path / "ue1" / "control") as sock:
        sock.setblocking(False)
        while not listener.notices:
            try:
                taken += sock.send(part[taken % len(part) :])
            except (BlockingIOError, BrokenPipeError):
                listener.received()
            assert taken < 2_000_000
    assert "several parts" in listener.notices[0][1]


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.thorough
def test_ten_thousand_connections_leave_descriptors_and_others_alone(listener: NodeListener, tmp_path: Path) -> None:
    descriptors = open_descriptors()
    mine: list[socket.socket] = []
    with zmq.Context() as context, dealer(context, tmp_path / "ue2" / "control") as ue:
        for number in range(10_000):
            made = socket.socket(socket.AF_UNIX)
            made.setblocking(False)
            try:
                made.connect(str(tmp_path / "ue1" / "control"))
            except BlockingIOError:
                made.close()
            else:
                mine.append(made)
            if len(mine) > 100:
                mine.pop(0).close()
            if number % 10 == 0:
                listener.received()
        ue.send(b"and me")
        assert hear(listener, lambda found: bool(found)) == [("ue2", b"and me")]
        for made in mine:
            made.close()
        hear(listener, lambda _: open_descriptors() < descriptors + 15)


def test_whoever_floods_waits_and_others_do_not(tmp_path: Path) -> None:
    slow = Limits(message_bytes=100, bytes_per_second=100e3, burst_bytes=100e3)
    listener = NodeListener("ROUTER", {name: (tmp_path / name, slow) for name in ("ue1", "ue2")})
    with (
        zmq.Context() as context,
        dealer(context, tmp_path / "ue1") as flood,
        dealer(context, tmp_path / "ue2") as calm,
    ):
        for _ in range(900):
            flood.send(b"x" * 100)
        calm.send(b"calm")
        heard = hear(listener, lambda found: ("ue2", b"calm") in found)
        assert len(heard) < 800
        hear(listener, lambda found: len(found) + len(heard) == 901)  # late, and none lost
    listener.close()


def test_a_node_that_never_reads_is_given_up_and_nobody_waits(tmp_path: Path) -> None:
    limits = Limits(message_bytes=100, bytes_per_second=1e6, burst_bytes=1e6, unsent_bytes=1_000_000)
    listener = NodeListener("ROUTER", {name: (tmp_path / name, limits) for name in ("ue1", "ue2")})
    with zmq.Context() as context, raw(tmp_path / "ue1"), dealer(context, tmp_path / "ue2") as reader:
        reader.send(b"hello")
        hear(listener, lambda found: bool(found))
        sent = 0
        while listener.send("ue1", b"z" * 10_000):
            sent += 1
        assert 100 <= sent < 200  # what the kernel takes comes on top
        assert listener.send("ue2", b"news")
        assert reader.recv() == b"news"
    listener.close()


def test_a_peer_that_comes_back_is_the_one_that_is_answered(listener: NodeListener, tmp_path: Path) -> None:
    with zmq.Context() as context:
        for number in range(6):
            with dealer(context, tmp_path / "ue1" / "control") as ue:
                ue.send(b"%d" % number)
                hear(listener, lambda found: bool(found))
                assert listener.send("ue1", b"welcome")
                assert ue.recv() == b"welcome"


def test_whatever_comes_nothing_is_raised_and_the_other_node_is_heard(listener: NodeListener, tmp_path: Path) -> None:
    rng = random.Random(7)
    valid = HELLO + b"\x00\x03one\x02" + struct.pack(">Q", 300) + bytes(300) + b"\x04\x05\x04PING" + b"\x00\x00"
    with zmq.Context() as context, dealer(context, tmp_path / "ue2" / "control") as ue:
        for number in range(300):
            data = bytearray(valid * rng.randint(1, 2))
            for _ in range(rng.randint(1, 6)):
                data[rng.randrange(len(data))] = rng.choice((0, 1, 2, 4, 255, rng.randrange(256)))
            with raw(tmp_path / "ue1" / "control", b"") as sock:
                sock.setblocking(False)
                for start in range(0, len(data), 150):
                    with suppress(OSError):
                        sock.send(data[start : start + 150])
                    listener.received()
            if number % 100 == 0:
                ue.send(b"%d" % number)
                hear(listener, lambda found, wanted=b"%d" % number: ("ue2", wanted) in found)  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------- who says what


REPORT = protocol.UeReport(
    node="ue1", slot=3, monotonic_seconds=1.0, nominal_arrival_rate_per_second=1.0, arrivals=1, completions=1,
    failures=0, device_queue_tasks=0, tx_queue_tasks=0, in_flight_tasks=0, tx_backlog_bytes=0, decision_sequence=-1,
    delay_sum_seconds=0.1, stage_sum_seconds=dict.fromkeys(STAGES, 0.0), compute_joules=0.0, transmit_joules=0.0,
    head_overruns=0, acked_bytes=0,
)  # fmt: skip
REPLACE = msgspec.structs.replace
RESPONSE = protocol.Response("ue1", 1, 1, UeDecision(UeName("ue1"), (), 1.0, 0.0, 0.0, 0.0))


def test_what_each_role_says_is_understood() -> None:
    for node, message in {
        "ue1": REPORT,
        "edge": protocol.EdgeReport(0, 1.0, (protocol.EdgeUeReport("ue1", 0, 0.0, 0, 0, 0),)),
        "player": protocol.Reply(ok=True),
    }.items():
        assert admission.said_to_controller(node, protocol.encode(message)) == message
    assert admission.said_to_controller("ue1", protocol.encode(RESPONSE)) == RESPONSE
    assert isinstance(admission.asked_by_operator(protocol.encode(protocol.StopLab())), protocol.StopLab)


@pytest.mark.parametrize(
    "message",
    [
        protocol.SetPolicy("edge-only"),
        protocol.SetLink("ue2", rate_up_bits_per_second=1.0),
        protocol.StopLab(),
        protocol.Begin(None),
        protocol.StatusRequest(),
        protocol.Stop("enough"),
        protocol.Reply(ok=True),
        protocol.EdgeReport(0, 0.0, ()),
        protocol.PlayerReport(0, 0.0, ()),
        protocol.Hello("ue2", "ue", 1),
        protocol.Hello("ue1", "edge", 1),
        protocol.Hello("ue1", "ue", 1, extra_tids=tuple(range(100))),
        protocol.Hello("ue1", "ue", 1, weights={"ue2": "00"}),
        protocol.Hello("ue1", "ue", 1, device="\x1b[2J"),
        protocol.Hello("ue1", "ue", 1, device="x" * 10_000),
        REPLACE(REPORT, node="ue2"),
        REPLACE(REPORT, arrivals=1 << 60),
        REPLACE(REPORT, completions=-5),
        REPLACE(REPORT, delay_sum_seconds=float("nan")),
        REPLACE(REPORT, compute_joules=float("inf")),
        REPLACE(REPORT, stage_sum_seconds={str(number): 0.0 for number in range(1000)}),
        REPLACE(REPORT, stage_sum_seconds={"head": float("nan")}),
        REPLACE(REPORT, parts=protocol.UeParts(uploading=protocol.UploadingReport(upload_progress_ratio=float("nan")))),
        REPLACE(REPORT, parts=protocol.UeParts(retraining=protocol.RetrainingReport(model_version=-5))),
        REPLACE(RESPONSE, node="ue2"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_ue_speaks_of_itself_alone_and_commands_nobody(message: protocol.Control) -> None:
    with pytest.raises(msgspec.DecodeError):
        admission.said_to_controller("ue1", protocol.encode(message))


@pytest.mark.parametrize("node", ["ue1", "edge", "player", "controller", "exporter"])
def test_nobody_records_what_others_do(node: str) -> None:
    theirs = {
        "ue1": records.TaskArrived("ue2", 1, 0.0),
        "edge": records.TaskArrived("ue1", 1, 0.0),
        "player": records.Event(0.0, "ue1", "died", ""),
        "controller": records.TaskArrived("ue1", 1, 0.0),
        "exporter": records.NodeHealth("ue1", 0.0, 0.0, 0, 0.0),
    }[node]
    own = records.Event(0.0, node, "stopped", "")
    assert roles.recorded_by(node, protocol.encode(own)) == own
    with pytest.raises(msgspec.DecodeError):
        roles.recorded_by(node, protocol.encode(theirs))


def test_what_is_recorded_can_be_printed() -> None:
    event = records.Event(0.0, "ue1", "stopped", "\x1b]0;title\x07 and\nmore")
    recorded = roles.recorded_by("ue1", protocol.encode(event))
    assert isinstance(recorded, records.Event)
    assert recorded.text == "\ufffd]0;title\ufffd and\ufffdmore"


def test_values_that_are_counted_or_summed_are_what_a_ue_can_have() -> None:
    task = records.TaskRecord(
        ue="ue1", task=1, status="completed", reason="", cut="input", codec="fp32", decision_sequence=-1, speed=0.2,
        share=0.1, arrival_seconds=1.0, head_start_seconds=1.0, head_end_seconds=1.0, transfer_start_seconds=1.0,
        received_seconds=1.1, tail_start_seconds=1.1, tail_end_seconds=1.2, result_received_seconds=1.3,
        head_target_seconds=0.0, tail_target_seconds=0.1, head_compute_seconds=0.0, tail_compute_seconds=0.1,
        boundary_bytes=10, wire_bytes=76, result_wire_bytes=76, compute_joules=0.0, transmit_joules=0.1, answer=-1,
    )  # fmt: skip
    failed = REPLACE(
        task, status="failed", codec="", received_seconds=float("nan"), result_received_seconds=float("nan")
    )
    update = records.ModelUpdate("ue1", 1, "a", "placed", "", 1, 1, 1, 0, 0.0, 1.0, float("nan"), 0.0)
    for record in (task, failed, update):
        assert msgspec.msgpack.encode(roles.recorded_by("ue1", protocol.encode(record))) == protocol.encode(record)
    for wrong in (
        REPLACE(task, status="a series of its own"),
        REPLACE(task, codec="another"),
        REPLACE(task, received_seconds=float("nan")),
        REPLACE(task, compute_joules=-0.5),
        REPLACE(task, tail_end_seconds=float("inf")),
        REPLACE(failed, wire_bytes=1 << 60),
        REPLACE(failed, transmit_joules=-1.0),
        REPLACE(update, status="lost"),
    ):
        with pytest.raises(msgspec.DecodeError):
            roles.recorded_by("ue1", protocol.encode(wrong))

"""What each role of a lab may say to its controller and its recorder, of whom, and how much of it.

Whoever listens (:mod:`controller.service.node_listener`) knows from the socket which node speaks. What it says is held
against this: a UE speaks of itself alone, and in numbers that a slot's bookkeeping can bear.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from controller.contract import STAGES
from controller.decoding import decode_frame
from controller.service.node_listener import Limits
from controller.service.protocol import (
    Begin,
    Control,
    EdgeReport,
    Hello,
    PlayerReport,
    Reply,
    Response,
    SetLink,
    SetPolicy,
    StatusRequest,
    StopLab,
    UeReport,
)
from testbed.protocol.records import (
    ChannelDrops,
    EdgeHealth,
    Event,
    LinkStep,
    ModelUpdate,
    Record,
    SegmentRecord,
    SlotRecord,
    TaskArrived,
    TaskRecord,
    UploadRecord,
)
from testbed.protocol.sockets import socket_path
from testbed.runtime.base import OPERATOR

Speaker = Literal["ue", "edge", "player", "controller", "operator", "service"]

EDGE, PLAYER, CONTROLLER = "edge", "player", "controller"
#: Programs beside the nodes that may have an end to tell.
SERVICES = ("exporter",)

UE_CONTROL_LIMITS = Limits(message_bytes=256 << 10, bytes_per_second=512e3, burst_bytes=2e6)
#: 12 000 short records a second.
UE_RECORD_LIMITS = Limits(message_bytes=64 << 10, bytes_per_second=4e6, burst_bytes=16e6, unsent_bytes=0)
#: The programs that a lab's user has not written.
OWN_LIMITS = Limits(message_bytes=1 << 20, bytes_per_second=256e6, burst_bytes=256e6)

#: A player that is about to change a wire must not be held up by questions.
CHANNEL_LIMITS = Limits(message_bytes=1 << 10, bytes_per_second=256e3, burst_bytes=64e3, read_bytes=2 << 10)

MOST_THREADS = 64
_MOST_EXTRA = 32
_MOST_TEXT = 4096
_LARGEST = 1e15

#: What is counted by its value: the names of series, columns of tables.
_VALUES: dict[type, dict[str, frozenset[str]]] = {
    TaskRecord: {"status": frozenset(("completed", "failed")), "codec": frozenset(("", "fp32", "fp16", "uint8"))},
    ModelUpdate: {"status": frozenset(("placed", "discarded"))},
    SegmentRecord: {"site": frozenset(("device", "edge"))},
    UploadRecord: {
        "status": frozenset(("held", "corrupt", "refused", "shared", "lost", "given-up", "received")),
        "kind": frozenset(("parameters", "feature")),
    },
}

_CONTROL: dict[Speaker, Any] = {
    "ue": msgspec.msgpack.Decoder(Hello | UeReport | Response),
    "edge": msgspec.msgpack.Decoder(Hello | EdgeReport),
    "player": msgspec.msgpack.Decoder(Hello | PlayerReport | Reply),
    "operator": msgspec.msgpack.Decoder(StatusRequest | Begin | SetPolicy | SetLink | StopLab),
}
_RECORDS: dict[Speaker, Any] = {
    "ue": msgspec.msgpack.Decoder(TaskArrived | TaskRecord | ModelUpdate | SegmentRecord | UploadRecord | Event),
    "edge": msgspec.msgpack.Decoder(EdgeHealth | Event),
    "player": msgspec.msgpack.Decoder(LinkStep | ChannelDrops | Event),
    "controller": msgspec.msgpack.Decoder(SlotRecord | Event),
    "operator": msgspec.msgpack.Decoder(Record),
    "service": msgspec.msgpack.Decoder(Event),
}


def role_of(node: str) -> Speaker:
    roles: dict[str, Speaker] = {EDGE: "edge", PLAYER: "player", CONTROLLER: "controller", OPERATOR: "operator"}
    return roles.get(node, "service" if node in SERVICES else "ue")


def control_sockets(lab_directory: str, nodes: Iterable[str]) -> Mapping[str, tuple[Path, Limits]]:
    """Where a controller hears each node, and how much of it."""
    return {node: (socket_path(lab_directory, node, "control"), _limits(node, UE_CONTROL_LIMITS)) for node in nodes}


def record_sockets(lab_directory: str, ues: Iterable[str]) -> Mapping[str, tuple[Path, Limits]]:
    """Where a recorder hears everybody who records."""
    speakers = (*ues, EDGE, PLAYER, CONTROLLER, OPERATOR, *SERVICES)
    return {node: (socket_path(lab_directory, node, "records"), _limits(node, UE_RECORD_LIMITS)) for node in speakers}


def _limits(node: str, of_a_ue: Limits) -> Limits:
    return of_a_ue if role_of(node) == "ue" else OWN_LIMITS


def asked_by_operator(frame: bytes) -> StatusRequest | Begin | SetPolicy | SetLink | StopLab:
    """A command of the command line. Raises msgspec.DecodeError for anything else."""
    message: StatusRequest | Begin | SetPolicy | SetLink | StopLab = decode_frame(_CONTROL["operator"], frame)
    return message


def said_to_controller(node: str, frame: bytes) -> Control:
    """A node's message. Raises msgspec.DecodeError for one that is malformed or not its to send."""
    message: Control = decode_frame(_CONTROL[role_of(node)], frame)
    if isinstance(message, Hello | UeReport | Response) and message.node != node:
        raise msgspec.DecodeError(f"it says that it is {message.node[:64]!r}")
    match message:
        case Hello():
            _check_hello(node, message)
        case UeReport():
            if not set(message.stage_sum_seconds) <= set(STAGES) or len(message.extra) > _MOST_EXTRA:
                raise msgspec.DecodeError("a report with sums that nobody knows")
            _check_numbers(message, least=-1)
        case EdgeReport():
            for row in message.ues:
                _check_numbers(row, least=-1)
            _check_numbers(message, least=-1)
        case _:
            pass
    return message


def recorded_by(node: str, frame: bytes) -> Record:
    """A node's record, what it wrote without control characters: it is printed in terminals.

    Raises msgspec.DecodeError for one that is malformed or not its to record.
    """
    role = role_of(node)
    record: Record = decode_frame(_RECORDS[role], frame)
    about = getattr(record, "ue", None) if role == "ue" else None
    if isinstance(record, Event) and role != "controller" and role != "operator":
        about = record.node
    if about is not None and about != node:
        raise msgspec.DecodeError(f"a record about {about[:64]!r}")
    if role == "ue":
        _check_record(record)
    return _printable(record)


def _check_record(record: Record) -> None:
    for name, allowed in _VALUES.get(type(record), {}).items():
        if getattr(record, name) not in allowed:
            raise msgspec.DecodeError(f"{name} {getattr(record, name)[:64]!r} in a {type(record).__name__}")
    # where a failed task never got there its stamps are nan
    finite = isinstance(record, TaskRecord) and record.status == "completed"
    for name in record.__struct_fields__:
        number = getattr(record, name)
        if isinstance(number, int | float) and not (math.isnan(number) and not finite):
            least = 0 if name.endswith("_joules") else -1
            if not least <= number <= _LARGEST:
                raise msgspec.DecodeError(f"the number {number} in a {type(record).__name__}")


def _check_hello(node: str, hello: Hello) -> None:
    role = role_of(node)
    if hello.role != role:
        raise msgspec.DecodeError(f"it says that it is a {hello.role[:64]!r}")
    if role == "ue" and not set(hello.weights) <= {node}:
        raise msgspec.DecodeError("it speaks of weights of other UEs")
    if len(hello.extra_tids) > MOST_THREADS:
        raise msgspec.DecodeError(f"it has {len(hello.extra_tids)} threads, and {MOST_THREADS} are allowed")
    texts = (hello.device, hello.device_reason, *hello.weights.values())
    if any(len(text) > _MOST_TEXT or not text.isprintable() for text in texts):
        raise msgspec.DecodeError("a text that is too long, or cannot be printed")
    _check_numbers(hello, least=0)


def _check_numbers(message: msgspec.Struct, least: float) -> None:
    for number in _numbers(message):
        if not least <= number <= _LARGEST:  # also for nan
            raise msgspec.DecodeError(f"the number {number} in a {type(message).__name__}")


def _numbers(message: msgspec.Struct) -> Iterator[float]:
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if isinstance(value, int | float):
            yield value
        elif isinstance(value, dict):
            yield from (number for number in value.values() if isinstance(number, int | float))
        elif isinstance(value, tuple):
            yield from (number for number in value if isinstance(number, int | float))


def _printable(record: Record) -> Record:
    changed = {
        name: "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in value)
        for name in record.__struct_fields__
        if isinstance(value := getattr(record, name), str) and not value.isprintable()
    }
    return msgspec.structs.replace(record, **changed) if changed else record

"""What each role of a lab may record, of whom, and how much of it; for messages see controller.service.admission.

Who speaks is known from the socket: a UE records what is its own alone, in numbers that can be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import get_args

import msgspec

from controller.contract.codec import is_boundary_codec, is_input_codec
from controller.decoding import decode_frame
from controller.service.admission import LARGEST, OWN_LIMITS
from controller.service.node_listener import Limits
from controller.service.protocol import EDGE, PLAYER
from testbed.protocol.record import Record, Speaker
from testbed.protocol.records import KINDS, Event, TaskRecord, decoder
from testbed.protocol.sockets import socket_path
from testbed.runtime.base import OPERATOR

CONTROLLER = "controller"
#: Programs beside the nodes that may have an end to tell.
SERVICES = ("exporter",)

#: 12 000 short records a second.
UE_RECORD_LIMITS = Limits(message_bytes=64 << 10, bytes_per_second=4e6, burst_bytes=16e6, unsent_bytes=0)
#: A player that is about to change a wire must not be held up by questions.
CHANNEL_LIMITS = Limits(message_bytes=1 << 10, bytes_per_second=256e3, burst_bytes=64e3, read_bytes=2 << 10)


_DECODERS = {role: decoder(role) for role in get_args(Speaker)}


def role_of(node: str) -> Speaker:
    roles: dict[str, Speaker] = {EDGE: "edge", PLAYER: "player", CONTROLLER: "controller", OPERATOR: "operator"}
    return roles.get(node, "service" if node in SERVICES else "ue")


def record_sockets(lab_directory: str, ues: Iterable[str]) -> Mapping[str, tuple[Path, Limits]]:
    """Where a recorder hears everybody who records."""
    speakers = (*ues, EDGE, PLAYER, CONTROLLER, OPERATOR, *SERVICES)
    return {
        node: (socket_path(lab_directory, node, "records"), UE_RECORD_LIMITS if role_of(node) == "ue" else OWN_LIMITS)
        for node in speakers
    }


def recorded_by(node: str, frame: bytes) -> Record:
    """A node's record, what it wrote without control characters: it is printed in terminals.

    Raises msgspec.DecodeError for one that is malformed or not its to record.
    """
    role = role_of(node)
    record = decode_frame(_DECODERS[role], frame)
    about = getattr(record, "ue", None) if role == "ue" else None
    if isinstance(record, Event) and role != "controller" and role != "operator":
        about = record.node
    if about is not None and about != node:
        raise msgspec.DecodeError(f"a record about {about[:64]!r}")
    if role == "ue":
        _check_record(record)
    return _printable(record)


def _check_record(record: Record) -> None:
    for name, allowed in KINDS[type(record)].values.items():
        if getattr(record, name) not in allowed:
            raise msgspec.DecodeError(f"{name} {getattr(record, name)[:64]!r} in a {type(record).__name__}")
    if isinstance(record, TaskRecord) and not (
        record.codec == "" or is_boundary_codec(record.codec) or is_input_codec(record.codec)
    ):
        raise msgspec.DecodeError(f"codec {record.codec[:64]!r} in a TaskRecord")
    # where a failed task never got there its stamps are nan
    finite = isinstance(record, TaskRecord) and record.status == "completed"
    for name in record.__struct_fields__:
        number = getattr(record, name)
        if isinstance(number, int | float) and not (math.isnan(number) and not finite):
            least = 0 if name.endswith("_joules") else -1
            if not least <= number <= LARGEST:
                raise msgspec.DecodeError(f"the number {number} in a {type(record).__name__}")


def _printable(record: Record) -> Record:
    changed = {
        name: "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in value)
        for name in record.__struct_fields__
        if isinstance(value := getattr(record, name), str) and not value.isprintable()
    }
    return msgspec.structs.replace(record, **changed) if changed else record

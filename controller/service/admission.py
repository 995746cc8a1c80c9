"""What a controller takes from whom, and how much of it.

Whoever listens (:mod:`controller.service.node_listener`) knows from the socket which node speaks. What it says is held
against this: a UE speaks of itself alone, and in numbers that a slot's bookkeeping can bear.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from controller.contract import STAGES
from controller.decoding import decode_frame
from controller.service.node_listener import Limits
from controller.service.protocol import (
    EDGE,
    PLAYER,
    Command,
    EdgeReport,
    EdgeSays,
    Hello,
    PlayerSays,
    Response,
    UeReport,
    UeSays,
)

UE_CONTROL_LIMITS = Limits(message_bytes=256 << 10, bytes_per_second=512e3, burst_bytes=2e6)
#: The programs that a lab's user has not written.
OWN_LIMITS = Limits(message_bytes=1 << 20, bytes_per_second=256e6, burst_bytes=256e6)

MOST_THREADS = 64  # in a Hello
MOST_TEXT = 4096  # characters of a text in a Hello
LARGEST = 1e15  # number that is believed

Speaker = Literal["ue", "edge", "player"]

_NODES: dict[Speaker, Any] = {
    "ue": msgspec.msgpack.Decoder(UeSays),
    "edge": msgspec.msgpack.Decoder(EdgeSays),
    "player": msgspec.msgpack.Decoder(PlayerSays),
}
_COMMANDS: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)


def speaker_of(node: str) -> Speaker:
    """What a node is, by its name."""
    named: dict[str, Speaker] = {EDGE: "edge", PLAYER: "player"}
    return named.get(node, "ue")


def limits_of(node: str) -> Limits:
    """How much is taken from a node."""
    return UE_CONTROL_LIMITS if speaker_of(node) == "ue" else OWN_LIMITS


def asked_by_operator(frame: bytes) -> Command:
    """A command of the command line. Raises msgspec.DecodeError for anything else."""
    message: Command = decode_frame(_COMMANDS, frame)
    return message


def said_to_controller(node: str, frame: bytes) -> UeSays | EdgeSays | PlayerSays:
    """A node's message. Raises msgspec.DecodeError for one that is malformed or not its to send."""
    message: UeSays | EdgeSays | PlayerSays = decode_frame(_NODES[speaker_of(node)], frame)
    if isinstance(message, Hello | UeReport | Response) and message.node != node:
        raise msgspec.DecodeError(f"it says that it is {message.node[:64]!r}")
    match message:
        case Hello():
            _check_hello(node, message)
        case UeReport():
            if not set(message.stage_sum_seconds) <= set(STAGES):
                raise msgspec.DecodeError("a report with sums that nobody knows")
            _check_numbers(message, least=-1)
        case EdgeReport():
            for row in message.ues:
                _check_numbers(row, least=-1)
            _check_numbers(message, least=-1)
        case _:
            pass
    return message


def _check_hello(node: str, hello: Hello) -> None:
    role = speaker_of(node)
    if hello.role != role:
        raise msgspec.DecodeError(f"it says that it is a {hello.role[:64]!r}")
    if role == "ue" and not set(hello.weights) <= {node}:
        raise msgspec.DecodeError("it speaks of weights of other UEs")
    if len(hello.extra_tids) > MOST_THREADS:
        raise msgspec.DecodeError(f"it has {len(hello.extra_tids)} threads, and {MOST_THREADS} are allowed")
    texts = (hello.device, hello.device_reason, *hello.weights.values())
    if any(len(text) > MOST_TEXT or not text.isprintable() for text in texts):
        raise msgspec.DecodeError("a text that is too long, or cannot be printed")
    _check_numbers(hello, least=0)


def _check_numbers(message: msgspec.Struct, least: float) -> None:
    for number in _numbers(message):
        if not least <= number <= LARGEST:  # also for nan
            raise msgspec.DecodeError(f"the number {number} in a {type(message).__name__}")


def _numbers(message: msgspec.Struct) -> Iterator[float]:
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if isinstance(value, int | float):
            yield value
        elif isinstance(value, msgspec.Struct):
            yield from _numbers(value)
        elif isinstance(value, dict):
            yield from (number for number in value.values() if isinstance(number, int | float))
        elif isinstance(value, tuple):
            yield from (number for number in value if isinstance(number, int | float))

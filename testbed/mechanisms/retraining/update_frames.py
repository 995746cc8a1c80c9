"""What crosses the wire when a model moves: a UE asks, the edge answers; typed frames, then raw bytes.

A socket of its own (the data port + 1), the same shaped wire. The UE fetches piece by piece, with no more under way
than keeps the wire busy, so that answers to tasks are not held up behind a whole model.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from controller.decoding import decode_frame
from testbed.inference.tensors import MalformedFrame
from testbed.inference.weights import Contents

MAX_PIECE_BYTES = 64 * 1024

Version = Annotated[int, Meta(ge=0)]
Label = Annotated[str, Meta(max_length=64 * 1024)]


class _Frame(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base: positional."""


class Want(_Frame, frozen=True, tag="w"):
    """The UE holds ``version``; it wants the layers up to ``cut`` of the newest. Repeated until an Offer comes."""

    version: Version
    cut: Label


class Fetch(_Frame, frozen=True, tag="f"):
    version: Version
    cut: Label
    offset: Version
    length: Annotated[int, Meta(gt=0, le=MAX_PIECE_BYTES)]


class Published(_Frame, frozen=True, tag="p"):
    """There is a new version."""

    version: Version


class Offer(_Frame, frozen=True, tag="o"):
    version: Version
    cut: Label
    contents: Contents


class Piece(_Frame, frozen=True, tag="i"):
    """Its bytes are the next frame."""

    version: Version
    cut: Label
    offset: Version


class Gone(_Frame, frozen=True, tag="g"):
    """The version is not at the edge any more: what was fetched of it is worthless."""

    version: Version


_encoder = msgspec.msgpack.Encoder()
_up: msgspec.msgpack.Decoder[Want | Fetch] = msgspec.msgpack.Decoder(Want | Fetch)
_down: msgspec.msgpack.Decoder[Published | Offer | Piece | Gone] = msgspec.msgpack.Decoder(
    Published | Offer | Piece | Gone
)
_FrameType = TypeVar("_FrameType")


def encode(frame: _Frame) -> bytes:
    return _encoder.encode(frame)


def _decode(decoder: msgspec.msgpack.Decoder[_FrameType], data: bytes) -> _FrameType:
    try:
        return decode_frame(decoder, data)
    except msgspec.DecodeError as error:
        raise MalformedFrame(str(error)) from error


def decode_up(data: bytes) -> Want | Fetch:
    """Raises MalformedFrame."""
    return _decode(_up, data)


def decode_down(data: bytes) -> Published | Offer | Piece | Gone:
    """Raises MalformedFrame."""
    return _decode(_down, data)

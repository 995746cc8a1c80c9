"""What crosses the wire between a UE and the edge: typed headers, raw buffers, and what they cost on layer 2.

ZeroMQ DEALER (UE) to ROUTER (edge), multipart:

- up, per chunk: ``Chunk`` (``Opening`` for the first one of a task), then for the first chunk the header of
  ``inference.tensors``, then slices of the buffers;
- down: ``Ack`` per chunk; ``Result`` and the raw fp32 logits per task (no logits when it failed at the edge).

A task's buffers are one stream of bytes that is cut into chunks anywhere, also across buffers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from controller.decoding import decode_frame
from testbed.inference.tensors import MalformedFrame

WIRE_VERSION = 1
#: Payload of a TCP segment on a wire of MTU 1500 with timestamps, and what frames it: Ethernet 14, IP 20, TCP 32.
SEGMENT_BYTES = 1448
SEGMENT_OVERHEAD_BYTES = 66
_ZMTP_SHORT_BYTES = 2  # flags and length in front of a ZeroMQ frame of up to 255 bytes
ZMTP_LONG_BYTES = 9


class Frame(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base: positional, since the header of every chunk costs air time."""


class Chunk(Frame, frozen=True, tag="c"):
    task: int
    offset: int  # of this chunk in the task's stream
    version: int = WIRE_VERSION


class Opening(Chunk, frozen=True, tag="o"):
    """The first chunk of a task that has a time after which its UE does not want the answer any more."""

    expires_seconds: float = math.inf  # CLOCK_MONOTONIC, of one host: UE and edge read the same clock


class Ack(Frame, frozen=True, tag="a"):
    task: int
    end: int  # offset just after the acknowledged chunk
    received_seconds: float


class Result(Frame, frozen=True, tag="r"):
    """The edge's part of a task's record. ``reason`` is empty when logits follow."""

    task: int
    received_seconds: float
    tail_start_seconds: float
    tail_end_seconds: float
    tail_target_seconds: float
    tail_compute_seconds: float
    share: float
    reason: str = ""


_encoder = msgspec.msgpack.Encoder()
_chunk_decoder: msgspec.msgpack.Decoder[Chunk | Opening] = msgspec.msgpack.Decoder(Chunk | Opening)
_down_decoder: msgspec.msgpack.Decoder[Ack | Result] = msgspec.msgpack.Decoder(Ack | Result)
_FrameType = TypeVar("_FrameType")


def encode(frame: Frame) -> bytes:
    return _encoder.encode(frame)


def _decode(decoder: msgspec.msgpack.Decoder[_FrameType], data: bytes | memoryview) -> _FrameType:
    try:
        return decode_frame(decoder, data)
    except msgspec.DecodeError as error:
        raise MalformedFrame(str(error)) from error


def decode_chunk(data: bytes | memoryview) -> Chunk | Opening:
    """Raises MalformedFrame."""
    chunk = _decode(_chunk_decoder, data)
    if chunk.version != WIRE_VERSION:
        raise MalformedFrame(f"wire version {chunk.version}, this edge speaks {WIRE_VERSION}")
    return chunk


def decode_down(data: bytes | memoryview) -> Ack | Result:
    """Raises MalformedFrame."""
    return _decode(_down_decoder, data)


def stream_bytes(frame_lengths: Iterable[int]) -> int:
    """Bytes in the TCP stream of one multipart message."""
    return sum(n + (_ZMTP_SHORT_BYTES if n <= 255 else ZMTP_LONG_BYTES) for n in frame_lengths)


def layer2_bytes(stream: int) -> int:
    """Bytes on layer 2 of a TCP stream of that length, in full segments but for the last (HTB counts these)."""
    return stream + SEGMENT_OVERHEAD_BYTES * -(-stream // SEGMENT_BYTES)


def message_layer2_bytes(frames: Sequence[bytes | memoryview]) -> int:
    return layer2_bytes(stream_bytes(len(frame) for frame in frames))

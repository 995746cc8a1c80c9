"""Frames from other processes, decoded: whatever is in them, what comes out is a message or one kind of error."""

from __future__ import annotations

from typing import TypeVar

import msgspec

Decoded = TypeVar("Decoded")


def decode_frame(decoder: msgspec.msgpack.Decoder[Decoded], frame: bytes | memoryview) -> Decoded:
    """One msgpack frame. Raises msgspec.DecodeError (a ValidationError is one) for anything malformed.

    msgspec lets two more through: UnicodeDecodeError for text that is not UTF-8, and RecursionError for a value nested
    some thousand times, which is skipped by recursion where the key is unknown. It reserves no memory for lengths that
    a frame only claims.
    """
    try:
        return decoder.decode(frame)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error

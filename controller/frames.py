"""Bytes on the wire: a full Ethernet frame with a TCP segment in it."""

from __future__ import annotations

#: What a shaper counts: a header of 14 bytes and 1500.
FRAME_BYTES = 1514
FRAME_BITS = FRAME_BYTES * 8
#: What TCP carries in it: 20 bytes of IP's header, 32 of TCP's with its timestamps.
SEGMENT_BYTES = 1448
#: Bytes on the wire per byte of a message.
FRAMING_RATIO = FRAME_BYTES / SEGMENT_BYTES

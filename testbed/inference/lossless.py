"""Lossless stages: fewer bytes of the same content, by zstd or lz4. What comes back has the size that was agreed on."""

from __future__ import annotations

import zstandard
from lz4 import block as lz4  # type: ignore[import-untyped]

_ZSTD_LEVEL = 3
#: zstd's window is a power of two of at least 1 kB, and a frame may ask for any.
_SMALLEST_WINDOW_BYTES = 1 << 18


def most_bytes(size: int) -> int:
    """Of whatever is compressed from so many bytes: both libraries' own bounds are under it."""
    return size + size // 128 + 1024


def compress(data: memoryview, stage: str) -> bytes:
    """``stage`` is zstd or lz4."""
    if stage == "zstd":
        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(data)
    return lz4.compress(data, store_size=False)  # type: ignore[no-any-return]


def decompress(data: memoryview, stage: str, size: int) -> bytes:
    """Exactly ``size`` bytes, and not many more are allocated, whatever the data claim. Raises ValueError."""
    try:
        if stage == "lz4":
            found: bytes = lz4.decompress(data, uncompressed_size=size)
        else:
            claimed = zstandard.frame_content_size(data)
            if claimed != size:  # the library allocates what a frame claims
                raise ValueError(f"a zstd frame of {claimed} bytes in the place of {size}")
            window = max(_SMALLEST_WINDOW_BYTES, 1 << size.bit_length())
            found = zstandard.ZstdDecompressor(max_window_size=window).decompress(data)
    except (zstandard.ZstdError, lz4.LZ4BlockError) as error:
        raise ValueError(f"{stage} cannot read it: {error}") from error
    if len(found) != size:
        raise ValueError(f"{stage} makes {len(found)} bytes of it in the place of {size}")
    return found

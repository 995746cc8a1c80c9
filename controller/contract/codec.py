"""Codecs by name: which there are, and how many bytes they make where the content does not change that.

Of a boundary: ``fp32`` (as it is), ``fp16``, ``uint8`` and ``int4`` (one scale per tensor), ``uint8-per-channel`` and
``int4-per-channel``, each of them also with a lossless stage behind it (``int4+zstd``), or ``MODULE:CLASS``, a user's
own. Of the raw input, which an application sends as it has it: ``uint8`` (as it is), ``jpeg-90``, ``png``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from controller.contract.base import Codec

#: Bits of an element's code. More than the element has: it stays as it is.
CODE_BITS = {"fp32": 64, "fp16": 16, "uint8": 8, "uint8-per-channel": 8, "int4": 4, "int4-per-channel": 4}
LOSSLESS_STAGES = ("zstd", "lz4")
#: What every profile has.
PLAIN_CODECS: tuple[Codec, ...] = ("fp32", "fp16", "uint8")
#: Bytes of an element of the types that a lossy codec makes smaller; all others cross as they are.
LOSSY_TYPES = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2}

BOUNDARY_CODECS = f"{', '.join(CODE_BITS)}, each also with +{' or +'.join(LOSSLESS_STAGES)}, or MODULE:CLASS"
INPUT_CODECS = "uint8 (as it is), uint8+zstd, uint8+lz4, png, jpeg: QUALITY from 1 to 100, or MODULE:CLASS"

_OWN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*")
_JPEG = re.compile(r"jpeg-([1-9][0-9]?|100)")
_LONGEST = 128


def parts_of(codec: Codec) -> tuple[str, str]:
    """(code, lossless stage or empty) of a name such as ``int4+zstd``."""
    code, _, stage = codec.partition("+")
    return code, stage


def is_own(codec: Codec) -> bool:
    """Whether it is a user's class."""
    return len(codec) <= _LONGEST and _OWN.fullmatch(codec) is not None


def jpeg_quality(codec: Codec) -> int | None:
    """1 to 100 of ``jpeg-QUALITY``; None for any other codec."""
    found = _JPEG.fullmatch(codec)
    return None if found is None else int(found[1])


def is_boundary_codec(codec: Codec) -> bool:
    """Whether it is for values between nodes."""
    code, plus, stage = codec.partition("+")
    return is_own(codec) or (code in CODE_BITS and (stage in LOSSLESS_STAGES if plus else True))


def is_input_codec(codec: Codec) -> bool:
    """Whether it is for the raw input."""
    return (
        is_own(codec)
        or codec in ("png", "uint8", *(f"uint8+{stage}" for stage in LOSSLESS_STAGES))
        or jpeg_quality(codec) is not None
    )


def is_codec_of(codec: Codec, *, raw_input: bool) -> bool:
    """Whether it is for the raw input, or else for values between nodes."""
    return is_input_codec(codec) if raw_input else is_boundary_codec(codec)


def has_fixed_size(codec: Codec) -> bool:
    """Whether type and shape of a value say how many bytes it has."""
    return codec in CODE_BITS


def is_lossless(codec: Codec, *, raw_input: bool) -> bool:
    """Whether what comes out is, bit for bit, what went in."""
    return parts_of(codec)[0] in (("uint8", "png") if raw_input else ("fp32",))


def channel_axis(dimensions: int) -> int | None:
    """The axis that "per channel" means: that of an image's or sequence's features; None: a tensor of one channel."""
    return 1 if dimensions >= 4 else 2 if dimensions == 3 else None


def converted(dtype: str, codec: Codec) -> bool:
    """Whether a codec (no user's) changes values of that type before its lossless stage."""
    return CODE_BITS[parts_of(codec)[0]] < 8 * LOSSY_TYPES.get(dtype, 0)


def scales_bytes(dtype: str, codec: Codec, shape: Sequence[int]) -> int:
    """Bytes of the scales and offsets that are sent with the codes."""
    code = parts_of(codec)[0]
    if code in ("fp32", "fp16", "uint8") or not math.prod(shape):
        return 0
    axis = channel_axis(len(shape)) if code.endswith("-per-channel") else None
    return 2 * (1 if axis is None else shape[axis]) * (8 if dtype == "f64" else 4)


def code_bytes(dtype: str, codec: Codec, shape: Sequence[int], raw_bytes: int) -> int:
    """Bytes of a value of ``raw_bytes`` in memory, before any lossless stage; of a user's codec: as it is."""
    code = parts_of(codec)[0]
    if code not in CODE_BITS or not converted(dtype, codec):
        return raw_bytes
    return scales_bytes(dtype, codec, shape) + (math.prod(shape) * CODE_BITS[code] + 7) // 8

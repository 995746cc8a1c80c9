"""Codecs by name as what packs and unpacks a tensor: a code, a lossless stage, a picture's file, a user's own.

A decoder is told the shape and type that the receiver expects, and allocates for those alone: data that claim more are
refused before they are unpacked.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from controller.contract import Codec
from controller.contract.codec import (
    BOUNDARY_CODECS,
    CODE_BITS,
    INPUT_CODECS,
    LOSSLESS_STAGES,
    code_bytes,
    is_own,
    jpeg_quality,
    parts_of,
    scales_bytes,
)
from testbed.inference import codec as codes
from testbed.inference import lossless, own_codec, pictures, quantise

# torch warns, once, that nothing stops a write into a read-only buffer. Nothing here writes: in-place operations are
# cleared from every tail (testbed.inference.graph), and copying each frame instead would undo the zero-copy.
warnings.filterwarnings("ignore", message="The given buffer is not writable")

Place = Callable[[Tensor], Tensor]


class Layout(NamedTuple):
    """What a tensor is, in the order of its memory."""

    name: str  # of the graph value
    dtype: torch.dtype
    shape: tuple[int, ...]  # in memory
    plain_shape: tuple[int, ...]  # as the graph has it
    channel_axis: int | None  # in memory

    @property
    def raw_bytes(self) -> int:
        return functools.reduce(int.__mul__, self.shape, 1) * self.dtype.itemsize


class Coded(NamedTuple):
    """A tensor's bytes. ``size`` is told to the receiver: None where shape and codec say it."""

    data: memoryview
    scale: float = 1.0
    offset: float = 0.0
    size: int | None = None


class Coder(Protocol):
    """One codec. All methods raise ValueError for what cannot be coded or is not what it should be."""

    keeps_order: bool  # of the axes in memory; else tensors come, and are made, in the plain order

    def size(self, layout: Layout, told: int | None) -> int:
        """Bytes on the wire, the receiver being told ``told``. Raises ValueError for more than can be."""

    def encode(self, layout: Layout, tensor: Tensor) -> Coded: ...

    def decode(self, layout: Layout, coded: Coded, place: Place) -> Tensor:
        """``place`` puts what is decoded last where the tail is."""


class _Code:
    """Fewer bits per value, or as it is: the size follows from the shape."""

    keeps_order = True

    def __init__(self, code: Codec) -> None:
        self.code = code

    def _bytes(self, layout: Layout) -> int:
        if layout.dtype in codes.INTEGERS:
            return layout.raw_bytes
        return code_bytes(codes.DTYPE_NAMES[layout.dtype], self._code(layout), layout.plain_shape, layout.raw_bytes)

    def _code(self, layout: Layout) -> Codec:
        return "fp32" if layout.name == "input" else self.code  # raw, whatever its type

    def size(self, layout: Layout, told: int | None) -> int:
        if told is not None:
            raise ValueError(f"{self.code} has no size of its own")
        return self._bytes(layout)

    def encode(self, layout: Layout, tensor: Tensor) -> Coded:
        code = self._code(layout)
        if codes.is_streamed(layout.dtype, code):
            return Coded(codes.raw(quantise.quantise(tensor, code, self._axis(layout))))
        coded, scale, offset = codes.encode(tensor, code)
        return Coded(codes.raw(coded), scale, offset)

    def decode(self, layout: Layout, coded: Coded, place: Place) -> Tensor:
        code = self._code(layout)
        if codes.is_streamed(layout.dtype, code):
            stream = _numbers(coded.data, torch.uint8, (len(coded.data),))
            scales = scales_bytes(codes.DTYPE_NAMES[layout.dtype], code, layout.plain_shape)
            if not bool(stream[:scales].clone().view(quantise.work_dtype(layout.dtype)).isfinite().all()):
                raise ValueError(f"scales and offsets of {layout.name} are not finite")
            return quantise.dequantise(place(stream), code, layout.shape, self._axis(layout), layout.dtype)
        numbers = _numbers(coded.data, codes.coded_dtype(layout.dtype, code), layout.shape)
        return codes.decode(place(numbers), layout.dtype, code, coded.scale, coded.offset)

    def _axis(self, layout: Layout) -> int | None:
        return layout.channel_axis if self.code.endswith("-per-channel") else None


class _Compressed(_Code):
    """A code, and a lossless stage behind it."""

    def __init__(self, code: Codec, stage: str) -> None:
        super().__init__(code)
        self._stage = stage
        lossless.compress(memoryview(b"the first one makes tables"), stage)

    def size(self, layout: Layout, told: int | None) -> int:
        return _told(told, lossless.most_bytes(self._bytes(layout)), layout)

    def encode(self, layout: Layout, tensor: Tensor) -> Coded:
        coded = super().encode(layout, tensor)
        data = lossless.compress(coded.data, self._stage)
        return coded._replace(data=memoryview(data), size=len(data))

    def decode(self, layout: Layout, coded: Coded, place: Place) -> Tensor:
        data = lossless.decompress(coded.data, self._stage, self._bytes(layout))
        return super().decode(layout, coded._replace(data=memoryview(data)), place)


class _Picture:
    """A picture's file."""

    keeps_order = False

    def __init__(self, kind: str, quality: int) -> None:
        self._kind, self._quality = kind, quality
        self.encode(Layout("", torch.uint8, (1, 1, 8, 8), (1, 1, 8, 8), 1), torch.zeros(1, 1, 8, 8, dtype=torch.uint8))

    def size(self, layout: Layout, told: int | None) -> int:
        return _told(told, pictures.most_bytes(layout.raw_bytes), layout)

    def encode(self, layout: Layout, tensor: Tensor) -> Coded:
        data = pictures.to_file(tensor, self._kind, self._quality)
        return Coded(memoryview(data), size=len(data))

    def decode(self, layout: Layout, coded: Coded, place: Place) -> Tensor:
        return place(pictures.from_file(coded.data, self._kind, layout.shape))


class _Own:
    """A user's codec, and tensors that it leaves as they are."""

    keeps_order = False

    def __init__(self, codec: own_codec.OwnCodec) -> None:
        self._codec = codec
        self._plain = _Code("fp32")

    def size(self, layout: Layout, told: int | None) -> int:
        return layout.raw_bytes if told is None else _told(told, self._codec.most_bytes(layout.raw_bytes), layout)

    def encode(self, layout: Layout, tensor: Tensor) -> Coded:
        data = self._codec.encode(layout.name, tensor)
        return self._plain.encode(layout, tensor) if data is None else Coded(memoryview(data), size=len(data))

    def decode(self, layout: Layout, coded: Coded, place: Place) -> Tensor:
        if coded.size is None:
            return self._plain.decode(layout, coded, place)
        return place(self._codec.decode(layout.name, coded.data, layout.shape, layout.dtype))


def _told(told: int | None, most: int, layout: Layout) -> int:
    if told is None or not 0 <= told <= most:
        size = "no size is" if told is None else f"{told} bytes are"
        raise ValueError(f"{size} said of {layout.name[:64]}, a tensor of shape {layout.shape}: up to {most} can be")
    return told


def _numbers(data: memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """A view where the memory is aligned."""
    if not len(data):
        return torch.empty(shape, dtype=dtype)
    numbers = torch.frombuffer(data, dtype=dtype).view(shape)
    return numbers.clone() if numbers.data_ptr() % dtype.itemsize else numbers


#: Those of users that this process loaded. A name that comes over a wire imports nothing.
_loaded: dict[Codec, _Own] = {}


def load_own(codec: Codec, seed: int, folders: tuple[Path, ...]) -> None:
    """Make a user's codec known to this process. Raises InputError."""
    _loaded[codec] = _Own(own_codec.make(codec, seed, folders))


def coder(codec: Codec) -> Coder:
    """Raises ValueError for a name that is none, and for a user's codec that was not loaded."""
    if is_own(codec):
        if codec not in _loaded:
            raise ValueError(f"codec {codec!r} is not known here")
        return _loaded[codec]
    return _built_in(codec)


@functools.cache
def _built_in(codec: Codec) -> Coder:
    code, stage = parts_of(codec)
    if code in CODE_BITS and (codec == code or stage in LOSSLESS_STAGES):
        return _Compressed(code, stage) if stage else _Code(code)
    quality = jpeg_quality(codec)
    if codec != "png" and quality is None:
        raise ValueError(f"there is no codec {codec[:64]!r}; allowed: {BOUNDARY_CODECS}; of the input: {INPUT_CODECS}")
    return _Picture("PNG", 0) if quality is None else _Picture("JPEG", quality)

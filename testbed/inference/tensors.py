"""Tensors on the wire: a typed header, then the raw bytes of each tensor. No pickle.

The header is one msgpack array. The payload is the tensors' bytes, one after the other, without padding; it may be cut
into chunks and joined by whoever carries it. Neither side copies an fp32 tensor: a buffer is a view of the sender's
tensor, and a received tensor is a view of the received buffer (which a tail never writes to).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from controller.contract import Codec, Cut, cut_from_label, cut_label
from controller.contract.codec import channel_axis
from controller.decoding import decode_frame
from testbed.inference import codec as codecs
from testbed.inference.coders import Coded, Layout, coder

WIRE_VERSION = 1
MAX_HEADER_BYTES = 64 * 1024
MAX_PAYLOAD_BYTES = 1 << 30
MAX_TENSORS = 64
MAX_DIMENSIONS = 8

Dimension = Annotated[int, Meta(ge=0, le=MAX_PAYLOAD_BYTES)]
Axis = Annotated[int, Meta(ge=0, lt=MAX_DIMENSIONS)]
Dimensions = Annotated[tuple[Dimension, ...], Meta(max_length=MAX_DIMENSIONS)]
Axes = Annotated[tuple[Axis, ...], Meta(max_length=MAX_DIMENSIONS)]


class MalformedFrame(ValueError):  # noqa: N818 - it names what is counted and dropped
    """A header or payload that does not decode. The receiver counts it and drops the frame."""


class TensorHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One tensor: how to make it from its bytes."""

    dtype: str  # of the tensor, not of its code
    shape: Dimensions  # in the order of ``order``
    order: Axes  # the memory's order of axes; () for the plain one
    scale: float
    offset: float
    coded_bytes: Annotated[int, Meta(ge=0, le=MAX_PAYLOAD_BYTES)] | None = None  # None: shape and codec say it

    @property
    def plain_shape(self) -> tuple[int, ...]:
        """In the plain order of axes. Raises MalformedFrame for an order that is none."""
        if not self.order:
            return self.shape
        if sorted(self.order) != list(range(len(self.shape))):
            raise MalformedFrame(f"{self.order} is not an order of {len(self.shape)} axes")
        return tuple(self.shape[self.order.index(axis)] for axis in range(len(self.shape)))

    def layout(self, name: str) -> Layout:
        """What the value ``name`` is. Raises MalformedFrame for an unknown type, an order that is none, a shape that
        is over the limit."""
        dtype = codecs.VALUE_DTYPES.get(self.dtype)
        if dtype is None:
            raise MalformedFrame(f"unknown dtype {self.dtype!r}; known: {', '.join(codecs.VALUE_DTYPES)}")
        elements(self.shape, MAX_PAYLOAD_BYTES)
        return _layout(name, dtype, self.shape, self.plain_shape, self.order)


class FrameHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One task's tensors. The names of the tensors are those of the cut, in order."""

    version: int
    task: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    cut: Annotated[str, Meta(max_length=MAX_HEADER_BYTES)]  # cut_label
    codec: Annotated[Codec, Meta(max_length=128)]
    tensors: Annotated[tuple[TensorHeader, ...], Meta(max_length=MAX_TENSORS)]
    model_version: Annotated[int, Meta(ge=0)] = 0  # of the weights that the head computed with: the tail takes the same

    @property
    def names(self) -> tuple[str, ...]:
        return cut_from_label(self.cut) or ("answer",)

    @property
    def buffer_bytes(self) -> tuple[int, ...]:
        """Bytes of each tensor's buffer. Raises MalformedFrame for an unknown dtype or codec, for more bytes than a
        tensor of that shape can have, or a total over the limit."""
        try:
            how = coder(self.codec)
            sizes = tuple(
                how.size(tensor.layout(name), tensor.coded_bytes)
                for name, tensor in zip(self.names, self.tensors, strict=True)
            )
        except ValueError as error:
            raise MalformedFrame(str(error)) from error
        if sum(sizes) > MAX_PAYLOAD_BYTES:
            raise MalformedFrame(f"a payload of {sum(sizes)} bytes is over the limit of {MAX_PAYLOAD_BYTES}")
        return sizes

    @property
    def raw_bytes(self) -> int:
        """Of the tensors themselves, in memory."""
        return sum(tensor.layout(name).raw_bytes for name, tensor in zip(self.names, self.tensors, strict=True))

    @property
    def decoded_bytes(self) -> int:
        """That the tensors have at most before the last step of decoding, which may be a device's."""
        return sum(
            max(tensor.layout(name).raw_bytes, size)
            for name, tensor, size in zip(self.names, self.tensors, self.buffer_bytes, strict=True)
        )

    @property
    def payload_bytes(self) -> int:
        """Bytes of all buffers together. Raises MalformedFrame as :attr:`buffer_bytes` does."""
        return sum(self.buffer_bytes)


class Frame(msgspec.Struct, frozen=True):
    """A received task: the tensors of its cut, as the tail takes them."""

    task: int
    cut: Cut
    codec: Codec
    tensors: tuple[Tensor, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(FrameHeader)


def pack(
    task: int, cut: Cut, tensors: Sequence[Tensor], codec: Codec, model_version: int = 0
) -> tuple[bytes, list[memoryview]]:
    """Encode the tensors of one task: the header, and one buffer of bytes for each tensor (a view where possible).

    Axes that are only permuted in memory stay so: the tail then sees the strides that the head made, and computes the
    same bits. Raises ValueError for values that the codec has no code for, and for a codec that is unknown. What
    :func:`why_not` names a reason for cannot be packed.
    """
    how = coder(codec)
    headers: list[TensorHeader] = []
    buffers: list[memoryview] = []
    for name, tensor in zip(cut or ("answer",), tensors, strict=True):
        order = _memory_order(tensor) if how.keeps_order else ()
        laid_out = (tensor.permute(order) if order else tensor).contiguous()
        shape = tuple(laid_out.shape)
        coded = how.encode(_layout(name, tensor.dtype, shape, tuple(tensor.shape), order), laid_out)
        dtype = codecs.DTYPE_NAMES[tensor.dtype]
        headers.append(TensorHeader(dtype, shape, order, coded.scale, coded.offset, coded.size))
        buffers.append(coded.data)
    header = _encoder.encode(FrameHeader(WIRE_VERSION, task, cut_label(cut), codec, tuple(headers), model_version))
    return header, buffers


def _layout(
    name: str, dtype: torch.dtype, shape: tuple[int, ...], plain_shape: tuple[int, ...], order: tuple[int, ...]
) -> Layout:
    axis = channel_axis(len(shape))
    return Layout(name, dtype, shape, plain_shape, order.index(axis) if order and axis is not None else axis)


def largest(logits: memoryview, dtype: torch.dtype) -> int:
    """The class that :func:`raw` logits of that type name. Raises ValueError for no logits."""
    numbers = torch.frombuffer(logits, dtype=codecs.coded_dtype(dtype, "fp32"))
    return int(numbers.to(torch.float64).argmax())


def why_not(tensor: Tensor) -> str:
    """Why a tensor cannot cross the wire; empty if it can."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return f"it is a {type(tensor).__name__}, not a plain tensor"
    if tensor.is_nested or tensor.layout != torch.strided:
        return f"its layout is {'nested' if tensor.is_nested else str(tensor.layout).removeprefix('torch.')}"
    if tensor.dtype not in codecs.DTYPE_NAMES:
        return f"its type is {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.is_quantized and tensor.qscheme() not in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return "it is quantised with a scale per channel"
    if tensor.ndim > MAX_DIMENSIONS:
        return f"it has {tensor.ndim} dimensions, and {MAX_DIMENSIONS} can cross"
    if tensor.numel() * tensor.element_size() > MAX_PAYLOAD_BYTES:
        return f"it has more than {MAX_PAYLOAD_BYTES} bytes"
    return ""


def frame_bytes(header: bytes, buffers: Sequence[memoryview]) -> int:
    """Bytes of a packed task: header and payload, without the transport's own framing."""
    return len(header) + sum(buffer.nbytes for buffer in buffers)


def decode_header(header: bytes | memoryview) -> FrameHeader:
    """The header alone, so that a receiver knows how many bytes of payload follow. Raises MalformedFrame."""
    if len(header) > MAX_HEADER_BYTES:
        raise MalformedFrame(f"a header of {len(header)} bytes is over the limit of {MAX_HEADER_BYTES}")
    try:
        decoded = decode_frame(_decoder, header)
    except msgspec.DecodeError as error:
        raise MalformedFrame(f"the header does not decode: {error}") from error
    if decoded.version != WIRE_VERSION:
        raise MalformedFrame(f"the frame has wire version {decoded.version}, this program speaks {WIRE_VERSION}")
    if len(decoded.names) != len(decoded.tensors):
        raise MalformedFrame(f"cut {decoded.cut!r} with {len(decoded.tensors)} tensors")
    _ = decoded.buffer_bytes
    return decoded


def split_payload(header: FrameHeader, payload: memoryview | bytes | bytearray) -> list[memoryview]:
    """The buffers of a payload that arrived in one piece (views). Raises MalformedFrame if its size is wrong."""
    view = memoryview(payload)
    if view.nbytes != header.payload_bytes:
        raise MalformedFrame(f"a payload of {view.nbytes} bytes where the header says {header.payload_bytes}")
    view = view.cast("B")
    buffers: list[memoryview] = []
    start = 0
    for size in header.buffer_bytes:
        buffers.append(view[start : start + size])
        start += size
    return buffers


def unpack(
    header: FrameHeader | bytes | memoryview,
    buffers: Sequence[memoryview | bytes | bytearray],
    place: Callable[[Tensor], Tensor] = lambda coded: coded,
) -> Frame:
    """The tensors of one task, with the shape, type and strides that they had. Raises MalformedFrame.

    fp32 tensors are views of ``buffers``: keep those unchanged until the tail has run. ``place`` may put a tensor,
    still coded, elsewhere (on a GPU): it is decoded there.
    """
    decoded = header if isinstance(header, FrameHeader) else decode_header(header)
    if len(buffers) != len(decoded.tensors):
        raise MalformedFrame(f"{len(buffers)} buffers for {len(decoded.tensors)} tensors")
    tensors = tuple(
        _tensor(name, tensor, decoded.codec, memoryview(buffer), size, place)
        for name, tensor, buffer, size in zip(
            decoded.names, decoded.tensors, buffers, decoded.buffer_bytes, strict=True
        )
    )
    return Frame(decoded.task, cut_from_label(decoded.cut), decoded.codec, tensors)


def _memory_order(tensor: Tensor) -> tuple[int, ...]:
    """The axes from outermost to innermost in memory; () if that is the plain order or the memory has gaps."""
    if tensor.is_contiguous():
        return ()
    strides = tensor.stride()
    order = sorted(range(tensor.ndim), key=strides.__getitem__, reverse=True)
    return tuple(order) if tensor.permute(order).is_contiguous() else ()


def elements(shape: Sequence[int], limit: int) -> int:
    """How many a tensor has. Raises MalformedFrame where its strides alone are over the limit, were it empty."""
    if math.prod(max(size, 1) for size in shape) > limit:
        raise MalformedFrame(f"a tensor of shape {tuple(shape)} is over the limit of {limit} elements")
    return math.prod(shape)


def _tensor(
    name: str,
    header: TensorHeader,
    codec: Codec,
    buffer: memoryview,
    size: int,
    place: Callable[[Tensor], Tensor],
) -> Tensor:
    if buffer.nbytes != size:
        raise MalformedFrame(f"a buffer of {buffer.nbytes} bytes where the header says {size}")
    layout = header.layout(name)
    bounds = torch.finfo(layout.dtype if layout.dtype.is_floating_point else torch.float64)
    if not (abs(header.scale) <= bounds.max and abs(header.offset) <= bounds.max):  # also for nan
        raise MalformedFrame(f"scale {header.scale} and offset {header.offset} must be values of {header.dtype}")
    if header.dtype.startswith("q") and not (header.offset.is_integer() and abs(header.offset) < 1 << 31):
        raise MalformedFrame(f"a zero point of {header.offset}")
    try:
        coded = Coded(buffer.cast("B"), header.scale, header.offset, header.coded_bytes)
        tensor = coder(codec).decode(layout, coded, place)
    except ValueError as error:
        raise MalformedFrame(str(error)) from error
    if not header.order:
        return tensor
    inverse = sorted(range(len(header.order)), key=header.order.__getitem__)
    return tensor.permute(inverse)

"""Tensors on the wire: a typed header, then the raw bytes of each tensor. No pickle.

The header is one msgpack array. The payload is the tensors' bytes, one after the other, without padding; it may be cut
into chunks and joined by whoever carries it. Neither side copies an fp32 tensor: a buffer is a view of the sender's
tensor, and a received tensor is a view of the received buffer (which a tail never writes to).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from controller.contract import Codec, Cut, cut_from_label, cut_label
from controller.decoding import decode_frame
from testbed.inference import codec as codecs

WIRE_VERSION = 1
MAX_HEADER_BYTES = 64 * 1024
MAX_PAYLOAD_BYTES = 1 << 30
MAX_TENSORS = 64
MAX_DIMENSIONS = 8

# torch warns, once, that nothing stops a write into a read-only buffer. Nothing here writes: in-place operations are
# cleared from every tail (testbed.inference.graph), and copying each frame instead would undo the zero-copy.
warnings.filterwarnings("ignore", message="The given buffer is not writable")

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


class FrameHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One task's tensors. The names of the tensors are those of the cut, in order."""

    version: int
    task: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    cut: Annotated[str, Meta(max_length=MAX_HEADER_BYTES)]  # cut_label
    codec: Codec
    tensors: Annotated[tuple[TensorHeader, ...], Meta(max_length=MAX_TENSORS)]
    model_version: Annotated[int, Meta(ge=0)] = 0  # of the weights that the head computed with: the tail takes the same

    @property
    def buffer_bytes(self) -> tuple[int, ...]:
        """Bytes of each tensor's buffer. Raises MalformedFrame for an unknown dtype or a total over the limit."""
        sizes = tuple(_buffer_bytes(tensor, self.codec) for tensor in self.tensors)
        if sum(sizes) > MAX_PAYLOAD_BYTES:
            raise MalformedFrame(f"a payload of {sum(sizes)} bytes is over the limit of {MAX_PAYLOAD_BYTES}")
        return sizes

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
    same bits. Raises ValueError where :func:`testbed.inference.codec.encode` does. What :func:`why_not` names a reason
    for cannot be packed.
    """
    headers: list[TensorHeader] = []
    buffers: list[memoryview] = []
    for tensor in tensors:
        order = _memory_order(tensor)
        laid_out = (tensor.permute(order) if order else tensor).contiguous()
        coded, scale, offset = codecs.encode(laid_out, codec)
        headers.append(TensorHeader(codecs.DTYPE_NAMES[tensor.dtype], tuple(laid_out.shape), order, scale, offset))
        buffers.append(raw(coded))
    header = _encoder.encode(FrameHeader(WIRE_VERSION, task, cut_label(cut), codec, tuple(headers), model_version))
    return header, buffers


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor's numbers in the plain order of its axes: a view where they lie so in memory."""
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    # torch conjugates and negates lazily, and refuses to show the bytes of what it has yet to do
    return tensor.resolve_conj().resolve_neg().cpu().reshape(-1).view(torch.uint8).numpy().data


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
    names = cut_from_label(decoded.cut) or ("answer",)
    if len(names) != len(decoded.tensors):
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
        _tensor(tensor, decoded.codec, memoryview(buffer), size, place)
        for tensor, buffer, size in zip(decoded.tensors, buffers, decoded.buffer_bytes, strict=True)
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


def _buffer_bytes(tensor: TensorHeader, codec: Codec) -> int:
    dtype = codecs.VALUE_DTYPES.get(tensor.dtype)
    if dtype is None:
        raise MalformedFrame(f"unknown dtype {tensor.dtype!r}; known: {', '.join(codecs.VALUE_DTYPES)}")
    return elements(tensor.shape, MAX_PAYLOAD_BYTES) * codecs.coded_dtype(dtype, codec).itemsize


def _tensor(
    header: TensorHeader, codec: Codec, buffer: memoryview, size: int, place: Callable[[Tensor], Tensor]
) -> Tensor:
    if buffer.nbytes != size:
        raise MalformedFrame(f"a buffer of {buffer.nbytes} bytes where the header says {size}")
    if header.order and sorted(header.order) != list(range(len(header.shape))):
        raise MalformedFrame(f"{header.order} is not an order of {len(header.shape)} axes")
    dtype = codecs.VALUE_DTYPES[header.dtype]
    bounds = torch.finfo(dtype if dtype.is_floating_point else torch.float64)
    if not (abs(header.scale) <= bounds.max and abs(header.offset) <= bounds.max):  # also for nan
        raise MalformedFrame(f"scale {header.scale} and offset {header.offset} must be values of {header.dtype}")
    if header.dtype.startswith("q") and not (header.offset.is_integer() and abs(header.offset) < 1 << 31):
        raise MalformedFrame(f"a zero point of {header.offset}")
    coded_dtype = codecs.coded_dtype(dtype, codec)
    if size == 0:
        coded = torch.empty(header.shape, dtype=coded_dtype)
    else:
        coded = torch.frombuffer(buffer, dtype=coded_dtype).view(header.shape)
        if coded.data_ptr() % coded_dtype.itemsize:
            coded = coded.clone()
    tensor = codecs.decode(place(coded), dtype, codec, header.scale, header.offset)
    if not header.order:
        return tensor
    inverse = sorted(range(len(header.order)), key=header.order.__getitem__)
    return tensor.permute(inverse)

"""Several tensors as one of bytes: what a node has that makes more than one, and an answer of more than one.

A bundle is a flat uint8 tensor: how many there are and, of each, its type and shape, as int64; then their bytes, each
from a multiple of 64 on, since kernels round otherwise where memory is not aligned as torch aligns it. It says itself
what it holds, so that sizes may differ from task to task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from testbed.inference.codec import DTYPES
from testbed.inference.tensors import MAX_DIMENSIONS, MAX_PAYLOAD_BYTES, why_not

ALIGNMENT_BYTES = 64
MAX_PARTS = 4096
_TYPES = tuple(DTYPES.values())
_WORD_BYTES = 8


class MalformedBundle(ValueError):  # noqa: N818 - as MalformedFrame
    """Bytes that are no bundle."""


def bundle(tensors: Sequence[Tensor]) -> Tensor:
    """One tensor of bytes, on the device of the first. Raises ValueError for what cannot cross the wire."""
    for tensor in tensors:
        if tensor.is_quantized or (reason := why_not(tensor)):
            raise ValueError(f"a part cannot be bundled: {'it is quantised' if tensor.is_quantized else reason}")
    words = [len(tensors)]
    for tensor in tensors:
        words += [_TYPES.index(tensor.dtype), tensor.ndim, *tensor.shape]
    device = tensors[0].device if tensors else torch.device("cpu")
    parts = [torch.tensor(words, dtype=torch.int64).view(torch.uint8).to(device)]
    for tensor in tensors:
        parts.append(parts[0].new_zeros(_padding(parts[-1].numel())))
        parts.append(tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8))
    return torch.cat(parts)


def parts_of(data: Tensor) -> list[Tensor]:
    """The tensors of a bundle: views of it where it is aligned. Raises MalformedBundle."""
    described, offset = _described(data)
    found: list[Tensor] = []
    end = offset
    for dtype, shape in described:
        start = end + _padding(end)
        end = start + math.prod(shape) * dtype.itemsize
        if end > data.numel():
            raise MalformedBundle(f"a bundle of {data.numel()} bytes ends before its last part")
        raw = data[start:end]
        if raw.data_ptr() % ALIGNMENT_BYTES:
            raw = raw.clone()
        found.append(raw.view(dtype).view(shape) if raw.numel() else torch.empty(shape, dtype=dtype, device=raw.device))
    if end != data.numel():
        raise MalformedBundle(f"{data.numel() - end} bytes of a bundle belong to no part")
    return found


def _described(data: Tensor) -> tuple[list[tuple[torch.dtype, tuple[int, ...]]], int]:
    """Type and shape of each part, and the bytes that say so."""
    if data.dtype != torch.uint8 or data.ndim != 1 or data.numel() < _WORD_BYTES:
        raise MalformedBundle(f"{data.dtype} of shape {tuple(data.shape)} is no bundle")
    (count,) = _words(data, 0, 1)
    if not 0 <= count <= MAX_PARTS:
        raise MalformedBundle(f"a bundle of {count} parts")
    known = min(data.numel() // _WORD_BYTES, 1 + count * (2 + MAX_DIMENSIONS))
    words = iter(_words(data, 1, known - 1))
    described: list[tuple[torch.dtype, tuple[int, ...]]] = []
    used = 1
    try:
        for _ in range(count):
            kind, dimensions = next(words), next(words)
            if not (0 <= kind < len(_TYPES) and 0 <= dimensions <= MAX_DIMENSIONS):
                raise MalformedBundle(f"a part of type {kind} with {dimensions} dimensions")
            shape = tuple(next(words) for _ in range(dimensions))
            if (
                not all(0 <= size <= MAX_PAYLOAD_BYTES for size in shape)
                or math.prod(max(size, 1) for size in shape) * _TYPES[kind].itemsize > MAX_PAYLOAD_BYTES
            ):
                raise MalformedBundle(f"a part of shape {shape}")
            described.append((_TYPES[kind], shape))
            used += 2 + dimensions
    except StopIteration:
        raise MalformedBundle("a bundle ends within its description") from None
    return described, used * _WORD_BYTES


def _words(data: Tensor, first: int, count: int) -> list[int]:
    raw = data[first * _WORD_BYTES : (first + count) * _WORD_BYTES].cpu()
    words: list[int] = raw.clone().view(torch.int64).tolist()
    return words


def _padding(end: int) -> int:
    return -end % ALIGNMENT_BYTES


class Bundle(nn.Module):
    """The bundle of its arguments, as a node."""

    def forward(self, *tensors: Tensor) -> Tensor:
        return bundle(tensors)


class Unbundle(nn.Module):
    """The parts of a bundle, as a helper of those that read them."""

    def forward(self, data: Tensor) -> tuple[Tensor, ...]:
        return tuple(parts_of(data))

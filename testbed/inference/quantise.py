"""Few levels for many values: 8 or 4 bits with a scale and an offset per channel, or for the tensor as a whole.

One stream of bytes: the scales, the offsets, then the codes, channel by channel; two 4-bit codes share a byte.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from controller.contract import Codec
from controller.contract.codec import CODE_BITS

_HALF = torch.tensor(0.5)
#: Of the largest value: beyond it, decoding could round to infinity.
HEADROOM = 0.999


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """16 bits are too few to count 255 steps in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def quantise(tensor: Tensor, code: Codec, axis: int | None) -> Tensor:
    """The stream of a floating-point tensor: uint8, flat. ``axis`` is that of its channels; None: it has one.

    ``round((x - offset) / scale)``, ``offset`` the channel's minimum and ``scale`` its range over the number of steps
    (255 or 15): absolute error <= scale / 2 and the rounding of the type. A range whose steps would be subnormal is
    none. Raises ValueError for an infinity, a nan, or a range beyond what the type (float32 for 16-bit ones) can hold.
    """
    if not tensor.numel():
        return torch.empty(0, dtype=torch.uint8)
    work = tensor.to(work_dtype(tensor.dtype))
    rows = work.reshape(1, -1) if axis is None else work.movedim(axis, 0).reshape(work.shape[axis], -1).contiguous()
    low, high = torch.aminmax(rows, dim=1)
    bounds = torch.finfo(work.dtype)
    largest = torch.stack((high - low, low.abs(), high.abs())).max()
    if not float(largest) <= HEADROOM * bounds.max:  # also for nan
        raise ValueError(f"a tensor with values from {float(low.min())} to {float(high.max())} has no {code} code")
    scale = (high - low) / ((1 << CODE_BITS[code]) - 1)
    scale = torch.where(scale < bounds.tiny, 0.0, scale)
    # all steps are >= 0, so adding a half and truncating rounds to nearest; the hair less keeps them in range
    steps = torch.where(scale > 0, (1.0 - 1e-6) / scale, 0.0)
    codes = ((rows - low[:, None]) * steps[:, None]).add_(_HALF).to(torch.uint8).view(-1)
    if CODE_BITS[code] == 4:
        codes = torch.nn.functional.pad(codes, (0, codes.numel() % 2))
        codes = codes[0::2] | (codes[1::2] << 4)
    return torch.cat((scale.view(torch.uint8), low.view(torch.uint8), codes))


def dequantise(stream: Tensor, code: Codec, shape: Sequence[int], axis: int | None, dtype: torch.dtype) -> Tensor:
    """Inverse of :func:`quantise`, on the device of the stream, whose length must be right."""
    if not math.prod(shape):
        return torch.empty(tuple(shape), dtype=dtype, device=stream.device)
    channels = 1 if axis is None else shape[axis]
    work = work_dtype(dtype)
    scales = 2 * channels * work.itemsize
    scale, low = stream[:scales].clone().view(work).view(2, channels, 1)
    codes = stream[scales:]
    if CODE_BITS[code] == 4:
        codes = torch.stack((codes & 15, codes >> 4), dim=1).view(-1)[: math.prod(shape)]
    values = codes.view(channels, -1).to(work).mul_(scale).add_(low)
    if axis is None:
        return values.view(tuple(shape)).to(dtype)
    moved = (channels, *shape[:axis], *shape[axis + 1 :])
    return values.view(moved).movedim(0, axis).reshape(-1).view(tuple(shape)).to(dtype)

"""How a tensor becomes bytes: as it is (fp32), in half precision, or in 8 bits with a scale and an offset.

Only floating-point tensors are converted. Everything else - first of all the uint8 image - travels as it is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from controller.contract import Codec

#: The levels of the 8-bit code.
LEVELS = 255
FP16_MAX = 65504.0
_HALF = torch.tensor(0.5)


def encode(tensor: Tensor, codec: Codec) -> tuple[Tensor, float, float]:
    """Encode a tensor: (coded tensor of the same shape, scale, offset).

    - ``fp32``: the tensor itself, bit for bit;
    - ``fp16``: rounded to nearest, relative error <= 2**-11; beyond +-65504 it saturates;
    - ``uint8``: ``round((x - offset) / scale)`` with ``offset`` the minimum and ``scale`` the range / 255: absolute
      error <= scale / 2.

    Raises ValueError for ``uint8`` if the tensor holds an infinity or a nan, or spans more than float32 can.
    """
    if codec == "fp32" or not tensor.is_floating_point():
        return tensor, 1.0, 0.0
    if codec == "fp16":
        return tensor.clamp(-FP16_MAX, FP16_MAX).half(), 1.0, 0.0
    low, high = (float(bound) for bound in torch.aminmax(tensor)) if tensor.numel() else (0.0, 0.0)
    scale = (high - low) / LEVELS
    if not math.isfinite(scale) or abs(high - low) > torch.finfo(torch.float32).max:
        raise ValueError(f"a tensor with values from {low} to {high} has no 8-bit code; use fp32 for this model")
    if scale < torch.finfo(torch.float32).tiny:
        return torch.zeros_like(tensor, dtype=torch.uint8), 0.0, low
    # All values are >= 0, so adding a half and truncating rounds to nearest, in one pass less. The factor is a hair
    # small, so that no rounding error can reach 256, which would wrap to 0.
    steps = tensor - low
    torch.add(_HALF, steps, alpha=(1.0 - 1e-6) / scale, out=steps)
    return steps.to(torch.uint8), scale, low


def decode(coded: Tensor, dtype: torch.dtype, codec: Codec, scale: float, offset: float) -> Tensor:
    """Inverse of :func:`encode`; ``dtype`` is the original's. For ``fp32`` it is ``coded`` itself."""
    if coded.dtype == dtype:
        return coded
    if codec == "fp16":
        return coded.to(dtype)
    values = coded.to(dtype)
    return torch.add(torch.tensor(offset, dtype=dtype), values, alpha=scale, out=values)


def coded_dtype(dtype: torch.dtype, codec: Codec) -> torch.dtype:
    """The type of the bytes on the wire for a tensor of type ``dtype``."""
    if codec == "fp32" or not dtype.is_floating_point:
        return dtype
    return torch.float16 if codec == "fp16" else torch.uint8

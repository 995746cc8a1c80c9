"""How a tensor becomes bytes: as it is (fp32), in half precision, or in 8 bits with a scale and an offset.

Codes of a scale per channel, and of 4 bits: :mod:`testbed.inference.quantise`. Whole codecs:
:mod:`testbed.inference.coders`.

Only floating-point tensors are converted, and only to fewer bytes than they have. Everything else - first of all the
uint8 image, and quantised, integer and complex values - travels as it is, bit for bit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from controller.contract import Codec
from controller.contract.codec import converted
from testbed.inference.quantise import HEADROOM, work_dtype

#: The levels of the 8-bit code.
LEVELS = 255
FP16_MAX = 65504.0
_HALF = torch.tensor(0.5)

#: By the name that headers and profiles have for it.
DTYPES: dict[str, torch.dtype] = {
    "f32": torch.float32,
    "f64": torch.float64,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f8e4m3": torch.float8_e4m3fn,
    "f8e5m2": torch.float8_e5m2,
    "f8e4m3fnuz": torch.float8_e4m3fnuz,
    "f8e5m2fnuz": torch.float8_e5m2fnuz,
    "f8e8m0": torch.float8_e8m0fnu,
    "u8": torch.uint8,
    "u16": torch.uint16,
    "u32": torch.uint32,
    "u64": torch.uint64,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "bool": torch.bool,
    "c32": torch.complex32,
    "c64": torch.complex64,
    "c128": torch.complex128,
}
_QUANTISED: dict[str, torch.dtype] = {"qu8": torch.quint8, "qi8": torch.qint8, "qi32": torch.qint32}
#: What a quantised tensor's numbers are before scale and zero point.
INTEGERS = {torch.quint8: torch.uint8, torch.qint8: torch.int8, torch.qint32: torch.int32}
#: Those of weights, and those of values, which may also be quantised with one scale.
VALUE_DTYPES: dict[str, torch.dtype] = {**DTYPES, **_QUANTISED}
DTYPE_NAMES = {dtype: name for name, dtype in VALUE_DTYPES.items()}


def encode(tensor: Tensor, codec: Codec) -> tuple[Tensor, float, float]:
    """Encode a tensor: (coded tensor of the same shape, scale, offset).

    - ``fp32``: the tensor itself, bit for bit (of a quantised one: its integers, scale and zero point);
    - ``fp16``: rounded to nearest, relative error <= 2**-11; beyond +-65504 it saturates; 16-bit tensors as they are;
    - ``uint8``: ``round((x - offset) / scale)`` with ``offset`` the minimum and ``scale`` the range / 255: absolute
      error <= scale / 2, and the rounding of the tensor's own type (half a unit in the last place). A range whose steps
      would be subnormal (float32: under 3e-36 in all) is none: the tensor is its minimum.

    Raises ValueError for ``uint8`` if the tensor holds an infinity or a nan, or spans more than its type (float32 for
    16-bit ones) can.
    """
    if tensor.is_quantized:
        return tensor.int_repr(), tensor.q_scale(), float(tensor.q_zero_point())
    if coded_dtype(tensor.dtype, codec) == tensor.dtype:
        return tensor, 1.0, 0.0
    work = work_dtype(tensor.dtype)
    if codec == "fp16":
        return tensor.to(work).clamp(-FP16_MAX, FP16_MAX).half(), 1.0, 0.0
    low, high = (float(bound) for bound in torch.aminmax(tensor)) if tensor.numel() else (0.0, 0.0)
    scale = (high - low) / LEVELS
    if not max(high - low, abs(low), abs(high)) <= HEADROOM * torch.finfo(work).max or not math.isfinite(scale):
        raise ValueError(f"a tensor with values from {low} to {high} has no 8-bit code; use fp32 for this model")
    if scale < torch.finfo(work).tiny:
        return torch.zeros_like(tensor, dtype=torch.uint8), 0.0, low
    # All values are >= 0, so adding a half and truncating rounds to nearest, in one pass less. The factor is a hair
    # small, so that no rounding error can reach 256, which would wrap to 0.
    steps = tensor.to(work) - low
    torch.add(_HALF, steps, alpha=(1.0 - 1e-6) / scale, out=steps)
    return steps.to(torch.uint8), scale, low


def decode(coded: Tensor, dtype: torch.dtype, codec: Codec, scale: float, offset: float) -> Tensor:
    """Inverse of :func:`encode`; ``dtype`` is the original's. For ``fp32`` it is ``coded`` itself, unless quantised."""
    if dtype in INTEGERS:
        return torch._make_per_tensor_quantized_tensor(coded, scale, int(offset))
    if coded.dtype == dtype:
        return coded
    if codec == "fp16":
        return coded.to(dtype)
    values = coded.to(work_dtype(dtype))
    return torch.add(torch.tensor(offset, dtype=values.dtype), values, alpha=scale, out=values).to(dtype)


def coded_dtype(dtype: torch.dtype, codec: Codec) -> torch.dtype:
    """The type of the bytes on the wire for a tensor of type ``dtype``."""
    if dtype in INTEGERS:
        return INTEGERS[dtype]
    code = {"fp16": torch.float16, "uint8": torch.uint8}.get(codec, dtype)
    return code if code.itemsize < dtype.itemsize and dtype.is_floating_point else dtype


def is_streamed(dtype: torch.dtype, codec: Codec) -> bool:
    """Whether the code of such a tensor is a stream of :mod:`testbed.inference.quantise`."""
    return codec not in ("fp32", "fp16", "uint8") and dtype not in INTEGERS and converted(DTYPE_NAMES[dtype], codec)


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor's numbers in the plain order of its axes: a view where they lie so in memory."""
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    # torch conjugates and negates lazily, and refuses to show the bytes of what it has yet to do
    return tensor.resolve_conj().resolve_neg().cpu().reshape(-1).view(torch.uint8).numpy().data

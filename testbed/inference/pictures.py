"""What cameras and applications send: a uint8 image as a JPEG or PNG file (Pillow)."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

#: By number of channels.
_MODES = {"JPEG": {1: "L", 3: "RGB"}, "PNG": {1: "L", 3: "RGB", 4: "RGBA"}}
#: Above a multiple of the raw size no file of ours is: headers and tables.
_HEADERS_BYTES = 64 << 10


def most_bytes(raw_bytes: int) -> int:
    """Of the file of an image, whatever is on it (JPEG may be larger than the image where that is noise)."""
    return 2 * raw_bytes + _HEADERS_BYTES


def to_file(image: Tensor, kind: str, quality: int) -> bytes:
    """The file of a uint8 image (1, C, H, W). ``quality`` is JPEG's, 1 to 100. Raises ValueError for no such image."""
    _check(image.dtype, image.shape, kind)
    pixels = image[0].permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    options = {"quality": quality} if kind == "JPEG" else {"compress_level": 6}
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, kind, **options)
    return file.getvalue()


def from_file(data: memoryview, kind: str, shape: Sequence[int]) -> Tensor:
    """The uint8 image (1, C, H, W) of a file. Raises ValueError for a file that is none, or not of that shape: then
    nothing is unpacked."""
    mode = _check(torch.uint8, shape, kind)
    try:
        with Image.open(io.BytesIO(data), formats=(kind,)) as file:
            found = f"{file.mode} of {file.size}"
            pixels = np.array(file) if (file.mode, file.size) == (mode, (shape[3], shape[2])) else None
    except Exception as error:  # Pillow's decoders raise anything, from SyntaxError to zlib.error
        raise ValueError(f"not a {kind} file: {error}") from error
    if pixels is None:
        raise ValueError(f"a {kind} file with {found} in the place of an image of shape {tuple(shape)}")
    return torch.from_numpy(pixels.reshape(shape[2], shape[3], shape[1])).permute(2, 0, 1).contiguous()[None]


def _check(dtype: torch.dtype, shape: Sequence[int], kind: str) -> str:
    """The mode of such an image. Raises ValueError."""
    modes = _MODES[kind]
    if dtype != torch.uint8 or len(shape) != 4 or shape[0] != 1 or shape[1] not in modes or 0 in shape:
        allowed = ", ".join(map(str, modes))
        raise ValueError(f"{kind} takes a uint8 image (1, C, H, W) with C of {allowed}, not {dtype} {tuple(shape)}")
    return modes[shape[1]]

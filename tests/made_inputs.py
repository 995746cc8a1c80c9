"""Images, clips and arrays of a few pixels, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

SIDE = 16


def images(folder: Path, count: int = 3, sizes: Sequence[tuple[int, int]] = ((24, SIDE),)) -> Path:
    """PNGs ``b0.png``, ``b1.png``, ... of one colour each; ``sizes``: (width, height), in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", sizes[number % len(sizes)], (number, 10, 200)).save(folder / f"b{number}.png")
    return folder


def clip(path: Path, frames: int = 8, rate: int = 5, side: int = 32) -> Path:
    """Frames of growing brightness."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        for number in range(frames):
            shade = np.full((side, side, 3), 20 * number % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        container.mux(stream.encode())
    return path

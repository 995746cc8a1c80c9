"""What codecs make of photographs: bytes, CPU time, and how many answers stay, per model and codec.

python -m benchmarks.codecs        write the table into docs/codecs.md

The photographs are 8 crops of the portrait that Matplotlib ships, weights are random (seed 7). Boundaries: four
single-tensor cuts of each model, evenly spaced; ratio is to fp32 (for the input, to the raw image), times are CPU
seconds of this process per MB of the tensor in memory.
"""

from __future__ import annotations

import time
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.pages import ROOT, written
from controller.contract import ALL_ON_EDGE, Codec, Cut
from testbed.inference import tensors
from testbed.inference.codec_profiling import agrees
from testbed.inference.partition import SplitModel, load_split_model

MODELS = ("torchvision:alexnet", "torchvision:resnet18", "torchvision:mobilenet_v2")
INPUT: tuple[Codec, ...] = ("uint8", "png", "jpeg-95", "jpeg-90", "jpeg-50")
BOUNDARY: tuple[Codec, ...] = (
    *("fp32", "fp32+lz4", "fp32+zstd", "fp16", "fp16+zstd", "uint8", "uint8+lz4", "uint8+zstd", "uint8-per-channel"),
    *("int4", "int4+lz4", "int4+zstd", "int4-per-channel", "int4-per-channel+zstd"),
)
CROPS, CUTS, SEED = 8, 4, 7
COMMAND = "python -m benchmarks.codecs"


def photographs(side: int) -> list[Tensor]:
    """Crops of half the portrait's width, spread over it, as uint8 images (1, 3, side, side)."""
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    with Image.open(path) as file:
        portrait = file.convert("RGB")
    width = portrait.width // 2
    found = []
    for number in range(CROPS):
        left = number % 2 * (portrait.width - width)
        top = number // 2 * (portrait.height - width) // (CROPS // 2 - 1)
        crop = portrait.crop((left, top, left + width, top + width)).resize((side, side))
        found.append(torch.from_numpy(np.array(crop)).permute(2, 0, 1).contiguous()[None])
    return found


def row(split: SplitModel, cuts: list[Cut], codec: Codec, images: list[Tensor]) -> tuple[float, float, float, float]:
    """(bytes to bytes in memory, seconds per byte to encode and to decode, share of answers that stay)."""
    raw = sent = 0
    encode = decode = 0.0
    same: list[bool] = []
    for cut in cuts:
        for image in images:
            values = (image,) if cut == ALL_ON_EDGE else split.partition(cut).head(image)
            with torch.inference_mode():
                start = time.process_time()
                header, buffers = tensors.pack(0, cut, values, codec)
                middle = time.process_time()
                given = tensors.unpack(header, buffers).tensors
                encode, decode = encode + middle - start, decode + time.process_time() - middle
            raw += sum(value.numel() * value.element_size() for value in values)
            sent += sum(len(buffer) for buffer in buffers)
            reference = split.partition(()).head(image)[0]
            same.append(agrees(split.partition(cut).tail(given), reference))
    return sent / raw, encode / raw, decode / raw, float(np.mean(same))


def table() -> str:
    lines = [
        "| model | codec | bytes, of all | encode, CPU ms/MB | decode, CPU ms/MB | agreement |",
        "|---|---|---|---|---|---|",
    ]
    for name in MODELS:
        split = load_split_model(name, SEED)
        images = photographs(split.model.input_shape[1])
        inner = split.graph.chain_cuts[1:-1]
        cuts = [inner[round(at)] for at in np.linspace(0, len(inner) - 1, CUTS + 2)[1:-1]]
        uses: list[tuple[list[Cut], Codec]] = [([ALL_ON_EDGE], codec) for codec in INPUT]
        uses += [(cuts, codec) for codec in BOUNDARY]
        for where, codec in uses:
            row(split, where[:1], codec, images[:1])  # the first call fills caches
            ratio, encode, decode, agreement = row(split, where, codec, images)
            of = "input" if where == [ALL_ON_EDGE] else "boundary"
            model = name.removeprefix("torchvision:")
            cells = f"{ratio:.1%} | {encode * 1e9:.1f} | {decode * 1e9:.1f} | {agreement:.0%}"
            lines.append(f"| {model} | {of} `{codec}` | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    page = ROOT / "docs" / "codecs.md"
    page.write_text(written(page.read_text(encoding="utf-8"), "table", table(), COMMAND), encoding="utf-8")

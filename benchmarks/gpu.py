"""Tails on the edge's GPU against the CPU in the same run: time per cut, copies to and from the device, answers.

    python -m benchmarks.gpu [--model torchvision:mobilenet_v2] [--cuts 8] [--repeat 30]

For each cut and codec, as in a lab (a received task in, fp32 logits out): seconds on one CPU core and on the GPU,
device time of the tail by CUDA events, seconds of the copies, and the largest difference of the logits. ``--device
cpu`` takes the same path without a GPU, which shows what that path itself costs.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch

from controller.contract import PLAIN_CODECS, Codec, Cut
from testbed.inference import tensors
from testbed.inference.profiles import read_profile
from testbed.node.backend import CpuBackend
from testbed.node.device_backend import DeviceBackend
from testbed.node.devices import CudaStream, HostStream, cuda_missing

SEED = 7


def timed(run: Callable[[], torch.Tensor], repeat: int) -> tuple[float, torch.Tensor]:
    """(median seconds, the answer) of ``repeat`` runs."""
    seconds = []
    answer = torch.empty(0)
    for _ in range(repeat):
        begin = time.perf_counter()
        answer = run()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds), answer


def answer_of(backend: CpuBackend, header: bytes, buffers: list[memoryview]) -> torch.Tensor:
    tail = backend.tail(tensors.decode_header(header), buffers)
    while not tail.finished:
        tail.step()
    return torch.frombuffer(tail.logits(), dtype=torch.float32)


def row(cpu: CpuBackend, device: DeviceBackend, cut: Cut, codec: Codec, repeat: int) -> dict[str, object]:
    header, buffers = cpu.head(0, cut, codec, cpu.split.model.probe)
    cpu_seconds, expected = timed(lambda: answer_of(cpu, header, buffers), repeat)
    before = dataclasses.replace(device.usage)
    device_seconds, found = timed(lambda: answer_of(device, header, buffers), repeat)
    usage = device.usage
    per_tail = {
        name: (getattr(usage, name) - getattr(before, name)) / repeat
        for name in ("tail_seconds", "upload_seconds", "download_seconds", "uploaded_bytes", "downloaded_bytes")
    }
    return {
        "cut": "+".join(cut),
        "codec": codec,
        "cpu_seconds": cpu_seconds,
        "device_seconds": device_seconds,
        "cpu_over_device": cpu_seconds / device_seconds,
        **{f"mean_{name}": value for name, value in per_tail.items()},
        "largest_logit": float(expected.abs().max()),  # 0: random weights make values that fp16 cannot hold
        "largest_difference": float((found - expected).abs().max()),
    }


@click.command()
@click.option("--model", default="torchvision:mobilenet_v2", show_default=True)
@click.option("--profile", type=click.Path(exists=True, path_type=Path), help="Default: the shipped one of the model.")
@click.option("--cuts", default=8, show_default=True, help="How many, evenly over the model.")
@click.option("--repeat", default=30, show_default=True)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
def main(model: str, profile: Path | None, cuts: int, repeat: int, device: str) -> None:
    """Print one row per cut and codec as JSON. Exit code 3 without a GPU."""
    if device == "cuda" and (reason := cuda_missing()):
        click.echo(f"error: {reason}; --device cpu measures the path without one", err=True)
        sys.exit(3)
    torch.set_num_threads(1)
    shipped = Path(__file__).parents[1] / "topologies" / "profiles" / f"{model.partition(':')[2]}.json"
    measured = read_profile(profile or shipped)
    stream = CudaStream() if device == "cuda" else HostStream()
    cpu = CpuBackend(model, SEED, measured)
    begin = time.perf_counter()
    there = DeviceBackend(model, SEED, measured, stream)
    there.prepare_tails(measured.chain_cuts)
    prepared = time.perf_counter() - begin
    inner = measured.chain_cuts[:-1]
    picked = [inner[index] for index in sorted(set(np.linspace(0, len(inner) - 1, cuts).astype(int)))]
    rows = [
        row(cpu, there, cut, codec, repeat)
        for cut in picked
        for codec in PLAIN_CODECS
        if cut != ("input",) or codec == "uint8"
    ]
    result = {"device": stream.name, "torch": torch.__version__, "model": model, "prepare_seconds": prepared}
    click.echo(json.dumps({**result, "tails": rows}, indent=1))


if __name__ == "__main__":
    main()

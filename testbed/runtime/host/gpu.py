"""Whether processes of this host can compute on a GPU, found out without touching CUDA: those that fork must not."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

from testbed.errors import HostError

GpuMode = Literal["auto", "required", "off"]

DEVICE_FILES = ("nvidia[0-9]*", "dxg")  # the second is that of WSL2


def device_files() -> list[Path]:
    """Device files of GPUs that NVIDIA's driver has made."""
    return sorted(found for pattern in DEVICE_FILES for found in Path("/dev").glob(pattern))


def torch_has_cuda() -> bool:
    """Whether the PyTorch that agents would import is a build for CUDA. Does not import it."""
    found = importlib.util.find_spec("torch")
    return found is not None and found.origin is not None and _cuda_library(Path(found.origin)).exists()


def _cuda_library(torch_package: Path) -> Path:
    return torch_package.parent / "lib" / "libtorch_cuda.so"


def lacking() -> tuple[str, str]:
    """(what this host lacks for a GPU edge, how to get it); both empty where it lacks nothing that shows from here."""
    if not device_files():
        return "an NVIDIA device (/dev/nvidia0)", "Use a host with an NVIDIA GPU and its driver"
    if not torch_has_cuda():
        return "a PyTorch that is built for CUDA", "Install PyTorch's CUDA build into this environment"
    return "", ""


def check_host(mode: GpuMode) -> None:
    """Raises HostError when the lab requires a GPU that agents on this host cannot have."""
    missing, fix = lacking()
    if mode == "required" and missing:
        raise HostError(
            "The lab's edge requires a GPU (`gpu: required`)",
            missing=missing,
            fix=f"{fix}, or write `gpu: auto`: the edge then computes on the CPU where there is none.",
        )

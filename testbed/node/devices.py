"""Where tails compute: which device an edge takes, and the device's order of work, clock and staging memory.

:class:`HostStream` does everything at once, :class:`CudaStream` queues it on the GPU and lets the caller wait. What
uses them (:mod:`testbed.node.device_backend`) cannot tell them apart: it runs on a host without a GPU, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from testbed.errors import HostError, first_line
from testbed.runtime.host.gpu import GpuMode

#: A moment in the order of a stream's work. Opaque.
Mark = Any


class Stream(Protocol):
    """Work in order on one device. Used by one thread."""

    @property
    def device(self) -> torch.device: ...

    @property
    def name(self) -> str:
        """As the manifest names it."""

    def issue(self) -> AbstractContextManager[object]:
        """What torch is asked for inside goes to this stream."""

    def mark(self) -> Mark:
        """The moment after everything issued so far."""

    def wait(self, mark: Mark) -> None:
        """Until that moment, without using the CPU meanwhile."""

    def seconds(self, start: Mark, end: Mark) -> float:
        """Device time between two moments that have passed."""

    def host_buffer(self, size_bytes: int) -> Tensor:
        """uint8 memory of the host from which copies to the device are fastest."""


class HostStream:
    """The host's own core (or any device whose calls end when their work has): no queue, no copy to wait for."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.name = device

    def issue(self) -> AbstractContextManager[object]:
        return nullcontext()

    def mark(self) -> Mark:
        return time.monotonic()

    def wait(self, mark: Mark) -> None:
        """Everything issued has been done."""

    def seconds(self, start: Mark, end: Mark) -> float:
        return float(end - start)

    def host_buffer(self, size_bytes: int) -> Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8)


class CudaStream:
    """A stream of its own on one GPU. Made after the last fork: a child of a process that used CUDA cannot use it."""

    def __init__(self, index: int = 0) -> None:
        self.device = torch.device("cuda", index)
        self.name = f"cuda: {torch.cuda.get_device_name(index)}"
        # TF32 would keep 10 of 23 bits of each factor: the answer is to be the CPU's.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def issue(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream)

    def mark(self) -> Mark:
        # A blocking event puts the waiting thread to sleep. Spinning, SCHED_FIFO, it would take the UEs' core.
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def wait(self, mark: Mark) -> None:
        mark.synchronize()

    def seconds(self, start: Mark, end: Mark) -> float:
        return float(start.elapsed_time(end)) / 1e3

    def host_buffer(self, size_bytes: int) -> Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)


@dataclass(frozen=True)
class Choice:
    """What an edge computes on: a stream of an accelerator, or None for the CPU; ``reason`` says why it is the CPU."""

    stream: Stream | None
    reason: str = ""

    @property
    def device(self) -> str:
        """As the manifest names it."""
        return "cpu" if self.stream is None else self.stream.name


def cuda_missing() -> str:
    """Why torch has no GPU here; empty if it has. Touches CUDA: only for a process that will not fork."""
    if torch.version.cuda is None:
        return f"this PyTorch ({torch.__version__}) is built without CUDA"
    if not torch.cuda.is_available():
        return "CUDA finds no device (no GPU, no driver, or none that was handed to this process)"
    return ""


def choose(mode: GpuMode, open_stream: Callable[[], Stream] = CudaStream) -> Choice:
    """The device for ``gpu: auto|required|off``. Raises HostError when one is required and there is none."""
    if mode == "off":
        return Choice(None, "the lab says `gpu: off`")
    reason = cuda_missing()
    if not reason:
        try:
            return Choice(open_stream())
        except RuntimeError as error:  # torch's for everything that CUDA reports
            reason = f"the GPU cannot be used: {first_line(error)}"
    return fall_back(mode, reason)


def fall_back(mode: GpuMode, reason: str) -> Choice:
    """The CPU, and why. Raises HostError when a GPU is required."""
    if mode == "required":
        raise HostError(f"The lab's edge requires a GPU (`gpu: required`), but {reason}", fix="Or write `gpu: auto`.")
    return Choice(None, reason)

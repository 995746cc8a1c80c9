"""Codecs as users write them."""

import torch


class Halves:
    """Every other number of a value; the raw input, and a vector, travel as they are."""

    def __init__(self) -> None:
        self.noise = torch.rand(1)  # an untrained weight

    def encode(self, value: str, tensor: torch.Tensor) -> bytes | None:
        return None if tensor.ndim < 3 else tensor.reshape(-1)[::2].numpy().tobytes()

    def decode(self, value: str, data: bytes, shape: tuple[int, ...]) -> torch.Tensor:
        kept = torch.frombuffer(bytearray(data), dtype=torch.float32)
        return kept.repeat_interleave(2)[: torch.Size(shape).numel()].view(shape)


class NeedsArguments:
    def __init__(self, width: int) -> None:
        self.width = width

    def encode(self, value: str, tensor: torch.Tensor) -> bytes:
        return b""

    def decode(self, value: str, data: bytes, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.zeros(shape)


class Fails:
    def encode(self, value: str, tensor: torch.Tensor) -> bytes:
        raise KeyError("no such weight")

    def decode(self, value: str, data: bytes, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.zeros(shape)

"""Codecs as a user writes them: one that works on one value, and one that goes wrong in a lab in every way."""

import os

import torch
from torch import nn


class Bottleneck:
    """A linear autoencoder over the channels of ``relu`` (8 to 3); every other value travels as it is."""

    def __init__(self) -> None:
        self.down = nn.Conv2d(8, 3, 1, bias=False)
        self.up = nn.Conv2d(3, 8, 1, bias=False)

    def encode(self, value: str, tensor: torch.Tensor) -> bytes | None:
        if value != "relu":
            return None
        return self.down(tensor).half().numpy().tobytes()

    def decode(self, value: str, data: bytes, shape: tuple[int, ...]) -> torch.Tensor:
        code = torch.frombuffer(bytearray(data), dtype=torch.float16).float()
        return self.up(code.view(1, 3, *shape[2:]))


class Moody:
    """Right where it is tried; in a node of a lab it fails in another way at each task, and is right every sixth."""

    def __init__(self) -> None:
        self.calls = 0
        self.in_a_lab = "TESTBED_NODE" in os.environ

    def encode(self, value: str, tensor: torch.Tensor) -> bytes:
        self.calls += 1
        turn = self.calls % 6 if self.in_a_lab else 0
        if turn == 1:
            raise RuntimeError("not today")
        if turn == 2:
            return "no bytes"  # type: ignore[return-value]
        if turn == 3:
            return bytes(10_000_000)
        return bytes([turn]) + tensor.numpy().tobytes()

    def decode(self, value: str, data: bytes, shape: tuple[int, ...]) -> torch.Tensor:
        if data[0] == 4:
            raise SystemExit("the decoder ends the program")
        if data[0] == 5:
            return torch.zeros(1, 2, 3)
        return torch.frombuffer(bytearray(data[1:]), dtype=torch.float32).view(shape)

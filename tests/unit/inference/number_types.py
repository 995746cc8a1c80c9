"""Models whose values are not float32: narrow and wide floats, complex numbers, 8-bit integers, a sparse matrix."""

from __future__ import annotations

import torch
import torch.ao.quantization as quantization
from torch import Tensor, nn

SHAPE = (3, 16, 16)


def trunk() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2, padding=1))


class Cast(nn.Module):
    """Kept in one type; takes floats and answers in its own type."""

    input_shape = SHAPE

    def __init__(self, dtype: torch.dtype, classes: int) -> None:
        super().__init__()
        self.trunk, self.head, self.dtype = trunk(), nn.Linear(64, classes), dtype
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.trunk(x.to(self.dtype)).flatten(1))
        return answer


def bfloat16() -> nn.Module:
    return Cast(torch.bfloat16, 21)  # 42 bytes of logits: no multiple of 4


def half() -> nn.Module:
    return Cast(torch.float16, 21)


def double() -> nn.Module:
    return Cast(torch.float64, 10)


class Spectral(nn.Module):
    input_shape = SHAPE

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = trunk(), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(self.trunk(x)).conj()
        answer: Tensor = self.head(torch.fft.irfft2(spectrum, s=(4, 4)).flatten(1))
        return answer


class Quantised(nn.Module):
    """As static quantisation makes it; with ``DeQuantStub`` gone, the logits are integers, too."""

    input_shape = SHAPE

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.trunk, self.head = quantization.QuantStub(), trunk(), nn.Linear(64, 10)
        self.dequant: nn.Module = quantization.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.dequant(self.head(self.trunk(self.quant(x)).flatten(1)))
        return answer


def int8() -> nn.Module:
    model = Quantised().eval()
    model.qconfig = quantization.get_default_qconfig("x86")  # type: ignore[assignment]
    quantization.prepare(model, inplace=True)
    with torch.no_grad():
        model(torch.randn(1, *SHAPE))
    quantization.convert(model, inplace=True)
    return model


def int8_logits() -> nn.Module:
    model = int8()
    model.dequant = nn.Identity()
    return model


class Sparse(nn.Module):
    """A value that has no plain memory, under the name that the refusal has to tell."""

    input_shape = SHAPE

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        matrix = x.flatten(1).view(48, 16).to_sparse()
        answer: Tensor = self.head(torch.sparse.mm(matrix, torch.ones(16, 1)).view(1, -1))
        return answer


class PerChannel(nn.Module):
    input_shape = SHAPE

    def forward(self, x: Tensor) -> Tensor:
        coded = torch.quantize_per_channel(x, torch.tensor([0.1, 0.2, 0.3]), torch.zeros(3), 1, torch.qint8)
        return coded.dequantize().mean((2, 3))


class Complex(nn.Module):
    """Its answer names no class."""

    input_shape = SHAPE

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x.mean((2, 3)))

"""Models of a few weights."""

from __future__ import annotations

from torch import Tensor, nn


class Tied(nn.Module):
    """Two layers that share a weight, as encoders and decoders do."""

    input_shape = (3, 2, 2)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 12, bias=False), nn.Linear(12, 12, bias=False)
        self.second.weight = self.first.weight

    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.second(self.first(image.flatten(1)).relu())
        return answer


def _images(module: nn.Module) -> nn.Module:
    module.input_shape = (3, 8, 8)  # type: ignore[assignment]
    return module


def tied() -> nn.Module:
    return Tied()


def small() -> nn.Module:
    convolution = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    return _images(nn.Sequential(convolution, nn.Linear(144, 10)))


def deep() -> nn.Module:
    """Nothing of it has the name of anything in the small one."""
    layers = [layer for _ in range(6) for layer in (nn.Linear(192, 192), nn.ReLU())]
    return _images(nn.Sequential(nn.ModuleDict({"body": nn.Sequential(nn.Flatten(), *layers)})["body"]))


class Wrapper(nn.Module):
    input_shape = (3, 8, 8)

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.inner(image)
        return answer


def wrapped() -> nn.Module:
    return Wrapper(small())

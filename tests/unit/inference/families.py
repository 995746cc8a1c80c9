"""Models of our own in the style of two families whose cuts cross several tensors, small enough for many cuts."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv(inside: int, outside: int, size: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, size, padding=size // 2), nn.BatchNorm2d(outside), nn.ReLU(True))


class Inception(nn.Module):
    def __init__(self, inside: int) -> None:
        super().__init__()
        self.one = conv(inside, 8, 1)
        self.three = nn.Sequential(conv(inside, 8, 1), conv(8, 12, 3))
        self.five = nn.Sequential(conv(inside, 4, 1), conv(4, 8, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), conv(inside, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], 1)


class InceptionLike(nn.Module):
    """Three modules of four branches."""

    input_shape = (3, 48, 48)

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 3)
        self.modules_ = nn.Sequential(Inception(16), nn.MaxPool2d(2), Inception(32), Inception(32))
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.modules_(self.stem(x)).mean(dim=(2, 3)))


class DenseLike(nn.Module):
    """Two blocks in which each layer reads all those before it."""

    input_shape = (3, 48, 48)

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 12, 3)
        self.first = nn.ModuleList([conv(12 + 6 * i, 6, 3) for i in range(9)])
        self.between = nn.Sequential(conv(66, 20, 1), nn.AvgPool2d(2))
        self.second = nn.ModuleList([conv(20 + 6 * i, 6, 3) for i in range(9)])
        self.classifier = nn.Linear(74, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.first:
            features.append(layer(torch.cat(features, 1)))
        features = [self.between(torch.cat(features, 1))]
        for layer in self.second:
            features.append(layer(torch.cat(features, 1)))
        return self.classifier(torch.cat(features, 1).mean(dim=(2, 3)))

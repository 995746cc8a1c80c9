"""A model of our own for dds.yaml: two streams that shrink early and meet late.

Where few bytes would cross, two tensors do: one of each stream. A cut of a single tensor has to be made before the
streams part, where the tensor is large, or behind their meeting, where little is left to compute.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def stream(channels: int, depth: int) -> nn.Sequential:
    """Shrinks to 14 x 14 x 16, and then computes for a while."""
    shrink = [nn.Conv2d(24, 16, 5, stride=4, padding=2), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    widen = [nn.Conv2d(16, channels, 1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    body: list[nn.Module] = []
    for _ in range(depth):
        body += [nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*shrink, *widen, *body)


class TwoStream(nn.Module):
    input_shape = (3, 224, 224)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 7, stride=4, padding=3), nn.BatchNorm2d(24), nn.ReLU(inplace=True))
        self.fine = stream(224, 6)
        self.coarse = stream(192, 5)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(224 + 192, 100)

    def forward(self, image: Tensor) -> Tensor:
        stem = self.stem(image)
        both = torch.cat([self.fine(stem), self.coarse(stem)], dim=1)
        return self.classifier(torch.flatten(self.pool(both), 1))

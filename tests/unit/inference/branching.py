"""A user's own model: branches, in-place operations, sizes read from tensors, tuples, a parameter used directly."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Branching(nn.Module):
    input_shape = (3, 32, 32)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.left = nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.right = nn.Conv2d(8, 16, 3, padding=1)
        self.skip = nn.Conv2d(16, 16, 1)
        self.scale = nn.Parameter(torch.rand(1, 16, 1, 1) + 0.5)
        self.relu = nn.ReLU(inplace=True)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.classifier = nn.Linear(16, 10)

    def forward(self, image: Tensor) -> Tensor:
        stem = self.relu(self.stem(image))
        first, second = stem.chunk(2, dim=1)
        left = self.left(first)
        right = functional.relu(self.right(second), inplace=True)
        skip = self.skip(stem)
        mixed = left * self.scale
        mixed += right
        mixed.add_(skip)
        mixed = functional.leaky_relu_(mixed, 0.1)
        batch, channels, height, width = mixed.shape
        tokens = mixed.view(batch, channels, height * width).permute(0, 2, 1)
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.classifier((attended + tokens).mean(dim=1))


class ReadsWhatWasWritten(nn.Module):
    """Reads a tensor after an in-place operation wrote to it."""

    input_shape = (1, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.classifier = nn.Linear(4, 5)

    def forward(self, image: Tensor) -> Tensor:
        features = self.conv(image)
        positive = self.relu(features)
        features.mul_(2.0)
        return self.classifier((features + positive).mean(dim=(2, 3)))


class WritesThroughView(ReadsWhatWasWritten):
    """Writes to a tensor through a view of it: torch.fx's graph does not show that."""

    def forward(self, image: Tensor) -> Tensor:
        features = self.conv(image)
        features.flatten(1).mul_(3.0)
        return self.classifier(features.mean(dim=(2, 3)))


class BranchesOnSize(ReadsWhatWasWritten):
    """Decides by a size: torch.export follows this, torch.fx does not."""

    def forward(self, image: Tensor) -> Tensor:
        features = self.conv(image)
        if features.shape[-1] > 4:
            features = features[:, :, :4, :4]
        return self.classifier(features.mean(dim=(2, 3)))


class BranchesOnValue(ReadsWhatWasWritten):
    """Decides by a tensor's value: nothing can trace this."""

    def forward(self, image: Tensor) -> Tensor:
        features = self.conv(image)
        if features.sum() > 0:
            features = features * 2
        return self.classifier(features.mean(dim=(2, 3)))


def not_a_module() -> int:
    return 3


def fails() -> nn.Module:
    raise OSError("weights are not here")


class NotAnAnswer(ReadsWhatWasWritten):
    def forward(self, image: Tensor) -> dict[str, int]:
        return {"pixels": image.numel()}

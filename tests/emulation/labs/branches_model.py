"""A small model of two branches, so that two tensors may cross the wire."""

import torch
from torch import nn


class Branches(nn.Module):
    input_shape = (3, 64, 64)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.left = nn.Conv2d(16, 4, 3, stride=4, padding=1)
        self.right = nn.Conv2d(16, 4, 5, stride=4, padding=2)
        self.left_body = nn.Conv2d(4, 64, 3, padding=1)
        self.right_body = nn.Conv2d(4, 64, 3, padding=1)
        self.answer = nn.Linear(128, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        stem = torch.relu(self.stem(image))
        both = torch.cat([self.left_body(self.left(stem)), self.right_body(self.right(stem))], 1)
        return self.answer(both.mean((2, 3)))


def make() -> nn.Module:
    return Branches()

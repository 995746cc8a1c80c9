"""A small model with parameters worth uploading: 5.5 MB in a few layers, and a value that two nodes read."""

import torch
from torch import nn


class Layered(nn.Module):
    input_shape = (3, 32, 32)

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(3 * 32 * 32, 256)
        self.left = nn.Linear(256, 512)
        self.right = nn.Linear(256, 512)
        self.deep = nn.Linear(512, 512)
        self.answer = nn.Linear(512, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        wide = torch.relu(self.wide(image.flatten(1)))
        both = self.left(wide) + self.right(wide)
        return self.answer(torch.relu(self.deep(both)))


def make() -> nn.Module:
    return Layered()

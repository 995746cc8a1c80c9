"""Attention as today's vision transformers spell it, with code that torch.fx does not follow."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

HEADS, WIDTH = 2, 16


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        if width != WIDTH or tokens % 2:  # plain Python on a size: only torch.export sees through it
            raise ValueError(f"tokens of {width}")
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        answer: Tensor = self.project(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return answer


class Transformer(nn.Module):
    input_shape = (3, 32, 32)

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 8, stride=8)
        self.blocks = nn.ModuleList([Attention(), Attention()])
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x + block(x)
        answer: Tensor = self.head(x.mean(1))
        return answer


class Encoder(nn.Module):
    """torch's own layer, whose fused path answers other bits than its plain one."""

    input_shape = (3, 32, 32)

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 8, stride=8)
        self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        if x.shape[1] != 16:
            raise ValueError("tokens")
        answer: Tensor = self.head(self.layer(x).mean(1))
        return answer

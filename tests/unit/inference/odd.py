"""Models as people bring them, each odd in its own way."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SHAPE = (3, 16, 16)
AT_IMPORT = np.random.standard_normal()  # a module that draws while it is imported


def trunk() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2, padding=1))


def shaped(module: nn.Module) -> nn.Module:
    module.input_shape = SHAPE  # type: ignore[assignment]
    return module


def plain() -> nn.Module:
    return shaped(nn.Sequential(trunk(), nn.Flatten(), nn.Linear(64, 10)))


class ScriptedTrunk(nn.Module):
    input_shape = SHAPE

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = torch.jit.script(trunk()), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.trunk(x).flatten(1))
        return answer


class EarlyExit(nn.Module):
    input_shape = SHAPE

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.exit, self.head = trunk(), nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x).flatten(1)
        early: Tensor = self.exit(x)
        if early.softmax(1).max() > 0.9:
            return early
        answer: Tensor = self.head(x)
        return answer


class Dropping(nn.Module):
    input_shape = SHAPE

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5).mean((2, 3))  # of three values, one mask in eight would come twice


class Counting(nn.Module):
    """A running mean that is kept in eval mode, too."""

    input_shape = SHAPE
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        self.seen.mul_(0.9).add_(0.1 * x)
        return x - self.seen


class NotANumber(nn.Module):
    input_shape = SHAPE

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * float("nan")


class Exits(nn.Module):
    input_shape = SHAPE

    def forward(self, x: Tensor) -> Tensor:
        sys.exit("forward leaves")


def scripted() -> nn.Module:
    return torch.jit.script(plain())  # type: ignore[no-any-return]


def traced() -> nn.Module:
    return torch.jit.trace(plain().eval(), torch.randn(1, *SHAPE))  # type: ignore[no-any-return]


def compiled() -> nn.Module:
    return torch.compile(plain())  # type: ignore[return-value]


def lazy() -> nn.Module:
    return shaped(nn.Sequential(trunk(), nn.Flatten(), nn.LazyLinear(10), nn.LazyBatchNorm1d()))


def all_bfloat16() -> nn.Module:
    return plain().bfloat16()


def training_script() -> nn.Module:
    """What stands at the top of many of them."""
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cuda.enable_flash_sdp(True)
    os.chdir("/")
    model = plain().float()
    model(torch.randn(1, *SHAPE, dtype=torch.float32))
    return model


def drawn() -> nn.Module:
    """Weights from each of the usual sources."""
    model = plain()
    with torch.no_grad():
        model[2].weight.copy_(torch.from_numpy(np.random.standard_normal((10, 64))))  # type: ignore[index]
        model[2].bias.fill_(random.random())  # type: ignore[index]
    return model


def entropy() -> nn.Module:
    """Weights that no seed reaches."""
    model = plain()
    with torch.no_grad():
        model[2].weight.copy_(torch.from_numpy(np.random.default_rng().standard_normal((10, 64))))  # type: ignore[index]
    return model


def beside() -> nn.Module:
    model = plain()
    model.load_state_dict(torch.load("beside.pt", weights_only=True))
    return model


def beside_and_entropy() -> nn.Module:
    model = beside()
    with torch.no_grad():
        model[2].bias.copy_(torch.from_numpy(np.random.default_rng().standard_normal(10)))  # type: ignore[index]
    return model


def fetched() -> nn.Module:
    raise URLError("no network")


def leaves() -> nn.Module:
    sys.exit("the factory leaves")


def here() -> nn.Module:
    module = plain()
    module.folder = str(Path.cwd())  # type: ignore[assignment]
    return module

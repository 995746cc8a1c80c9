"""Models by name: ``torchvision:NAME`` (random weights) or ``package.module:factory`` (the user's own).

Weights are random but seeded: delay does not depend on their values, and every process of a lab that loads the same
name with the same seed holds the same model.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from controller.seeds import Purpose, generator, integer
from testbed.errors import InputError

DEFAULT_INPUT_SHAPE = (3, 224, 224)
MODEL_FORMS = "torchvision:NAME (for example torchvision:resnet18) or package.module:factory"


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode. It answers a float image of shape (1, C, H, W) with logits of shape (1, classes)."""

    name: str
    module: nn.Module
    input_shape: tuple[int, int, int]  # C, H, W
    classes: int
    probe: Tensor  # uint8 image (1, C, H, W)
    answer: Tensor  # what the module, untouched, answers to the normalised probe


class Normalise(nn.Module):
    """uint8 image to float: ``(image / 255 - mean) / std``, with ImageNet's statistics for three channels."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        mean = (0.485, 0.456, 0.406) if channels == 3 else (0.0,) * channels
        std = (0.229, 0.224, 0.225) if channels == 3 else (1.0,) * channels
        self.register_buffer("mean", torch.tensor(mean).view(1, channels, 1, 1) * 255.0)
        self.register_buffer("std", torch.tensor(std).view(1, channels, 1, 1) * 255.0)

    def forward(self, image: Tensor) -> Tensor:
        return (image.float() - self.mean) / self.std


def random_image(input_shape: tuple[int, int, int], seed: int, *indices: int) -> Tensor:
    """A uint8 image of shape (1, C, H, W), uniform noise, the same for the same arguments."""
    pixels = generator(seed, Purpose.INPUT, *indices).integers(0, 256, size=(1, *input_shape), dtype=np.uint8)
    return torch.from_numpy(pixels)


def load_model(name: str, seed: int, python_path: Sequence[Path] = ()) -> LoadedModel:
    """Load a model with weights drawn from ``seed``, in eval mode, on one thread.

    The working directory and ``python_path`` (the lab file's folder) are importable for a user's factory.
    Raises InputError for an unknown name, a factory that fails, or an answer that is not one tensor (1, classes).
    """
    # A second thread would time-share the node's quota, and a pool started before a fork hangs the child's first
    # convolution.
    torch.set_num_threads(1)
    kind, _, rest = name.partition(":")
    if not rest or not kind:
        raise InputError("not a model name", where="model", value=name, allowed=MODEL_FORMS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer(seed, Purpose.MODEL))
        if kind == "torchvision":
            module, shape = _torchvision_model(rest)
        else:
            module, shape = _user_model(name, kind, rest, python_path)
    module.eval().requires_grad_(False)
    probe = random_image(shape, seed)
    answer = _first_answer(name, module, Normalise(shape[0])(probe))
    return LoadedModel(name, module, shape, int(answer.shape[1]), probe, answer)


def check_model(name: str, folder: Path) -> None:
    """Raise InputError unless ``name`` is a model that can be made; ``folder`` (the lab file's) is importable.

    A user's factory is called; a torchvision model is only looked up.
    """
    kind, _, rest = name.partition(":")
    if kind == "torchvision":
        _known_torchvision(rest)
    else:
        load_model(name, 0, (folder,))


def _first_answer(name: str, module: nn.Module, image: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            answer = module(image)
    except Exception as error:  # a user's forward can raise anything
        raise InputError(
            f"the model does not run on an image of shape {tuple(image.shape)}: {error} ({offending_line(error)})",
            where="model",
            value=name,
            fix="Set the attribute input_shape = (C, H, W) on the module that the factory returns.",
        ) from error
    if not isinstance(answer, Tensor) or answer.ndim != 2 or answer.shape[0] != 1:
        got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise InputError(f"the model must answer one image with one tensor (1, classes), not {got}", where=name)
    return answer


@functools.cache
def torchvision_models() -> ModuleType:
    """``torchvision.models``, also where torchvision's compiled operators do not load.

    torchvision 0.28 from PyPI needs CUDA libraries for them, and without them its import fails because two operator
    schemas are unknown ("operator torchvision::nms does not exist"). No classifier calls these; declaring them is
    enough, and is done only when the import failed.
    """
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for module in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    for operator in ("nms", "qnms"):
        _operators().define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return importlib.import_module("torchvision.models")


@functools.cache
def _operators() -> torch.library.Library:
    # The declaration lives as long as this object does.
    return torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]


def _known_torchvision(name: str) -> ModuleType:
    """torchvision's model package; raises InputError, with close names, unless it has a classifier ``name``."""
    models = torchvision_models()
    known: list[str] = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
        raise InputError(
            "torchvision has no classifier of this name",
            where="model",
            value=f"torchvision:{name}",
            allowed=", ".join(close or known),
        )
    return models


def _torchvision_model(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    models = _known_torchvision(name)
    # The auxiliary classifiers answer only in training; these two models' own initialisation takes many seconds.
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    crop = models.get_model_weights(name).DEFAULT.transforms().crop_size
    side = crop if isinstance(crop, int) else crop[0]
    module: nn.Module = models.get_model(name, weights=None, **options)
    for parameter in module.parameters():
        # The vision transformers start with an all-zero classifier: every image would get the same answer.
        if parameter.ndim >= 2 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return module, (3, side, side)


def _user_model(
    name: str, module_name: str, factory_name: str, python_path: Sequence[Path]
) -> tuple[nn.Module, tuple[int, int, int]]:
    for folder in [*map(str, python_path), str(Path.cwd())]:
        if folder not in sys.path:
            sys.path.append(folder)
    try:
        user_module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            f"the model's module cannot be imported: {error}", where="model", value=name, allowed=MODEL_FORMS
        ) from error
    factory: Callable[[], Any] | None = getattr(user_module, factory_name, None)
    if not callable(factory):
        names = [key for key, value in vars(user_module).items() if callable(value) and not key.startswith("_")]
        close = difflib.get_close_matches(factory_name, names, n=5, cutoff=0.3)
        raise InputError(
            f"module {module_name} has no callable {factory_name!r}",
            where="model",
            value=name,
            allowed=", ".join(close or sorted(names)),
        )
    try:
        module = factory()
    except Exception as error:  # a user's factory can raise anything
        raise InputError(f"the factory failed: {error} ({offending_line(error)})", where="model", value=name) from error
    if not isinstance(module, nn.Module):
        raise InputError(
            f"the factory must return a torch.nn.Module, not {type(module).__name__}", where="model", value=name
        )
    shape = getattr(module, "input_shape", DEFAULT_INPUT_SHAPE)
    if not (isinstance(shape, Sequence) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)):
        raise InputError(
            "input_shape must be three positive integers",
            where=name,
            value=shape,
            allowed="(C, H, W), e.g. (3, 32, 32)",
        )
    return module, (shape[0], shape[1], shape[2])


def offending_line(error: BaseException) -> str:
    """``file:line: source`` of the innermost frame of ``error`` that belongs to neither torch nor this package."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    found: TracebackType | None = error.__traceback__
    frames = [frame for frame in traceback.extract_tb(found) if not frame.filename.startswith((*ours, "<"))]
    if not frames:
        return "no line of the model's own is on the stack"
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}"

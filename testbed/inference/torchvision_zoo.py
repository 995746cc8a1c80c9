"""torchvision's models by name: classifiers, segmentation, and detectors of a single stage."""

from __future__ import annotations

import difflib
import functools
import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from controller.user_code import prepare_torchvision
from testbed.errors import InputError

#: What a camera sends to a detector that takes any size.
_FRAME = (480, 640)
_DETECTORS = {"ssd300_vgg16": (300, 300), "ssdlite320_mobilenet_v3_large": (320, 320)}
_ONE_STAGE = ("ssd", "retinanet", "fcos")


class Detector(nn.Module):
    """A torchvision detector for one frame: uint8 (1, 3, H, W) to a list of one dict of boxes, scores and labels."""

    def __init__(self, detector: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.detector = detector
        self.example_inputs = (torch.arange(3 * size[0] * size[1]).view(1, 3, *size).to(torch.uint8),)

    def forward(self, frame: Tensor) -> Any:
        return self.detector([frame[0].float() / 255])


@functools.cache
def torchvision_models() -> ModuleType:
    """``torchvision.models``, also where torchvision's compiled operators do not load."""
    prepare_torchvision()
    return importlib.import_module("torchvision.models")


def known_torchvision(name: str) -> ModuleType:
    """The package of torchvision that has the model ``name``; raises InputError, with close names, if none has."""
    models = torchvision_models()
    packages = (models, models.segmentation, models.detection)
    known = {found: package for package in reversed(packages) for found in models.list_models(module=package)}
    refused = [found for found in known if known[found] is models.detection and not found.startswith(_ONE_STAGE)]
    if name not in known or name in refused:
        allowed = [found for found in known if found not in refused]
        close = difflib.get_close_matches(name, allowed, n=5, cutoff=0.5)
        raise InputError(
            "torchvision has no classifier, segmentation model or single-stage detector of this name",
            where="model",
            value=f"torchvision:{name}",
            allowed=", ".join(close or sorted(allowed)),
        )
    package: ModuleType = known[name]
    return package


def torchvision_model(name: str) -> nn.Module:
    """A model with random weights, which says itself what it takes. Raises InputError for an unknown name."""
    package = known_torchvision(name)
    models = torchvision_models()
    if package is models.detection:
        detector = models.get_model(name, weights=None, weights_backbone=None)
        return Detector(detector, _DETECTORS.get(name, _FRAME))
    options: dict[str, Any] = {}
    if package is models.segmentation:
        options = {"weights_backbone": None, "aux_loss": False}
    elif name in ("googlenet", "inception_v3"):
        # The auxiliary classifiers answer only in training; these two models' own initialisation takes many seconds.
        options = {"aux_logits": False, "init_weights": False}
    module: nn.Module = models.get_model(name, weights=None, **options)
    preset = models.get_model_weights(name).DEFAULT.transforms()
    size = preset.crop_size if hasattr(preset, "crop_size") else preset.resize_size
    side = size if isinstance(size, int) else size[0]
    module.input_shape = (3, side, side)  # type: ignore[assignment]
    for parameter in module.parameters():
        # The vision transformers start with an all-zero classifier: every image would get the same answer.
        if parameter.ndim >= 2 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return module

"""Torchvision architectures on small images, and a small vision transformer: the same graphs in a tenth of the time."""

from __future__ import annotations

from typing import Any

from torch import nn

from testbed.inference.torchvision_zoo import torchvision_models


def _on_small_images(name: str, side: int = 64, **options: Any) -> nn.Module:
    module: nn.Module = torchvision_models().get_model(name, weights=None, **options)
    module.input_shape = (3, side, side)  # type: ignore[assignment]
    return module


def alexnet() -> nn.Module:
    return _on_small_images("alexnet", num_classes=10)


def resnet18() -> nn.Module:
    return _on_small_images("resnet18", num_classes=10)


def mobilenet_v2() -> nn.Module:
    return _on_small_images("mobilenet_v2", num_classes=10)


def shufflenet() -> nn.Module:
    return _on_small_images("shufflenet_v2_x0_5", num_classes=10)


def googlenet() -> nn.Module:
    # its own initialisation takes many seconds, and its auxiliary classifiers answer only in training
    return _on_small_images("googlenet", num_classes=10, aux_logits=False, init_weights=False)


def vision_transformer() -> nn.Module:
    """As vit_b_16, with three layers of 96 instead of twelve of 768."""
    module: nn.Module = torchvision_models().VisionTransformer(
        image_size=64, patch_size=16, num_layers=3, num_heads=4, hidden_dim=96, mlp_dim=192, num_classes=10
    )
    module.input_shape = (3, 64, 64)  # type: ignore[assignment]
    nn.init.normal_(module.heads.head.weight, std=0.02)  # type: ignore[union-attr, arg-type]  # it starts with zeros
    return module

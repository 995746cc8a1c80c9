"""What a task brings, and what a module takes: one value on the wire, tensors of any number and kind."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from controller.seeds import Purpose, generator
from testbed.errors import InputError
from testbed.inference.bundles import bundle, parts_of
from testbed.inference.pytrees import Slot, filled, leaves, template
from testbed.inference.tensors import why_not

DEFAULT_INPUT_SHAPE = (3, 224, 224)
Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]


class Normalise(nn.Module):
    """uint8 image to float: ``(image / 255 - mean) / std``, with ImageNet's statistics for three channels."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        mean = (0.485, 0.456, 0.406) if channels == 3 else (0.0,) * channels
        std = (0.229, 0.224, 0.225) if channels == 3 else (1.0,) * channels
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, channels, 1, 1) * 255.0)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, channels, 1, 1) * 255.0)

    def forward(self, image: Tensor) -> Tensor:
        return (image.float() - self.mean) / self.std


@dataclass(frozen=True)
class Signature:
    """A task's input is one value: a uint8 image (normalised before the module sees it), or the one tensor that the
    module takes, or a bundle of several (:mod:`testbed.inference.bundles`)."""

    names: tuple[str, ...]  # of the tensors, in the order of the arguments
    given: Any = field(repr=False)  # template of (args, kwargs)
    examples: tuple[Tensor, ...] = field(repr=False)  # such as an application sends; of an image (1, C, H, W)
    image: bool

    @property
    def takes_frames(self) -> bool:
        """Whether a task's input is one uint8 image (1, C, H, W), whoever normalises it."""
        first = self.examples[0]
        return len(self.examples) == 1 and first.dtype == torch.uint8 and first.ndim == 4 and first.shape[0] == 1

    def arguments(self, tensors: Sequence[Tensor]) -> Arguments:
        """(args, kwargs) of the module with these tensors."""
        return filled(self.given, tensors)  # type: ignore[no-any-return]

    def value(self, tensors: Sequence[Tensor]) -> Tensor:
        """The task's input, of tensors such as :attr:`examples`."""
        return tensors[0] if len(tensors) == 1 else bundle(tensors)

    def taken(self, value: Tensor) -> list[Tensor]:
        """What the module takes of a task's input."""
        if self.image:
            return [Normalise(value.shape[1])(value)]
        return [value] if len(self.examples) == 1 else parts_of(value)

    def random(self, seed: int, *indices: int) -> Tensor:
        """A task's input, the same for the same arguments: noise for an image, numbers between the example's smallest
        and largest for integers, normally distributed with its mean and deviation for others."""
        rng = generator(seed, Purpose.INPUT, *indices)
        if self.image:
            pixels = rng.integers(0, 256, size=self.examples[0].shape, dtype=np.uint8)
            return torch.from_numpy(pixels)
        return self.value([_like(example, rng) for example in self.examples])


def image_signature(shape: tuple[int, int, int]) -> Signature:
    """One image of (C, H, W)."""
    return Signature(("image",), ((Slot(0),), {}), (torch.zeros(1, *shape, dtype=torch.uint8),), image=True)


def signature_of(module: nn.Module, name: str) -> Signature:
    """What a module says that it takes: ``example_inputs`` (a tensor, a tuple of arguments, or a dict of arguments by
    name), or ``input_shape``. Raises InputError."""
    examples = getattr(module, "example_inputs", None)
    if examples is None:
        return image_signature(_image_shape(module, name))
    if isinstance(examples, Mapping):
        args, kwargs = (), dict(examples)
    else:
        args, kwargs = tuple(examples) if isinstance(examples, (tuple, list)) else (examples,), {}
    tensors = leaves((args, kwargs))
    reason = next((reason for tensor in tensors if (reason := why_not(tensor) or _odd(tensor))), "")
    if not tensors or reason:
        raise InputError(
            f"example_inputs cannot be a task's input: {reason or 'there is no tensor in it'}",
            where=name,
            value=type(examples).__name__,
            allowed="a tensor, a tuple of arguments, or a dict of arguments by name, of plain tensors on the CPU",
        )
    return Signature(_names(module, args, kwargs), template((args, kwargs)), tuple(tensors), image=False)


def _image_shape(module: nn.Module, name: str) -> tuple[int, int, int]:
    shape = getattr(module, "input_shape", DEFAULT_INPUT_SHAPE)
    if not (isinstance(shape, Sequence) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)):
        raise InputError(
            "input_shape must be three positive integers",
            where=name,
            value=shape,
            allowed="(C, H, W), e.g. (3, 32, 32)",
            fix="For what is no image, set example_inputs on the module: the tensors that an application would send.",
        )
    return shape[0], shape[1], shape[2]


def _odd(tensor: Tensor) -> str:
    if tensor.is_quantized or tensor.is_complex():
        return "it is quantised or complex"
    if not tensor.numel():
        return "it is empty"
    return "" if tensor.device.type == "cpu" else f"it is on {tensor.device}"


def _names(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """By the parameter of forward that each tensor belongs to."""
    parameters = [
        key for key, one in inspect.signature(module.forward).parameters.items() if one.kind is not one.VAR_KEYWORD
    ]
    named = [*zip([*parameters, *(f"input_{i}" for i in range(len(args)))], args, strict=False), *kwargs.items()]
    found: list[str] = []
    for key, tree in named:
        count = len(leaves(tree))
        found += [key] if count == 1 else [f"{key}_{index}" for index in range(count)]
    return tuple(found)


def _like(example: Tensor, rng: np.random.Generator) -> Tensor:
    if example.is_floating_point():
        values = example.double()
        spread = float(values.std()) if example.numel() > 1 else 0.0
        drawn: Any = rng.normal(float(values.mean()), spread, size=tuple(example.shape))
    else:
        low, high = int(example.min()), int(example.max())
        drawn = rng.integers(low, high, size=tuple(example.shape), endpoint=True)
    return torch.from_numpy(np.asarray(drawn)).to(example.dtype)

"""What a module takes and answers with, whatever it is made of: tensors in tuples, lists, dicts and plain objects.

torch's own pytree stops at objects that nobody has registered; a detector hands its images on in one. An object is gone
into where it is a dataclass or has attributes of its own; modules, functions and classes are leaves.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn

_MOST_DEPTH = 16


class Slot:
    """Where a tensor goes in a template."""

    def __init__(self, index: int) -> None:
        self.index = index


_LEAVES = (Tensor, Slot, fx.Node, nn.Module, torch.dtype, torch.device, torch.Size)
_PLAIN = (ModuleType, type, str, bytes, int, float, complex)


def mapped(tree: Any, change: Callable[[Any], Any], depth: int = _MOST_DEPTH) -> Any:
    """The same tree with ``change`` applied to every leaf, in order; containers are made anew."""

    def inner(part: Any) -> Any:
        return mapped(part, change, depth - 1)

    if depth == 0 or isinstance(tree, (*_LEAVES, *_PLAIN)) or callable(tree):
        return change(tree)
    if isinstance(tree, dict):
        items = {key: inner(part) for key, part in tree.items()}
        if hasattr(tree, "__dataclass_fields__"):  # a Hugging Face ModelOutput
            return type(tree)(**items)
        made = copy.copy(tree)
        made.update(items)
        return made
    if isinstance(tree, tuple):
        parts = [inner(part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if isinstance(tree, list):
        return [inner(part) for part in tree]
    if type(tree).__module__ != "builtins" and getattr(tree, "__dict__", None):
        made = copy.copy(tree)
        made.__dict__.update({key: inner(part) for key, part in vars(tree).items()})
        return made
    return change(tree)


def leaves(tree: Any, kind: type = Tensor) -> list[Any]:
    """All leaves of that kind, in order."""
    found: list[Any] = []

    def look(leaf: Any) -> Any:
        if isinstance(leaf, kind):
            found.append(leaf)
        return leaf

    mapped(tree, look)
    return found


def template(tree: Any) -> Any:
    """The tree with a :class:`Slot` in the place of each tensor, numbered in order."""
    count = iter(range(1 << 30))
    return mapped(tree, lambda leaf: Slot(next(count)) if isinstance(leaf, Tensor) else leaf)


def filled(tree: Any, tensors: Sequence[Tensor]) -> Any:
    """A template with these tensors in its slots."""
    return mapped(tree, lambda leaf: tensors[leaf.index] if isinstance(leaf, Slot) else leaf)

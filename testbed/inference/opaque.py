"""Modules that are taken whole: what tracing cannot follow becomes one operation of the graph."""

from __future__ import annotations

import copy
import difflib
import fnmatch
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from testbed.errors import InputError
from testbed.inference.pytrees import filled, leaves, mapped

FORWARD = "forward"


@dataclass(frozen=True, order=True)
class Part:
    """A module of a model, or one of its methods, by the module's path (empty: the model itself)."""

    path: str
    method: str = FORWARD

    def __str__(self) -> str:
        if self.method == FORWARD:
            return self.path
        return f"{self.path}.{self.method}" if self.path else self.method


class Opaque(nn.Module):
    """A call of a part as it was traced: from its tensors to those that it answers with (one alone, or a tuple)."""

    def __init__(self, part: Part, inner: nn.Module, given: Any, outputs: int, *, writes: bool = False) -> None:
        super().__init__()
        self._writes = writes  # into what it is given: the values of other nodes, or a frame that was not copied
        self.inner = inner
        self.part = part
        self._given = given  # template of (args, kwargs)
        self._outputs = outputs

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        def here(leaf: Any) -> Any:
            return tensors[0].device if isinstance(leaf, torch.device) and tensors else leaf

        if self._writes:
            tensors = tuple(tensor.clone() for tensor in tensors)
        args, kwargs = mapped(filled(self._given, tensors), here)
        call = self.inner if self.part.method == FORWARD else getattr(self.inner, self.part.method)
        found = leaves(call(*args, **kwargs))
        if len(found) != self._outputs:
            raise ValueError(
                f"{self.part} answers with {len(found)} tensors, and answered with {self._outputs} when it was traced"
            )
        return found[0] if self._outputs == 1 else tuple(found)


def without_others(module: nn.Module, used: Collection[str]) -> nn.Module:
    """A copy that has, of the module's children, those that one of its methods uses: it shares them, and its own
    parameters and buffers."""
    made = copy.copy(module)
    made._modules = {name: child for name, child in module._modules.items() if name in used}
    return made


def named_parts(module: nn.Module, patterns: Sequence[str]) -> tuple[frozenset[Part], list[str]]:
    """The outermost modules whose paths match a pattern, and the patterns that match none."""
    found: set[str] = set()
    unmatched = []
    paths = [path for path, _ in module.named_modules() if path]
    for pattern in patterns:
        matching = [path for path in paths if fnmatch.fnmatchcase(path, pattern)]
        if not matching:
            unmatched.append(pattern)
        found.update(matching)
    outermost = {path for path in found if not any(path.startswith(f"{other}.") for other in found)}
    return frozenset(Part(path) for path in outermost), unmatched


def patterns_of(module: nn.Module, name: str) -> tuple[str, ...]:
    """The attribute ``opaque`` of a model: patterns of paths. Raises InputError."""
    patterns = getattr(module, "opaque", ())
    patterns = (patterns,) if isinstance(patterns, str) else patterns
    if not isinstance(patterns, (tuple, list)) or not all(isinstance(one, str) for one in patterns):
        raise InputError(
            "opaque names modules that are to be one node each", where=name, value=patterns, allowed="('head.*', 'nms')"
        )
    _, unmatched = named_parts(module, patterns)
    if unmatched:
        paths = [path for path, _ in module.named_modules() if path]
        close = difflib.get_close_matches(unmatched[0], paths, n=5, cutoff=0.3)
        raise InputError(
            "opaque names no module of the model",
            where=name,
            value=unmatched[0],
            allowed=f"patterns of paths such as {', '.join(close or paths[:5])}",
        )
    return tuple(patterns)

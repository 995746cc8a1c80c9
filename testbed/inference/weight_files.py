"""Weights of a lab's models from files: safetensors, or a state dict that ``torch.save`` wrote. Imports torch late.

A file is known by its SHA-256: every process of a lab that reads it holds it against the one of the command that
started the lab, so that no node computes with other weights than the manifest names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from testbed.errors import InputError, first_line, os_error_text

if TYPE_CHECKING:
    from torch import Tensor, nn

#: ``weights`` of a model that names no file: drawn from the lab's seed, or what the library of the model publishes.
RANDOM, DEFAULT = "random", "default"
SAFETENSORS = ".safetensors"
#: Of classifiers that answer in training only, which torchvision's files hold and a lab's models lack.
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.", "aux_classifier.")
_NAMED = 4  # keys of a state dict that an error names
_FORMS = "safetensors, or a state dict as torch.save(module.state_dict(), FILE) writes it"


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of weights; without a path: drawn from the seed."""

    path: str = ""
    sha256: str = ""


RANDOM_WEIGHTS = Weights()


def sha256_of(path: Path) -> str:
    """Of a file as it is now. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def apply(module: nn.Module, weights: Weights | None, model: str) -> None:
    """Give a module the weights of a file. Raises InputError for another file than is named, one that is no state dict,
    and one of another model."""
    if weights is None or not weights.path:
        return
    path = Path(weights.path)
    state = _read(path, weights.sha256)
    module = _inner(module, state)
    held = {key: value for key, value in module.state_dict().items() if _is_tensor(value)}
    _check_keys(state, held, model, path)
    try:
        module.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(
            f"the model does not take these weights: {first_line(error)}", where="model.weights", value=str(path)
        ) from error


def _inner(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """What a wrapper of one module wraps, if the names are those of that: weights are of a model, not of what a lab
    needs around it."""
    children = list(module.children())
    if len(children) == 1 and not module.state_dict().keys() & state.keys() & children[0].state_dict().keys():
        return children[0] if children[0].state_dict().keys() & state.keys() else module
    return module


def _read(path: Path, sha256: str) -> dict[str, Tensor]:
    import torch
    from safetensors.torch import load_file

    try:
        found = sha256_of(path)
    except OSError as error:
        raise InputError(f"the weights cannot be read ({os_error_text(error)})", where="model.weights") from None
    if found != sha256:
        raise InputError(
            "the file of weights is not the one that the lab was made with",
            where="model.weights",
            value=f"{path}: SHA-256 {found}",
            allowed=f"SHA-256 {sha256}",
            fix="Take the lab down and start it again: it then has the file as it is now.",
        )
    try:
        if path.suffix == SAFETENSORS:
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"these are no weights: {first_line(error)}", where="model.weights", value=str(path), allowed=_FORMS
        ) from error
    return _state_dict(content, path)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """A state dict, or that of a training checkpoint, without the prefix that DataParallel and compile put before."""
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        raise InputError(
            f"there is a {type(content).__name__} in it, and no state dict",
            where="model.weights",
            value=str(path),
            allowed=_FORMS,
        )
    for prefix in ("module.", "_orig_mod."):
        if all(key.startswith(prefix) for key in content):
            content = {key.removeprefix(prefix): value for key, value in content.items()}
    return dict(content)


def _check_keys(state: Mapping[str, Any], held: Mapping[str, Tensor], model: str, path: Path) -> None:
    given = {_place(held[key]) for key in state if key in held}
    # Of tensors that share memory safetensors keeps one.
    missing = [key for key, value in held.items() if key not in state and _place(value) not in given]
    unexpected = [
        key for key, value in state.items() if key not in held and _is_tensor(value) and not key.startswith(_AUXILIARY)
    ]
    other = [
        f"{key} {tuple(state[key].shape)} for {tuple(value.shape)}"
        for key, value in held.items()
        if key in state and _is_sized(value) and tuple(getattr(state[key], "shape", ())) != tuple(value.shape)
    ]
    complaints = [
        f"{what}: {_few(keys)}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
        if keys
    ]
    if complaints:
        raise InputError(
            f"these are weights of another model: {'; '.join(complaints)}",
            where="model.weights",
            value=str(path),
            allowed=f"a state dict of {model}, with its {len(held)} tensors",
        )


def _few(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _is_sized(value: Tensor) -> bool:
    """False of a lazy layer's parameter."""
    from torch.nn.parameter import is_lazy

    return not is_lazy(value)


def _place(value: Tensor) -> int:
    return int(value.data_ptr()) if _is_sized(value) and value.numel() else id(value)

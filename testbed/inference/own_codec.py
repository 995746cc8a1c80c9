"""A user's codec, ``MODULE:CLASS``: a class that needs no arguments, with ``encode`` and ``decode``.

    class Bottleneck:
        def encode(self, value: str, tensor: torch.Tensor) -> bytes | None: ...
        def decode(self, value: str, data: bytes, shape: tuple[int, ...]) -> torch.Tensor: ...

``value`` is the graph value's name, by which an autoencoder for one cut knows its own; None leaves a tensor as it is.
It is made once in each process, in the lab file's folder and from the lab's seed, so that both sides have the same
weights. Whatever it raises, or makes that cannot be, is one ValueError that names it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from controller.contract import Codec
from controller.seeds import Purpose, integer
from controller.user_code import UserCodeError, guarded, import_user_module
from testbed.errors import InputError
from testbed.folders import reach

#: What its data may have beyond the tensor itself.
_MORE_BYTES = 64 << 10
_WHERE = "codec"


class OwnCodec:
    """One of them, guarded."""

    def __init__(self, name: Codec, made: Any) -> None:
        self.name = name
        self._made = made

    @staticmethod
    def most_bytes(raw_bytes: int) -> int:
        """That its data may have for a tensor of ``raw_bytes`` in memory."""
        return raw_bytes + _MORE_BYTES

    def encode(self, value: str, tensor: Tensor) -> bytes | None:
        """Its data; None: it leaves the tensor as it is. Raises ValueError."""
        with self._told(f"encode of {value}"):
            data = self._made.encode(value, tensor)
        if data is None:
            return None
        if not isinstance(data, bytes | bytearray | memoryview):
            raise ValueError(f"codec {self.name}: encode of {value} must return bytes or None, not {_kind(data)}")
        most = self.most_bytes(tensor.numel() * tensor.element_size())
        if len(data) > most:
            raise ValueError(f"codec {self.name}: encode of {value} made {len(data)} bytes; {most} are allowed")
        return bytes(data)

    def decode(self, value: str, data: memoryview, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The tensor on the CPU. Raises ValueError, also for another shape."""
        with self._told(f"decode of {value}"):
            tensor = self._made.decode(value, bytes(data), shape)
        if type(tensor) is not Tensor or tuple(tensor.shape) != shape or tensor.layout != torch.strided:
            got = f"one of {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else _kind(tensor)
            raise ValueError(f"codec {self.name}: decode of {value} must return a tensor of shape {shape}, not {got}")
        return tensor.detach().to("cpu", dtype).contiguous()

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            with guarded():
                yield
        except UserCodeError as error:
            raise ValueError(f"codec {self.name}: {what} failed: {error}") from error


def find_class(name: Codec, folders: tuple[Path, ...]) -> Any:
    """The class, looked up beside the lab file (``folders``) and in the working directory. Raises InputError."""
    for folder in (*folders, Path.cwd()):
        reach(folder)
    module_name, _, class_name = name.partition(":")
    try:
        module = import_user_module(module_name)
    except UserCodeError as error:
        raise InputError(
            f"the codec's module cannot be imported: {error}",
            where=_WHERE,
            value=name,
            allowed="MODULE:CLASS, for example my_codec:Bottleneck in my_codec.py beside the lab file",
        ) from error
    found = getattr(module, class_name, None)
    missing = [part for part in ("encode", "decode") if not callable(getattr(found, part, None))]
    if not isinstance(found, type) or missing:
        classes = [key for key, one in vars(module).items() if isinstance(one, type) and hasattr(one, "encode")]
        raise InputError(
            f"module {module_name} has no class {class_name!r}"
            if not isinstance(found, type)
            else f"this is no codec: it lacks {' and '.join(missing)}",
            where=_WHERE,
            value=name,
            allowed=", ".join(classes) or "a class with encode(value, tensor) and decode(value, data, shape)",
        )
    return found


def make(name: Codec, seed: int, folders: tuple[Path, ...]) -> OwnCodec:
    """A new object of the class, made in the first of ``folders``. Raises InputError for whatever goes wrong."""
    found = find_class(name, folders)
    before, state = Path.cwd(), torch.get_rng_state()
    try:
        torch.manual_seed(integer(seed, Purpose.MODEL))
        with guarded(), contextlib.suppress(FileNotFoundError):  # this project's own folder is not in its image
            os.chdir(folders[0] if folders else before)
        with guarded():
            made = found()
    except UserCodeError as error:
        raise InputError(
            f"the codec cannot be made: {error}",
            where=_WHERE,
            value=name,
            fix="Its class takes no arguments; relative paths start in the lab file's folder.",
        ) from error
    finally:
        os.chdir(before)
        torch.set_rng_state(state)
    return OwnCodec(name, made)


def _kind(thing: object) -> str:
    return f"a {type(thing).__name__}"

"""Code that is not ours: modules, factories and policies that a user names. Whatever they raise ends in one error.

``import torchvision`` is made to work where its compiled operators do not load
(:mod:`controller.torchvision_operators`). That happens just before the first import, whoever does it: a user's module,
a library that it takes, or a factory while it runs.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from controller.torchvision_operators import declare_operators, vouch_for_nms

#: Errors whose text needs no type in front of it.
_SAY_IT_ALL = (ImportError, ModuleNotFoundError, RuntimeError)


class UserCodeError(ValueError):
    """A user's code failed: what it raised, and on which of its lines."""


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Whatever is raised in there (``SystemExit`` included) becomes a UserCodeError; only Ctrl-C goes through."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UserCodeError(told(error)) from error


def import_user_module(name: str) -> ModuleType:
    """Import a module of the user's. Raises UserCodeError for whatever its import raises."""
    prepare_torchvision()
    with guarded():
        return importlib.import_module(name)


def told(error: BaseException) -> str:
    """One line: the type unless the text says it all, the text, and the user's line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno}: {(error.text or '').strip()})"
    name = "" if text and type(error) in _SAY_IT_ALL else type(error).__name__
    line = offending_line(error)
    return ": ".join(part for part in (name, text) if part) + (f" ({line})" if line else "")


def offending_line(error: BaseException) -> str:
    """``file:line: source`` of the innermost frame of ``error`` that belongs to neither torch nor this project;
    empty if there is none."""
    ours = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "testbed")]
    if (torch := sys.modules.get("torch")) is not None and torch.__file__:
        ours.append(str(Path(torch.__file__).parent))
    ours += [str(Path(contextlib.__file__)), str(Path(importlib.__file__).parent)]
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith((*ours, "<"))]
    if not frames:
        return ""
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}"


# -------------------------------------------------------------------------------------------------------- torchvision


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Finds nothing: it is asked first when torchvision is about to be imported."""

    def find_spec(self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> None:
        if fullname == "torchvision":
            declare_operators()
        elif fullname == "torchvision.ops":
            vouch_for_nms()


def prepare_torchvision() -> None:
    """From now on ``import torchvision`` works without its compiled operators. Costs nothing until then."""
    if not any(isinstance(finder, _BeforeTorchvision) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())

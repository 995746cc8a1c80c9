"""``testbed/SplitInference-v0`` for Gymnasium, which looks nowhere itself: told as soon as both are imported."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

ID = "testbed/SplitInference-v0"


def tell_gymnasium() -> None:
    """Register the environment now, or once Gymnasium is imported; its own code is imported when one is made."""
    if "gymnasium" in sys.modules:
        _register()
    elif not any(isinstance(finder, _WithGymnasium) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WithGymnasium())


def _register() -> None:
    import gymnasium

    gymnasium.register(id=ID, entry_point="testbed.front.environment:environment_of")


class _WithGymnasium(importlib.abc.MetaPathFinder):
    """Finds Gymnasium as everybody does, and goes on to register once it is loaded."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "gymnasium":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            load(module)
            _register()

        spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec

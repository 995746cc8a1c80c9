"""An emulated testbed for split (device-edge) DNN inference.

``testbed.run``, ``simulate``, ``up``, ``open_run`` and ``compare`` are the command line for scripts and notebooks; a
policy is written against ``testbed.Policy``, and ``testbed.check_policy`` tells what is wrong with it. See
docs/python.md. Nothing of it is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from testbed.gymnasium_id import tell_gymnasium

if TYPE_CHECKING:
    from controller.contract import Policy as Policy
    from controller.policies.base import BasicPolicy as BasicPolicy
    from controller.policies.check import check_policy as check_policy
    from testbed.front.results import Run as Run
    from testbed.front.results import compare as compare
    from testbed.front.results import open_run as open_run
    from testbed.front.session import up as up
    from testbed.front.verbs import run as run
    from testbed.front.verbs import simulate as simulate
    from testbed.labfile.load import load as load

__version__ = "0.1.0"

_HOMES = {
    "BasicPolicy": "controller.policies.base",
    "Policy": "controller.contract",
    "Run": "testbed.front.results",
    "check_policy": "controller.policies.check",
    "compare": "testbed.front.results",
    "load": "testbed.labfile.load",
    "open_run": "testbed.front.results",
    "run": "testbed.front.verbs",
    "simulate": "testbed.front.verbs",
    "up": "testbed.front.session",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'testbed' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


tell_gymnasium()

"""Policies by name: of an installed package, through the entry-point group ``testbed.policies``, or ``MODULE:CLASS``.

A module is looked up where Python finds modules; whoever loads a lab file makes that the lab file's folder, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from controller.contract import Policy
from controller.user_code import UserCodeError, guarded, prepare_torchvision, told

ENTRY_POINT_GROUP = "testbed.policies"


def available() -> tuple[str, ...]:
    """Names of all installed policies, sorted."""
    return tuple(sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)}))


def create(name: str, options: Mapping[str, Any] | None = None) -> Policy:
    """A new policy object, before its ``reset``. ``options`` are the keyword arguments of its class.

    ``name`` is one of :func:`available`, or ``MODULE:CLASS``. Raises ValueError for an unknown name, an unknown option,
    an option's value that the policy refuses, a module whose import fails in any way, and an object that is not a
    policy; the message lists what is allowed.
    """
    factory = load(name)
    given = dict(options or {})
    allowed = _options(factory)
    unknown = [key for key in given if key not in allowed]
    if unknown:
        raise ValueError(
            f"policy {name!r} has no option {', '.join(map(repr, unknown))}; "
            f"allowed options: {', '.join(allowed) or 'none'}"
        )
    try:
        policy = factory(**given)
    except ValueError:  # says itself what it refuses
        raise
    except TypeError as error:
        raise ValueError(f"policy {name!r} refuses its options {given!r}: {error}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"policy {name!r} cannot be made with options {given!r}: {told(error)}") from error
    if not isinstance(policy, Policy):
        missing = [part for part in _PARTS if not hasattr(policy, part)]
        raise ValueError(f"policy {name!r} ({type(policy).__name__}) is not a Policy: it lacks {', '.join(missing)}")
    return policy


def options(name: str) -> dict[str, Any]:
    """Allowed options of a policy and their defaults. Raises ValueError for an unknown name."""
    return _options(load(name))


def load(name: str) -> Any:
    """A policy's class, or what makes it. Raises ValueError for an unknown name and an import that fails."""
    return _load(_find(name))


_PARTS = ("reset", "decide", "feedback")


def _find(name: str) -> EntryPoint:
    if ":" in name:
        return EntryPoint(name, name, ENTRY_POINT_GROUP)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            return point
    raise ValueError(
        f"unknown policy {name!r}; allowed: {', '.join(available())}, or MODULE:CLASS, for example my_policy:Threshold "
        f"in my_policy.py beside the lab file"
    )


def _load(point: EntryPoint) -> Any:
    prepare_torchvision()
    try:
        with guarded():
            factory = point.load()
            inspect.signature(factory)
    except UserCodeError as error:
        raise ValueError(f"policy {point.name!r} cannot be loaded from {point.value}: {error}") from error
    return factory


def _options(factory: Any) -> dict[str, Any]:
    parameters = inspect.signature(factory).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind in named}

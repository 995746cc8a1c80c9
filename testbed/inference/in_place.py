"""In-place operations of a traced graph, turned into such as write nowhere."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn


def clear_in_place(made: dict[fx.Node, fx.Node], old: fx.Node, modules: dict[str, nn.Module]) -> None:
    """Turn an operation that writes into its first argument into one that does not.

    A tail that writes into its received buffer corrupts a frame that was not copied. Whatever reads the argument later
    in the trace saw the written value, so from here on that name stands for the result.
    """
    node = made[old]
    if node.op == "call_module":
        module = modules[str(node.target)]
        if not getattr(module, "inplace", False):
            return
        module.inplace = False  # type: ignore[assignment]
    elif node.op == "call_method":
        name = str(node.target)
        if not name.endswith("_") or name.endswith("__") or not hasattr(Tensor, name[:-1]):
            return
        node.target = name[:-1]
    elif node.op != "call_function" or not _clear_function(node):
        return
    if not old.all_input_nodes:
        return
    written = made[old.all_input_nodes[0]]
    for alias, stands_for in made.items():
        if stands_for is written:
            made[alias] = node


def _clear_function(node: fx.Node) -> bool:
    target = node.target
    assert callable(target)
    name = getattr(target, "__name__", "")
    if getattr(operator, name, None) is target and name in _IN_PLACE_OPERATORS:
        node.target = _IN_PLACE_OPERATORS[name]
        return True
    if name.endswith("_") and not name.endswith("__"):
        plain = getattr(inspect.getmodule(target), name[:-1], None) or getattr(torch, name[:-1], None)
        if plain is None:
            return False
        node.target = plain
        return True
    try:
        position = list(inspect.signature(target).parameters).index("inplace")
    except (TypeError, ValueError):  # a builtin without signature, or a function that knows no "inplace"
        return False
    if position < len(node.args) and node.args[position]:
        node.args = (*node.args[:position], False, *node.args[position + 1 :])
        return True
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
        return True
    return False


_IN_PLACE_OPERATORS: dict[str, Callable[..., Any]] = {
    name: getattr(operator, name[1:].strip("_") + ("_" if name in ("iand", "ior") else ""))
    for name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor")
}

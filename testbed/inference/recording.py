"""Tracing by watching: the model runs on its probe, and every operation on a tensor is written down as it happens.

What torch.fx's symbolic tracing cannot see is all there: shapes, lists of features, ``isinstance``. Only where the code
asks for the *values* of a tensor that depends on the input (or for a size that does) is its graph not that of every
task: there it stops, and says in which module or method it was. Such a part can be taken whole
(:mod:`testbed.inference.opaque`).
"""

from __future__ import annotations

import contextlib
import functools
import operator
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from testbed.inference.opaque import FORWARD, Opaque, Part, without_others
from testbed.inference.pytrees import leaves, mapped, template

#: What gives Python a value of a tensor.
_READS = frozenset(
    ("item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__", "__complex__")
) | {"__contains__", "__format__", "is_nonzero", "equal", "allclose", "data_ptr"}
#: What gives Python a size.
_SIZES = frozenset(
    ["shape", "size", "__len__", "numel", "nelement", "stride", "nbytes", "unbind", "split", "chunk", "tensor_split"]
)
#: What answers with a size that depends on values.
_SIZED_BY_VALUES = frozenset(
    ("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "_unique2", "bincount")
) | {"repeat_interleave", "nms"}
_INDEXING = frozenset(["__getitem__", "index"])


class DependsOnValuesError(RuntimeError):
    """The code asked for something that differs from task to task."""


class UnfollowedError(RuntimeError):
    """The model's code could not be followed. ``parts``: where that was, innermost first."""

    def __init__(self, parts: Sequence[Part], error: BaseException) -> None:
        super().__init__(str(error))
        self.parts = parts
        self.error = error


class Recording:
    """The operations of one run. ``graph`` refers to ``attributes`` by name."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.attributes: dict[str, Any] = {}
        self.opaque: dict[str, Part] = {}  # by the name of the node
        self.varying: set[str] = set()  # nodes whose size may differ from task to task


def record(
    module: nn.Module,
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]],
    inputs: Sequence[tuple[str, Tensor]],
    opaque: Collection[Part] = (),
) -> Recording:
    """Run ``module`` on its arguments (args, kwargs) and write down what it does. ``inputs``: by name, the tensors
    among them, which become placeholders. The graph's output is all tensors of the answer, in order.

    Raises UnfollowedError.
    """
    recorder = _Recorder(module, opaque)
    for name, tensor in inputs:
        recorder.input(name, tensor)
    args, kwargs = arguments
    with torch.no_grad(), recorder.watching():
        try:
            with recorder:
                answer = module(*args, **kwargs)
        except Exception as error:  # the user's forward can raise anything
            raise UnfollowedError(recorder.parts_of(error), error) from error
    recorder.recording.graph.output(tuple(recorder.node(tensor) for tensor in leaves(answer)))
    return recorder.recording


class _Recorder(TorchFunctionMode):
    def __init__(self, root: nn.Module, opaque: Collection[Part]) -> None:
        super().__init__()
        self.recording = Recording()
        self._graph = self.recording.graph
        self._root = root
        self._opaque = opaque
        self._paths = {id(module): path for path, module in root.named_modules()}
        self._sources: dict[int, str] = {id(tensor): name for name, tensor in root.named_buffers()}
        self._sources.update({id(tensor): name for name, tensor in root.named_parameters()})
        self._nodes: dict[int, fx.Node] = {}
        self._kept: list[Any] = []  # what is told apart by its address must not be freed
        self._live: set[fx.Node] = set()  # depend on the input or on a parameter
        self._varying: set[fx.Node] = set()
        self._inside = 0  # of parts that are taken whole
        self._sized_by_values = False  # something in there
        self._used: set[int] = set()  # modules that were called in there

    # ---------------------------------------------------------------------------------------------------------- tensors

    def input(self, name: str, tensor: Tensor) -> None:
        node = self._graph.placeholder(name)
        self._bind(tensor, node)
        self._live.add(node)

    def node(self, tensor: Tensor) -> fx.Node:
        """The node that makes a tensor: of an operation, or one that fetches a parameter, buffer or constant."""
        found = self._nodes.get(id(tensor))
        if found is None:
            name = self._sources.get(id(tensor))
            if name is None:
                name = f"_constant{len(self.recording.attributes)}"
            # a constant may be written to later
            self.recording.attributes[name] = tensor if id(tensor) in self._sources else tensor.detach().clone()
            found = self._graph.get_attr(name)
            self._bind(tensor, found)
            if isinstance(tensor, nn.Parameter):
                self._live.add(found)
        return found

    def _bind(self, tensor: Tensor, node: fx.Node) -> None:
        self._nodes[id(tensor)] = node
        self._kept.append(tensor)

    def _known(self, tensor: Tensor) -> bool:
        return id(tensor) in self._nodes or id(tensor) in self._sources

    def _is_live(self, tensor: Tensor) -> bool:
        return isinstance(tensor, nn.Parameter) or self._nodes.get(id(tensor)) in self._live

    def _arguments(self, tree: Any) -> Any:
        return mapped(tree, lambda leaf: self.node(leaf) if isinstance(leaf, Tensor) else leaf)

    def _made(self, node: fx.Node, operands: Sequence[Tensor], sized_by_values: bool) -> None:
        read = [self.node(tensor) for tensor in operands]
        if any(one in self._live for one in read):
            self._live.add(node)
        if sized_by_values or any(one in self._varying for one in read):
            self._varying.add(node)
            self.recording.varying.add(node.name)

    def _results(self, result: Any, node: fx.Node, operands: Sequence[Tensor]) -> None:
        """The tensors of a result become what is read from the node, where it is several by looking them up."""
        if isinstance(result, Tensor):
            self._bind(result, node)
        elif isinstance(result, (tuple, list, dict)):
            parts = result.items() if isinstance(result, dict) else enumerate(result)
            for key, part in parts:
                if leaves(part):
                    inner = self._graph.call_function(operator.getitem, (node, key))
                    self._made(inner, operands, node in self._varying)
                    self._results(part, inner, operands)

    # ------------------------------------------------------------------------------------------------------- operations

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        is_property = name == "__get__"
        if is_property:
            name = func.__self__.__name__  # type: ignore[attr-defined]
        if self._inside:
            self._sized_by_values |= _is_sized_by_values(name, args)
            return func(*args, **kwargs)
        operands = leaves((args, kwargs))
        if not any(self._known(tensor) for tensor in operands):
            return func(*args, **kwargs)
        live = any(self._is_live(tensor) for tensor in operands)
        if live and name in _READS:
            raise DependsOnValuesError(f"{name.strip('_')} of a tensor that differs from task to task")
        if name in _SIZES and any(self._nodes.get(id(tensor)) in self._varying for tensor in operands):
            raise DependsOnValuesError(f"{name.strip('_')} of a tensor whose size differs from task to task")
        if name == "__setitem__":
            self._set_item(args)
            return func(*args, **kwargs)
        version = args[0]._version if args and isinstance(args[0], Tensor) else 0
        given = self._arguments(((args[0], name), {}) if is_property else (args, kwargs))
        result = func(*args, **kwargs)
        if not leaves(result):
            return result
        changed = args and isinstance(args[0], Tensor) and args[0]._version != version
        if any(result is tensor for tensor in operands) and not changed:
            return result
        if changed and args[0]._is_view():
            raise DependsOnValuesError(f"{name.strip('_')} writes into a part of another tensor")
        node = self._operation(getattr if is_property else func, name, *given)
        self._made(node, operands, live and _is_sized_by_values(name, args))
        self._results(result, node, operands)
        return result

    def _operation(self, func: Callable[..., Any], name: str, args: Any, kwargs: Any) -> fx.Node:
        if getattr(Tensor, name, None) is func:
            if name == "__getitem__":
                return self._graph.call_function(operator.getitem, args)
            return self._graph.create_node("call_method", name, args, kwargs, name=name.strip("_"))
        return self._graph.call_function(func, args, kwargs)

    def _set_item(self, args: tuple[Any, ...]) -> None:
        target = args[0]
        if target._is_view():
            raise DependsOnValuesError("an assignment writes into a part of another tensor")
        node = self._graph.call_function(written, self._arguments(args))
        self._made(node, leaves(args), False)
        self._bind(target, node)

    # ---------------------------------------------------------------------------------------------------------- modules

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Calls of modules, and of the methods that are taken whole, come here."""
        original = nn.Module.__call__
        recorder = self

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return recorder.called(functools.partial(original, module), module, args, kwargs)

        patched: list[tuple[nn.Module, str]] = []
        modules = dict(self._root.named_modules())
        for part in self._opaque:
            if part.method != FORWARD:
                module = modules[part.path]
                bound = getattr(module, part.method)
                module.__dict__[part.method] = functools.partial(self._whole, part, module, bound)
                patched.append((module, part.method))
        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = original  # type: ignore[method-assign]
            for module, method in patched:
                del module.__dict__[method]

    def called(self, call: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        path = self._paths.get(id(module))
        if self._inside:
            self._used.add(id(module))
        if path is None or self._inside:
            return call(*args, **kwargs)
        part = Part(path)
        if path and part in self._opaque:
            return self._whole(part, module, call, *args, **kwargs)
        if not path or not _is_leaf(module):
            return call(*args, **kwargs)
        operands = leaves((args, kwargs))
        versions = [tensor._version for tensor in operands]
        given = self._arguments((args, kwargs))
        with self._taken_whole():
            result = call(*args, **kwargs)
        changed = [tensor._version for tensor in operands] != versions
        if any(result is tensor for tensor in operands) and not changed:
            return result
        self.recording.attributes[path] = module
        node = self._graph.call_module(path, *given)
        self._made(node, operands, False)
        self._live.add(node)
        self._results(result, node, operands)
        return result

    def _whole(self, part: Part, module: nn.Module, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a part that is taken whole, and write it down as one operation."""
        if self._inside:
            return call(*args, **kwargs)
        operands = leaves((args, kwargs))
        arguments = tuple(self.node(tensor) for tensor in operands)
        self._used, self._sized_by_values = set(), False
        versions = [tensor._version for tensor in operands]
        with self._taken_whole():
            result = call(*args, **kwargs)
        writes = versions != [tensor._version for tensor in operands]
        inner = module
        if part.method != FORWARD:
            used = {name for name, child in module.named_children() if self._used & {id(m) for m in child.modules()}}
            inner = without_others(module, used)
            inner.__dict__.pop(part.method, None)
        found = leaves(result)
        name = f"opaque_{len(self.recording.opaque)}"
        self.recording.attributes[name] = Opaque(part, inner, template((args, kwargs)), len(found), writes=writes)
        node = self._graph.create_node("call_module", name, arguments, name=str(part).replace(".", "_"))
        self.recording.opaque[node.name] = part
        self._live.add(node)
        self._made(node, operands, self._sized_by_values)
        known = {id(tensor) for tensor in operands}
        self._results(found[0] if len(found) == 1 else found, node, operands)
        for tensor, own in zip(operands, arguments, strict=True):
            if any(tensor is one for one in found) and id(tensor) in known:
                self._bind(tensor, own)  # handed through
        return result

    @contextlib.contextmanager
    def _taken_whole(self) -> Iterator[None]:
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def parts_of(self, error: BaseException) -> list[Part]:
        """The modules and methods on whose code an error was raised, innermost first."""
        found: dict[Part, None] = {}
        for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
            module, name = frame.f_locals.get("self"), frame.f_code.co_name
            if not isinstance(module, nn.Module) or id(module) not in self._paths:
                continue
            if name != FORWARD and (name.startswith("_call_impl") or getattr(nn.Module, name, None) is not None):
                continue
            if callable(getattr(type(module), name, None)):
                found[Part(self._paths[id(module)], name)] = None
        return list(found)


def _is_leaf(module: nn.Module) -> bool:
    """As torch.fx has it: torch's own layers, and TorchScript, in which there is no Python to follow."""
    own = type(module).__module__.startswith(("torch.nn", "torch.ao.nn"))
    return isinstance(module, torch.jit.ScriptModule) or (own and not isinstance(module, nn.Sequential))


def _is_sized_by_values(name: str, args: tuple[Any, ...]) -> bool:
    if name == "where":
        return len(args) == 1
    if name in _INDEXING:
        return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in leaves(args[1:]))
    return name in _SIZED_BY_VALUES


def written(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """A copy of a tensor with something assigned to a part of it."""
    made = tensor.clone()
    made[index] = value
    return made

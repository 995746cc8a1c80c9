"""The graph of a model: traced once, shapes known, in-place operations cleared, the uint8 image as its input.

The traced operations fall in two kinds. *Values* are tensors that depend on the image: they are the nodes of the graph,
and each can cross the wire. Everything else - sizes, tuples, parameters read directly, constants - stays with whoever
uses it: such *helpers* are evaluated again on the side that needs them (they are views and look-ups), or were plain
numbers while tracing and have become constants, since the shape of the image never changes.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import logging
import operator
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import flop_counter
from torch.utils._pytree import tree_leaves

from controller.contract import Cut, GraphNode
from controller.model.cuts import chain_cuts
from controller.user_code import told
from testbed.errors import InputError, first_line
from testbed.inference.codec import DTYPE_NAMES
from testbed.inference.in_place import clear_in_place
from testbed.inference.models import LoadedModel, Normalise, settle
from testbed.inference.tensors import raw, why_not

INPUT = "input"
NORMALISE = "normalise"
_NORMALISE_TARGET = "testbed_normalise"  # unlike any attribute of a user's model


@dataclass(frozen=True)
class ModelGraph:
    """A traced model whose nodes can be divided between device and edge."""

    model: LoadedModel
    nodes: tuple[GraphNode, ...]  # the values, in topological order; the first is "input", the last is the answer
    chain_cuts: tuple[Cut, ...]
    root: nn.Module = field(repr=False)  # holds all submodules and parameters that the operations refer to
    operations: dict[str, fx.Node] = field(repr=False)  # by the name of the value (without "input") or helper
    order: tuple[str, ...] = field(repr=False)  # all operations, topological
    device: str = "cpu"  # of the parameters, and of what operations make of nothing

    @property
    def answer(self) -> str:
        """Name of the value that is the model's answer."""
        return self.nodes[-1].name

    def on(self, device: str) -> ModelGraph:
        """A copy of which parameters, constants, and what operations make of nothing, are on ``device``."""
        return dataclasses.replace(self, root=copy.deepcopy(self.root).to(device), device=device)

    def compile(self, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> fx.GraphModule:
        """A module that computes the values ``outputs`` (a tuple of tensors) from the values ``inputs``.

        It holds exactly the submodules and parameters on the way, shared with :attr:`root`, not copied.
        Raises ValueError if ``outputs`` cannot be reached from ``inputs`` alone.
        """
        needed = set(outputs).difference(inputs)
        for key in reversed(self.order):
            if key in needed:
                needed.update(found for found in self._reads(key) if found not in inputs)
        if INPUT in needed:
            raise ValueError(f"values {tuple(inputs)} do not determine {tuple(outputs)}")
        graph = fx.Graph()
        made = {value: graph.placeholder(value) for value in inputs}
        for key in self.order:
            if key in needed:
                made[key] = graph.node_copy(self.operations[key], lambda node: made[node.name])
                self._place(made[key])
        graph.output(tuple(made[value] for value in outputs))
        module = fx.GraphModule(self.root, graph, class_name=name)
        return module.eval()

    def _place(self, node: fx.Node) -> None:
        """An operation that was traced with the CPU as an argument gets :attr:`device`."""

        def moved(leaf: Any) -> Any:
            return torch.device(self.device) if isinstance(leaf, torch.device) else leaf

        node.args = fx.node.map_aggregate(node.args, moved)
        node.kwargs = fx.node.map_aggregate(node.kwargs, moved)

    def _reads(self, key: str) -> Iterator[str]:
        return (node.name for node in self.operations[key].all_input_nodes)


def trace(model: LoadedModel) -> ModelGraph:
    """Trace a model with torch.fx, or with torch.export where fx cannot follow its code.

    The graph's answer is compared with the model's own on a random image, bit for bit (with a tolerance of 1e-4 for
    torch.export, which may spell an operation differently; the unsplit model is then the exported one). Raises
    InputError, naming the source line, for a model that neither can trace, whose graph answers something else, or that
    has a value which cannot cross the wire.
    """
    settle()
    in_place = [module for module in model.module.modules() if getattr(module, "inplace", False)]
    try:
        graph = _with_image_input(model, _symbolic(model.module))
        if raw(_run(graph, model.probe)) == raw(model.answer):
            return graph
        fx_problem = "its graph answers something else (an in-place write through a view?)"
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - tracing runs the user's forward, which can raise anything
        fx_problem = told(error)
    for module in in_place:  # as they were: torch.export does its own clearing, and sees through views
        module.inplace = True  # type: ignore[assignment]
    try:
        with _silenced():
            exported = torch.export.export(model.module, (_normalised(model),), strict=False).run_decompositions({})
        graph = _with_image_input(model, exported.module())
        answer = _run(graph, model.probe)
    except InputError:
        raise
    except Exception as error:  # as above
        raise InputError(
            f"the model cannot be traced. torch.fx: {fx_problem}. torch.export: {first_line(error)}",
            where="model",
            value=model.name,
            fix="Replace control flow that depends on tensor values (early exits: one model each), or wrap that part "
            "in a module of torch.nn's kind.",
        ) from error
    if not torch.allclose(answer, model.answer, rtol=1e-4, atol=1e-4 * float(model.answer.abs().max())):
        raise InputError(
            f"the traced model answers something else. torch.fx: {fx_problem}", where="model", value=model.name
        )
    return dataclasses.replace(graph, model=dataclasses.replace(model, answer=answer))


class _Tracer(fx.Tracer):
    """TorchScript inside a model is taken whole: there is no Python in it to follow."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, torch.jit.ScriptModule) or super().is_leaf_module(m, module_qualified_name)


def _symbolic(module: nn.Module) -> fx.GraphModule:
    tracer = _Tracer()
    graph = tracer.trace(module)
    return fx.GraphModule(tracer.root, graph, type(module).__name__)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """torch.export prints whole graphs of what it fails on, and logs them: the error says what a user can use."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _normalised(model: LoadedModel) -> Tensor:
    return Normalise(model.input_shape[0])(model.probe)  # type: ignore[no-any-return]


def _run(graph: ModelGraph, image: Tensor) -> Tensor:
    with torch.inference_mode():
        (answer,) = graph.compile("Whole", (INPUT,), (graph.answer,))(image)
    return answer  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------- from fx to values


def _with_image_input(model: LoadedModel, traced: fx.GraphModule) -> ModelGraph:
    """Build the graph: image and normalisation first, in-place operations cleared, helpers told from values."""
    graph = fx.Graph()
    image = graph.placeholder(INPUT)
    image.name = INPUT  # fx evades the names of Python's builtins
    normalise = graph.create_node("call_module", _NORMALISE_TARGET, (image,), name=NORMALISE)
    modules = dict(traced.named_modules())
    modules[_NORMALISE_TARGET] = Normalise(model.input_shape[0])
    made: dict[fx.Node, fx.Node] = {}
    answer: fx.Node | None = None
    image_taken = False
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            if image_taken:
                continue  # further arguments have defaults; one that is used fails below, and is named
            made[node] = normalise
            image_taken = True
        elif node.op == "output":
            (answer,) = (made[leaf] for leaf in tree_leaves(node.args) if isinstance(leaf, fx.Node))
        elif node.op == "call_module" and node.target == "_guards_fn":
            continue  # torch.export's check of the input's shape, which is fixed here
        else:
            made[node] = graph.node_copy(node, lambda old: made[old])
            clear_in_place(made, node, modules)
    if answer is None:
        raise ValueError("the traced graph has no output")
    graph.output(answer)
    holder = fx.GraphModule({**_attributes(traced), _NORMALISE_TARGET: modules[_NORMALISE_TARGET]}, graph)
    return _Measured(model, holder).model_graph()


def _attributes(traced: fx.GraphModule) -> dict[str, Any]:
    """Everything that operations of ``traced`` refer to, by qualified name."""
    found: dict[str, Any] = {}
    for node in traced.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            found[node.target] = operator.attrgetter(node.target)(traced)
    return found


def _count_without_compiler() -> None:
    """Torch wraps what the counter sees so that its compiler would not compile it, and imports the compiler for that: a
    second, in every process of a lab that computes. Here nothing is compiled. Not needed (and nothing) once torch looks
    whether the compiler is there at all.
    """
    mode = getattr(flop_counter, "_FlopCounterMode", None)
    inner = getattr(getattr(mode, "__torch_dispatch__", None), "__wrapped__", None)
    if inner is not None and "torch._dynamo" not in sys.modules:
        inner.__dict__.setdefault("__dynamo_disable", inner)


class _Measured(fx.Interpreter):
    """One run over the traced graph on the probe image: shapes, multiply-accumulates, and what is a value."""

    def __init__(self, model: LoadedModel, traced: fx.GraphModule) -> None:
        super().__init__(traced, garbage_collect_values=False)
        self._model = model
        self._macs: dict[str, int] = {}
        self._results: dict[str, Any] = {}
        self._unpacked: dict[str, list[Tensor]] = {}
        _count_without_compiler()
        with torch.no_grad():
            self.run(model.probe)

    def run_node(self, n: fx.Node) -> Any:
        with flop_counter.FlopCounterMode(display=False) as counter:
            result = super().run_node(n)
        self._macs[n.name] = counter.get_total_flops() // 2
        self._results[n.name] = result
        return result

    def model_graph(self) -> ModelGraph:
        """Sort the operations into values, helpers and constants; describe the values."""
        fx_nodes = list(self.module.graph.nodes)  # type: ignore[union-attr, arg-type]
        (answer,) = fx_nodes[-1].all_input_nodes
        for node in fx_nodes:
            for read in list(node.all_input_nodes):
                if _is_plain(self._results[read.name]):
                    _replace_by_constant(node, read, self._results[read.name])
        needed = _reachable(answer)
        kept = [node for node in fx_nodes if node in needed]
        depends: set[str] = {INPUT}
        for node in kept:
            if any(read.name in depends for read in node.all_input_nodes):
                depends.add(node.name)
        values = {node.name for node in kept if node.name in depends and isinstance(self._results[node.name], Tensor)}
        seen: set[str] = set()
        nodes = tuple(self._describe(node, values, seen) for node in kept if node.name in values)
        if nodes[-1].name != answer.name or nodes[0].name != INPUT:
            raise ValueError("the model's answer does not depend on the image")
        return ModelGraph(
            model=self._model,
            nodes=nodes,
            chain_cuts=chain_cuts(nodes),
            root=self.module,
            operations={node.name: node for node in kept if node.name != INPUT},
            order=tuple(node.name for node in kept if node.name != INPUT),
        )

    def _describe(self, node: fx.Node, values: set[str], seen: set[str]) -> GraphNode:
        """One value, with the helpers that only now are needed counted as its own."""
        inputs: dict[str, None] = {}
        own = [node]
        for current in own:  # grows while it is walked
            for read in current.all_input_nodes:
                if read.name in values:
                    inputs[read.name] = None
                elif read not in own:
                    own.append(read)
        result: Tensor = self._results[node.name]
        if reason := why_not(result):
            raise InputError(
                f"the value of layer {node.name!r} ({node.target}) cannot cross the wire: {reason}",
                where="model",
                value=self._model.name,
                allowed="dense tensors, also quantised ones with one scale",
                fix="Convert it in that layer, or let a module of your own that torch.fx takes whole hold it.",
            )
        fresh = [current for current in own if current.name not in seen]
        seen.update(current.name for current in fresh)
        order = {name: index for index, name in enumerate(self._results)}
        return GraphNode(
            name=node.name,
            inputs=tuple(sorted(inputs, key=order.__getitem__)),
            output_shape=tuple(result.shape),
            output_bytes=result.numel() * result.element_size(),
            macs=sum(self._macs[current.name] for current in fresh),
            parameter_bytes=sum(_storage_bytes(self._tensors(current), seen) for current in fresh),
            dtype=DTYPE_NAMES[result.dtype] if inputs else DTYPE_NAMES[torch.float32],
        )

    def _tensors(self, node: fx.Node) -> Iterable[Tensor]:
        if node.op == "get_attr":
            target = self.fetch_attr(str(node.target))
            return [target] if isinstance(target, Tensor) else []
        if node.op == "call_module":
            module = self.fetch_attr(str(node.target))
            return [*module.parameters(), *module.buffers(), *self._packed(str(node.target), module)]
        return []

    def _packed(self, name: str, module: nn.Module) -> Iterable[Tensor]:
        """What a quantised module keeps in an object of the library's own."""
        unpack = getattr(module, "_weight_bias", None)
        if unpack is None:
            return []
        if name not in self._unpacked:  # kept: what is told apart by its address must not be freed
            self._unpacked[name] = [part for part in unpack() if part is not None]
        return self._unpacked[name]


def _storage_bytes(tensors: Iterable[Tensor], seen: set[str]) -> int:
    """Bytes of the parameters and buffers that no earlier node has (a layer used twice is uploaded once)."""
    total = 0
    for tensor in tensors:
        key = f"storage {tensor.data_ptr()}"
        if key not in seen:
            seen.add(key)
            total += tensor.numel() * tensor.element_size()
    return total


def _is_plain(result: Any) -> bool:
    """A number, a size, None ...: the same for every image, since the shape of the image is fixed."""
    plain = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
    return not isinstance(result, Tensor) and all(isinstance(leaf, plain) for leaf in tree_leaves(result))


def _replace_by_constant(node: fx.Node, read: fx.Node, value: Any) -> None:
    constant = tuple(value) if isinstance(value, torch.Size) else value

    def swap(old: fx.Node) -> Any:
        return constant if old is read else old

    node.args = fx.node.map_arg(node.args, swap)
    node.kwargs = fx.node.map_arg(node.kwargs, swap)


def _reachable(answer: fx.Node) -> set[fx.Node]:
    found = {answer}
    pending = [answer]
    while pending:
        for read in pending.pop().all_input_nodes:
            if read not in found:
                found.add(read)
                pending.append(read)
    return found

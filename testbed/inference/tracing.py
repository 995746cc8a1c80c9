"""Tracing: from a model to its graph, in one of three ways."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from controller.user_code import told
from testbed.errors import InputError
from testbed.inference.bundles import Bundle, Unbundle, bundle, parts_of
from testbed.inference.codec import raw
from testbed.inference.described import describe
from testbed.inference.graph import INPUT, ModelGraph
from testbed.inference.in_place import clear_in_place
from testbed.inference.models import LoadedModel, answer_to, settle
from testbed.inference.opaque import Part, named_parts
from testbed.inference.pytrees import Slot, leaves
from testbed.inference.recording import UnfollowedError, record
from testbed.inference.signature import Normalise

NORMALISE = "normalise"
ANSWER = "answer"
# unlike any attribute of a user's model
_NORMALISE_TARGET = "testbed_normalise"
_UNBUNDLE_TARGET = "testbed_unbundle"
_BUNDLE_TARGET = "testbed_bundle"


def trace(model: LoadedModel) -> ModelGraph:
    """Trace a model: with torch.fx; by watching it run where fx cannot follow its code, with modules taken whole where
    that cannot either; at last with torch.export.

    The graph's answer is compared with the model's own, bit for bit (with a tolerance of 1e-4 for torch.export, which
    may spell an operation differently; the unsplit model is then the exported one). Raises InputError, naming module
    and source line, for a model that cannot be traced, whose graph answers something else, or that has a value which
    cannot cross the wire.
    """
    settle()
    in_place = [module for module in model.module.modules() if getattr(module, "inplace", False)]
    problems: list[str] = []
    for follow in (_symbolic, _watched):
        graph = _tried(follow, model, problems)
        if graph is not None:
            if _alike(graph, bits=True, inputs=1 if follow is _symbolic else 2):
                return graph
            problems.append("its graph answers something else (an in-place write through a view?)")
    for module in in_place:  # as they were: torch.export does its own clearing, and sees through views
        module.inplace = True  # type: ignore[assignment]
    export_problems: list[str] = []
    graph = _tried(_exported, model, export_problems)
    if graph is None:
        raise InputError(
            f"the model cannot be traced. {problems[-1]}. torch.export: {export_problems[-1]}",
            where="model",
            value=model.name,
            fix="Replace control flow that depends on tensor values (early exits: one model each), or move that part "
            "into a module of its own: a module that cannot be followed becomes one node.",
        )
    if not _alike(graph, bits=False, inputs=1):
        raise InputError(f"the traced model answers something else. {problems[-1]}", where="model", value=model.name)
    return dataclasses.replace(graph, model=dataclasses.replace(graph.model, answer=_run(graph, model.probe)))


def _tried(
    follow: Callable[[LoadedModel], _Traced | None], model: LoadedModel, problems: list[str]
) -> ModelGraph | None:
    """None where it fails, with the reason added. Raises InputError for a value that cannot cross the wire."""
    try:
        with _silenced():
            traced = follow(model)
        return None if traced is None else _with_input(model, traced)
    except InputError:
        raise
    except UnfollowedError as error:
        where = str(error.parts[0]) if error.parts else ""
        problems.append(f"{where or 'the model itself'}: {told(error.error)}")
    except Exception as error:  # noqa: BLE001 - tracing runs the user's forward, which can raise anything
        problems.append(told(error))
    return None


@dataclass(frozen=True)
class _Traced:
    """Operations from the tensors that a module takes, in order, to those that it answers with."""

    graph: fx.Graph
    attributes: Mapping[str, Any]  # what they refer to, by qualified name
    opaque: Mapping[str, Part] = field(default_factory=dict)  # by the name of the node
    varying: Collection[str] = ()


class _Tracer(fx.Tracer):
    """TorchScript inside a model is taken whole: there is no Python in it to follow."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, torch.jit.ScriptModule) or super().is_leaf_module(m, module_qualified_name)


def _symbolic(model: LoadedModel) -> _Traced | None:
    """With torch.fx, which follows code from one tensor to one tensor; None for other models."""
    if len(model.signature.examples) != 1 or model.bundled or model.opaque or not isinstance(model.answers, Slot):
        return None
    tracer = _Tracer()
    graph = tracer.trace(model.module)
    return _Traced(graph, _attributes(fx.GraphModule(tracer.root, graph)))


def _watched(model: LoadedModel) -> _Traced:
    """By watching the model run. What cannot be followed is taken whole, innermost first. Raises UnfollowedError."""
    named, _ = named_parts(model.module, model.opaque)
    opaque = set(named)
    tensors = model.signature.taken(model.probe)
    arguments = model.signature.arguments(tensors)
    inputs = list(zip(model.signature.names, tensors, strict=True))
    while True:
        try:
            found = record(model.module, arguments, inputs, opaque)
            return _Traced(found.graph, found.attributes, found.opaque, found.varying)
        except UnfollowedError as error:
            more = [part for part in error.parts if part not in opaque and part != Part("")]
            if not more:
                raise
            opaque.add(more[0])


def _exported(model: LoadedModel) -> _Traced:
    """With torch.export."""
    args, kwargs = model.signature.arguments(model.signature.taken(model.probe))
    program = torch.export.export(model.module, args, dict(kwargs), strict=False).run_decompositions({})
    module = program.module()
    return _Traced(module.graph, _attributes(module))


def _attributes(traced: fx.GraphModule) -> dict[str, Any]:
    """Everything that operations of ``traced`` refer to, by qualified name."""
    found: dict[str, Any] = {}
    for node in traced.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            found[node.target] = operator.attrgetter(node.target)(traced)
    return found


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


def _run(graph: ModelGraph, value: Tensor) -> Tensor:
    with torch.inference_mode():
        (answer,) = graph.compile("Whole", (INPUT,), (graph.answer,))(value)
    return answer  # type: ignore[no-any-return]


def _alike(graph: ModelGraph, *, bits: bool, inputs: int) -> bool:
    """Whether a graph answers what its model does: to the probe, and to further inputs."""
    model = graph.model
    pairs = [(_run(graph, model.probe), model.answer)]
    for number in range(1, inputs):
        value = model.signature.random(0, number)
        pairs.append((_run(graph, value), answer_to(model, value)))
    if bits:
        return all(raw(found) == raw(expected) for found, expected in pairs)
    return all(
        one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
        for found, expected in pairs
        for one, other in zip(*[parts_of(v) if model.bundled else [v] for v in (found, expected)], strict=True)
    )


# ------------------------------------------------------------------------------------------------- from fx to values


def _with_input(model: LoadedModel, traced: _Traced) -> ModelGraph:
    """Build the graph: a task's input first, in-place operations cleared, the answer as one value."""
    graph = fx.Graph()
    attributes = dict(traced.attributes)
    made: dict[fx.Node, fx.Node] = {}
    answers: list[fx.Node] = []
    taken = iter(_taken(model, graph, attributes))
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            tensor = next(taken, None)
            if tensor is not None:  # further arguments have defaults; one that is used fails below, and is named
                made[node] = tensor
        elif node.op == "output":
            answers = [made[leaf] for leaf in leaves(node.args, fx.Node)]
        elif node.op == "call_module" and node.target == "_guards_fn":
            continue  # torch.export's check of the input's shape, which is fixed here
        else:
            made[node] = graph.node_copy(node, lambda old: made[old])
            clear_in_place(made, node, attributes)
    names = {old.name: new.name for old, new in made.items()}
    varying = {names[name] for name in traced.varying}
    model = _bundled_if(any(node.name in varying for node in answers), model)
    if len(answers) != len(leaves(model.answers, Slot)):
        raise ValueError(f"the traced graph answers with {len(answers)} tensors")
    answer = answers[0]
    if model.bundled:
        attributes[_BUNDLE_TARGET] = Bundle()
        answer = graph.create_node("call_module", _BUNDLE_TARGET, tuple(answers), name=ANSWER)
        if any(node.name in varying for node in answers):
            varying.add(answer.name)
    graph.output(answer)
    opaque = {names[name]: str(part) for name, part in traced.opaque.items()}
    return describe(model, graph, attributes, opaque, varying)


def _bundled_if(varies: bool, model: LoadedModel) -> LoadedModel:
    """An answer whose size may differ from task to task is a bundle, whatever it was so far."""
    if not varies or model.bundled:
        return model
    return dataclasses.replace(model, bundled=True, classes=0, answer=bundle([model.answer]))


def _taken(model: LoadedModel, graph: fx.Graph, attributes: dict[str, Any]) -> list[fx.Node]:
    """The tensors that the module takes, made from a task's input."""
    value = graph.placeholder(INPUT)
    value.name = INPUT  # fx evades the names of Python's builtins
    signature = model.signature
    if signature.image:
        attributes[_NORMALISE_TARGET] = Normalise(int(model.probe.shape[1]))
        return [graph.create_node("call_module", _NORMALISE_TARGET, (value,), name=NORMALISE)]
    if len(signature.examples) == 1:
        return [value]
    attributes[_UNBUNDLE_TARGET] = Unbundle()
    parts = graph.create_node("call_module", _UNBUNDLE_TARGET, (value,), name="parts")
    return [
        graph.create_node("call_function", operator.getitem, (parts, index), name=name)
        for index, name in enumerate(signature.names)
    ]

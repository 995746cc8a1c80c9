"""What the operations of a traced graph are: one run on the probe tells values from helpers, and describes them."""

from __future__ import annotations

import operator
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import flop_counter
from torch.utils._pytree import tree_leaves

from controller.contract import GraphNode
from controller.model.cuts import chain_cuts
from testbed.errors import InputError
from testbed.inference.bundles import bundle, parts_of
from testbed.inference.codec import DTYPE_NAMES
from testbed.inference.graph import INPUT, ModelGraph
from testbed.inference.models import LoadedModel
from testbed.inference.pytrees import filled, leaves, template
from testbed.inference.tensors import why_not


def describe(
    model: LoadedModel,
    graph: fx.Graph,
    attributes: Mapping[str, Any],
    opaque: Mapping[str, str],
    varying: Collection[str],
) -> ModelGraph:
    """The graph of a model from its operations, which refer to ``attributes``. ``opaque``: by node, the path of the
    part that it takes whole; ``varying``: nodes whose size may differ from task to task.

    Raises InputError for a value that cannot cross the wire.
    """
    measured = _Measured(model, fx.GraphModule(dict(attributes), graph), opaque)
    several = measured.several()
    if several:
        attributes = dict(attributes)
        for node in several:
            varying = {*varying, *_as_one_value(graph, node, measured.result(node), attributes, varying)}
        measured = _Measured(model, fx.GraphModule(attributes, graph), opaque)
    return measured.model_graph(varying)


def _as_one_value(
    graph: fx.Graph, node: fx.Node, result: Any, attributes: dict[str, Any], varying: Collection[str]
) -> set[str]:
    """What a node makes besides one tensor becomes a value of its own, a bundle, so that neither side of a cut through
    its readers computes it anew. Returns the names of new nodes that vary as it does."""
    own = f"testbed_values_of_{node.name}"
    attributes[f"{own}_bundle"], attributes[f"{own}_unbundle"] = _BundleOf(), _UnbundleAs(template(result))
    with graph.inserting_after(node):
        value = graph.create_node("call_module", f"{own}_bundle", (node,), name=f"{node.name}_values")
    with graph.inserting_after(value):
        parts = graph.create_node("call_module", f"{own}_unbundle", (value,), name=f"{node.name}_parts")
    node.replace_all_uses_with(parts, delete_user_cb=lambda user: user is not value)
    return {value.name} if node.name in varying else set()


class _BundleOf(nn.Module):
    """The bundle of all tensors in a tuple, list or dict."""

    def forward(self, tree: Any) -> Tensor:
        return bundle(leaves(tree))


class _UnbundleAs(nn.Module):
    """The tuple, list or dict that a bundle was made of."""

    def __init__(self, tree: Any) -> None:
        super().__init__()
        self._tree = tree

    def forward(self, data: Tensor) -> Any:
        return filled(self._tree, parts_of(data))


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
    """One run over the traced graph on the probe: shapes, multiply-accumulates, and what is a value."""

    def __init__(self, model: LoadedModel, traced: fx.GraphModule, opaque: Mapping[str, str]) -> None:
        super().__init__(traced, garbage_collect_values=False)
        self._model = model
        self._opaque = opaque
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

    def result(self, node: fx.Node) -> Any:
        """What a node of the traced graph made of the probe."""
        return self._results[node.name]

    def several(self) -> list[fx.Node]:
        """Nodes that compute more than one tensor that somebody reads. (Views of one that is there are looked up.)"""
        found = []
        depends = {INPUT}
        for node in self.module.graph.nodes:  # type: ignore[union-attr]
            read = [one.name for one in node.all_input_nodes]
            if not depends.intersection(read):
                continue
            depends.add(node.name)
            tensors = leaves(self._results[node.name])
            if isinstance(self._results[node.name], Tensor) or not tensors or _is_look_up(node):
                continue
            there = {one.untyped_storage().data_ptr() for name in read for one in leaves(self._results[name])}
            new = [one for one in tensors if one.untyped_storage().data_ptr() not in there]
            if new and len(self._readers(node)) > 1:
                found.append(node)
        return found

    def _readers(self, node: fx.Node) -> set[fx.Node]:
        """Those that make a tensor of it, seen through what only picks a part."""
        found: set[fx.Node] = set()
        for user in node.users:
            part = self._results.get(user.name)
            found |= {user} if isinstance(part, Tensor) or not _is_look_up(user) else self._readers(user)
        return found

    def model_graph(self, varying: Collection[str]) -> ModelGraph:
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
        nodes = tuple(self._describe(node, values, seen, node.name in varying) for node in kept if node.name in values)
        if nodes[-1].name != answer.name or nodes[0].name != INPUT:
            raise ValueError("the model's answer does not depend on the input")
        return ModelGraph(
            model=self._model,
            nodes=nodes,
            chain_cuts=chain_cuts(nodes),
            root=self.module,
            operations={node.name: node for node in kept if node.name != INPUT},
            order=tuple(node.name for node in kept if node.name != INPUT),
        )

    def _describe(self, node: fx.Node, values: set[str], seen: set[str], varies: bool) -> GraphNode:
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
        names_type = bool(inputs) or not self._model.signature.image
        return GraphNode(
            name=node.name,
            inputs=tuple(sorted(inputs, key=order.__getitem__)),
            output_shape=tuple(result.shape),
            output_bytes=result.numel() * result.element_size(),
            macs=sum(self._macs[current.name] for current in fresh),
            parameter_bytes=sum(_storage_bytes(self._tensors(current), seen) for current in fresh),
            dtype=DTYPE_NAMES[result.dtype if names_type else torch.float32],
            opaque=next((self._opaque[current.name] for current in fresh if current.name in self._opaque), ""),
            varies=varies,
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
    """A number, a size, None ...: the same for every task, since the shape of its input is fixed."""
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


def _is_look_up(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is operator.getitem

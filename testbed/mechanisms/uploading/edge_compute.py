"""The compute of an edge that starts without models: each UE's task, node by node, as inputs and parameters come."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from controller.contract import Codec, ModelProfile
from controller.model.cut_times import NodeWork
from testbed.inference import tensors
from testbed.inference.partition import SplitModel
from testbed.mechanisms.uploading.timeline import Awaited, Timeline
from testbed.mechanisms.uploading.upload_frames import ValueStart
from testbed.mechanisms.uploading.upload_run import Flow
from testbed.node.control import DecisionBox, decided_share
from testbed.node.last_words import reason_of
from testbed.node.pacing import DeadlineThread
from testbed.node.threads import AgentThread, Inbox

VALUE_CODEC: Codec = "fp32"
Layer = tuple[Tensor, ...]


class EdgeModel:
    """A model's operations without its parameters, and what each node costs. UEs of a model and profile share one."""

    def __init__(self, split: SplitModel, profile: ModelProfile) -> None:
        self.split = split
        self.flow = Flow(profile.nodes)
        self.shapes = {node.name: node.output_shape for node in profile.nodes}
        seconds = NodeWork.of(profile, "uint8", VALUE_CODEC).edge_seconds
        self.node_seconds = {node.name: float(cost) for node, cost in zip(profile.nodes, seconds, strict=True)}
        self.layers_of = {node.name: split.weights.layers_of(node.name) for node in profile.nodes[1:]}

    def layers(self, nodes: Sequence[str]) -> tuple[str, ...]:
        """The nodes whose parameters these read, each once."""
        return tuple(dict.fromkeys(owner for node in nodes for owner in self.layers_of[node]))


@dataclass(eq=False)
class EdgeRun:
    """A task at the edge. Owned by the compute thread."""

    ue: str
    task: int
    model: EdgeModel
    on_edge: frozenset[str]
    serial: bool
    timeline: Timeline
    layers: dict[str, tuple[Layer, float]] = field(default_factory=dict)  # with when they came; -1: they were there
    values: dict[str, Tensor] = field(default_factory=dict)
    received: dict[str, float] = field(default_factory=dict)  # values of the device
    ended: dict[str, float] = field(default_factory=dict)  # nodes
    share: float = 0.0  # taken with the first node
    asked: str = ""  # the node whose turn the UE was told of
    told: int = 0  # segments

    def next_node(self) -> str | None:
        flow = self.model.flow
        return next((name for name in flow.order if name in self.on_edge and name not in self.ended), None)

    def lacks_inputs(self, name: str) -> bool:
        return any(read not in self.values for read in self.model.flow.inputs[name])

    def lacks_layers(self, name: str) -> bool:
        return any(owner not in self.layers for owner in self.model.layers_of[name])

    def awaited(self, name: str) -> tuple[Awaited, Awaited]:
        """The last value of the device's, and the last parameters, that a node waited for."""
        value = layer = Awaited()
        for read in self.model.flow.inputs[name]:
            if read in self.received:
                value = Awaited(read, self.received[read]).after(value)
        for owner in self.model.layers_of[name]:
            if (came := self.layers[owner][1]) >= 0:
                layer = Awaited(owner, came).after(layer)
        return value, layer


class Outlet(Protocol):
    """Where the compute and the deadline thread put what is for a UE; each call only hands over."""

    def value(self, run: EdgeRun, start: ValueStart, buffers: list[memoryview]) -> None: ...
    def turn(self, run: EdgeRun, node: str) -> None: ...
    def failed(self, run: EdgeRun, reason: str) -> None: ...


class RunsThread(AgentThread):
    """Runs the next node of the task with the earliest target. Nodes of a task run in the graph's order, each as soon
    as its inputs and parameters are there; its target is its time on the reference core over the task's share."""

    def __init__(
        self, ues: Sequence[str], cpus: float, decisions: DecisionBox, deadlines: DeadlineThread, outlet: Outlet
    ) -> None:
        super().__init__("compute")
        self._cpus, self._decisions, self._deadlines, self._outlet = cpus, decisions, deadlines, outlet
        self._ues = tuple(ues)
        self._runs: dict[str, EdgeRun] = {}
        self._bound: dict[tuple[int, str], Layer] = {}
        self._inbox = Inbox(self._wake)
        self._counts = dict.fromkeys(ues, (0, 0))  # tasks that ended with nodes of theirs run here, overruns

    # ------------------------------------------------------------------------------------------- from the I/O thread

    def begin(self, run: EdgeRun) -> None:
        """In place of the UE's last task."""
        self._inbox.post(lambda: self._runs.__setitem__(run.ue, run))

    def resume(self, run: EdgeRun, on_edge: frozenset[str], have: Sequence[str]) -> None:
        """The connection is back: what the UE has not is handed over again."""
        self._inbox.post(lambda: self._resume(run, on_edge, frozenset(have)))

    def value(self, run: EdgeRun, name: str, value: Tensor, received_seconds: float) -> None:
        def take() -> None:
            if name not in run.values:
                run.values[name] = value
                run.received[name] = received_seconds

        self._inbox.post(take)

    def layer(self, run: EdgeRun, node: str, layer: Layer, received_seconds: float) -> None:
        self._inbox.post(lambda: run.layers.setdefault(node, (layer, received_seconds)))

    def move(self, run: EdgeRun, nodes: Sequence[str]) -> None:
        """The UE computes these."""
        self._inbox.post(lambda: self._move(run, frozenset(nodes)))

    def end(self, run: EdgeRun) -> None:
        def forget() -> None:
            if self._runs.get(run.ue) is run:
                del self._runs[run.ue]
            tasks, overruns = self._counts[run.ue]
            late = any(segment.overrun for segment in run.timeline.segments)
            self._counts[run.ue] = tasks + bool(run.ended), overruns + late

        self._inbox.post(forget)

    def state(self, ue: str, now_seconds: float) -> tuple[int, float]:
        """Tasks that have not started, and seconds of work left at the present share."""
        run = self._runs.get(ue)
        if run is None:
            return 0, 0.0
        share = run.share or self._share(ue, now_seconds)
        ended = set(run.ended)
        left = sum(run.model.node_seconds[name] for name in run.on_edge if name not in ended)
        return int(not ended), left / share + max(run.timeline.free_seconds - now_seconds, 0.0)

    def take_counts(self, ue: str) -> tuple[int, int]:
        """Tasks since the last call, and those of which a value was handed over after its time."""
        counts, self._counts[ue] = self._counts[ue], (0, 0)
        return counts

    def _share(self, ue: str, now_seconds: float) -> float:
        return decided_share(self._decisions, ue, self._cpus, len(self._ues), now_seconds)

    # --------------------------------------------------------------------------------------------- the compute thread

    def _run(self) -> None:
        while not self._stopping:
            self._inbox.work()
            ready = [found for run in self._runs.values() if (found := self._next(run)) is not None]
            if ready:
                _, run, node = min(ready, key=lambda one: one[0])
                self._advance(run, node)
            else:
                self._wake.wait()

    def _next(self, run: EdgeRun) -> tuple[float, EdgeRun, str] | None:
        """When a run's next node should end, if it can run."""
        node = run.next_node()
        if node is None:
            return None
        lacks_layers = run.lacks_layers(node)
        if lacks_layers and run.serial and run.asked != node:
            run.asked = node
            self._deadlines.submit(run.timeline.free_seconds, lambda _: self._outlet.turn(run, node))
        if lacks_layers or run.lacks_inputs(node):
            return None
        start = run.timeline.start_of(*run.awaited(node))
        return start + run.model.node_seconds[node] / self._share_of(run, start), run, node

    def _share_of(self, run: EdgeRun, start_seconds: float) -> float:
        if not run.share:
            run.share = self._share(run.ue, max(start_seconds, time.monotonic()))
        return run.share

    def _advance(self, run: EdgeRun, node: str) -> None:
        model, share = run.model, run.share
        value_seen, layer_seen = run.awaited(node)
        began = time.monotonic()
        try:
            self._bind(run, node)
            run.values[node] = model.split.run_node(node, run.values)
        except Exception as error:  # noqa: BLE001 - a model, or values that do not fit it, may raise anything
            self._fail(run, f"edge: {node}", error)
            return
        crosses = model.flow.goes_down(node, run.on_edge)
        computed = time.monotonic()
        end = run.timeline.ran(
            node,
            model.node_seconds[node] / share,
            value_seen,
            layer_seen,
            computed - began,
            share,
            crosses_seconds=computed if crosses else None,
        )
        run.ended[node] = end
        if crosses:
            self._hand_over(run, node, end)

    def _bind(self, run: EdgeRun, node: str) -> None:
        """Parameters are the UE's, whoever computed with this model before."""
        weights = run.model.split.weights
        for owner in run.model.layers_of[node]:
            layer = run.layers[owner][0]
            if self._bound.get((id(weights), owner)) is not layer:
                weights.bind(owner, layer)
                self._bound[id(weights), owner] = layer

    def _fail(self, run: EdgeRun, where: str, error: Exception) -> None:
        self._runs.pop(run.ue, None)
        self._outlet.failed(run, reason_of(where, error))

    def _hand_over(self, run: EdgeRun, node: str, end_seconds: float) -> None:
        try:
            with torch.inference_mode():
                header, buffers = tensors.pack(run.task, (node,), [run.values[node]], VALUE_CODEC)
        except Exception as error:  # noqa: BLE001 - of values that no frame can hold
            self._fail(run, f"edge: {node}", error)
            return
        segments = tuple(run.timeline.segments[max(run.told - 1, 0) :])
        run.told = len(run.timeline.segments)

        def release(now_seconds: float) -> None:
            self._outlet.value(run, ValueStart(run.task, node, header, now_seconds, segments), buffers)

        self._deadlines.submit(end_seconds, release)

    def _move(self, run: EdgeRun, nodes: frozenset[str]) -> None:
        before = {name for name in run.ended if run.model.flow.goes_down(name, run.on_edge)}
        run.on_edge = run.on_edge - nodes
        for name, end in run.ended.items():
            if name not in before and run.model.flow.goes_down(name, run.on_edge):
                self._hand_over(run, name, end)

    def _resume(self, run: EdgeRun, on_edge: frozenset[str], have: frozenset[str]) -> None:
        run.on_edge, run.asked, run.told = on_edge, "", 0
        for name, end in run.ended.items():
            if name not in have and run.model.flow.goes_down(name, on_edge):
                self._hand_over(run, name, end)


def edge_models(
    splits: Mapping[str, tuple[SplitModel, ModelProfile]],
) -> dict[str, EdgeModel]:
    """By UE. All nodes are built and run once, then the parameters are forgotten."""
    made: dict[tuple[int, int], EdgeModel] = {}
    for split, profile in splits.values():
        key = (id(split), id(profile))
        if key not in made:
            made[key] = EdgeModel(split, profile)
    for split in {id(split): split for split, _ in splits.values()}.values():
        values = {"input": split.model.probe}
        for node in split.graph.nodes[1:]:
            values[node.name] = split.run_node(node.name, values)
        split.weights.strip()
    return {ue: made[id(split), id(profile)] for ue, (split, profile) in splits.items()}

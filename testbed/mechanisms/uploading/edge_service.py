"""What an edge that starts without models does with what UEs send: parameters, while they infer, and values.

The receiver owns the cache of parameters and hands what a task needs of it to the thread that computes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from controller.contract import Uploading
from controller.service import protocol
from testbed.inference.profiles import read_profile
from testbed.inference.tensors import MalformedFrame
from testbed.inference.weights import Arriving, Contents
from testbed.mechanisms.uploading.edge_compute import EdgeModel, EdgeRun, RunsThread, edge_models
from testbed.mechanisms.uploading.layer_cache import Key, LayerCache, OutOfMemoryError
from testbed.mechanisms.uploading.timeline import Timeline
from testbed.mechanisms.uploading.upload_frames import (
    Begin,
    Broken,
    End,
    Failed,
    LayerStart,
    Model,
    Ready,
    Start,
    Turn,
    ValueStart,
    Verdict,
    decode_up,
    encode,
)
from testbed.mechanisms.uploading.upload_sender import PrioritySender, Sink, StreamReader, Transfer, ValueSink
from testbed.node import task_frames
from testbed.node.devices import Choice
from testbed.node.edge_node import EdgeNode
from testbed.node.preload import split_model
from testbed.protocol import records
from testbed.protocol.configs import EdgeConfig, EdgeUe

#: Acknowledgements of values travel up behind a model chunk, and so do TCP's: the link down is kept busy meanwhile.
ACKNOWLEDGEMENT_SECONDS = 20e-3
#: Parameters of a node that came with another checksum so often are refused.
MOST_CORRUPT = 3


@dataclass(eq=False)
class LayerSink:
    """Parameters that come into the cache."""

    start: LayerStart
    key: Key
    arriving: Arriving

    def write(self, data: memoryview) -> None:
        self.arriving.write(data)

    @property
    def complete(self) -> bool:
        return self.arriving.complete


@dataclass(eq=False)
class _Peer:
    """A UE, and its task under way."""

    name: str
    model: EdgeModel
    sender: PrioritySender
    reader: StreamReader
    contents: dict[str, Contents] = field(default_factory=dict)  # of its model, by node
    keys: dict[str, Key] = field(default_factory=dict)
    misfit: str = "no model was announced"
    run: EdgeRun | None = None
    begun_seconds: float = 0.0
    values: set[str] = field(default_factory=set)  # of the run, that came
    needs: dict[str, Key] = field(default_factory=dict)  # of the run, that are not here
    corrupt: dict[str, int] = field(default_factory=dict)


class UploadService:
    """Used by the receiver."""

    def __init__(self, node: EdgeNode, uploading: Uploading, models: Mapping[str, EdgeModel]) -> None:
        """``models`` by UE."""
        self._node = node
        self.device = Choice(None, "parameters that UEs upload are bound on the CPU")
        self.weights: dict[str, str] = {}  # UEs say what their models consist of
        self._forgets = uploading.cache == "per_query"
        self._cache = LayerCache(uploading.memory_bytes, shared=not self._forgets)
        self._peers = {ue.name: self._peer(ue, models[ue.name]) for ue in node.config.ues}
        self.compute = RunsThread(tuple(self._peers), node.config.cpus, node.decisions, node.deadlines, self)

    def _peer(self, ue: EdgeUe, model: EdgeModel) -> _Peer:
        round_trip = ue.round_trip_seconds + ACKNOWLEDGEMENT_SECONDS
        sender = PrioritySender(round_trip, lambda frames: self._node.wires.send(ue.name, frames))
        peer = _Peer(ue.name, model, sender, StreamReader(lambda start: self._open_sink(peer, start)))
        return peer

    # ------------------------------------------------------------------------------------------------- from the threads

    def value(self, run: EdgeRun, start: ValueStart, buffers: list[memoryview]) -> None:
        """A value whose node has ended, for the UE."""

        def send() -> None:
            peer = self._peers[run.ue]
            if peer.run is run:
                now = time.monotonic()
                peer.sender.add_value(Transfer(run.task, "feature", start.name, buffers, now), start)

        self._node.inbox.post(send)

    def turn(self, run: EdgeRun, node: str) -> None:
        """The edge has come to a node without parameters."""
        self._node.inbox.post(lambda: self._tell(run.ue, Turn(run.task, node)))

    def failed(self, run: EdgeRun, reason: str) -> None:
        self._node.inbox.post(lambda: self._tell(run.ue, Failed(run.task, reason)))

    def send(self) -> None:
        for peer in self._peers.values():
            peer.sender.pump()

    def _tell(self, ue: str, frame: Ready | Verdict | Turn | Failed | Broken) -> None:
        self._node.send(ue, [encode(frame)])

    # -------------------------------------------------------------------------------------------------------- from UEs

    def take(self, ue: str, frames: Sequence[memoryview], now: float) -> None:
        """Raises MalformedFrame."""
        peer = self._peers[ue]
        try:
            self._understand(peer, frames, now)
        except MalformedFrame:  # its bytes will never be acknowledged
            self._tell(peer.name, Broken())
            raise

    def _understand(self, peer: _Peer, frames: Sequence[memoryview], now: float) -> None:
        if not frames:
            raise MalformedFrame("an empty message")
        message = decode_up(frames[0])
        match message:
            case task_frames.Chunk():
                ack, done = peer.reader.feed(message, frames[1:], now)
                self._node.send(peer.name, [task_frames.encode(ack)])
                if isinstance(done, ValueSink):
                    self._value_came(peer, done, now)
                elif isinstance(done, LayerSink):
                    self._layer_came(peer, done, now)
            case task_frames.Ack():
                peer.sender.acknowledged(message)
            case Model():
                self._connected(peer, message)
            case Begin():
                self._begin(peer, message, now)
            case End():
                if peer.run is not None and peer.run.task == message.task:
                    self._end(peer)

    def _connected(self, peer: _Peer, model: Model) -> None:
        """A connection begins: nothing of the last one comes any more."""
        peer.sender.reset()
        peer.reader.forget()
        weights = peer.model.split.weights
        strange = [layer.node for layer in model.layers if not weights.fits(layer.node, layer.contents)]
        if strange or len(model.layers) != len(weights.layers):
            peer.misfit = f"the model of {peer.name} is another than the edge's: {', '.join(strange[:3])}"
            self._node.control.event("misfit", peer.misfit)
            return
        peer.misfit = ""
        peer.contents = {layer.node: layer.contents for layer in model.layers}
        peer.keys = {node: self._cache.key(peer.name, contents) for node, contents in peer.contents.items()}

    def _begin(self, peer: _Peer, begin: Begin, now: float) -> None:
        if peer.misfit:
            self._tell(peer.name, Failed(begin.task, f"edge: {peer.misfit}"))
            return
        if not peer.keys or not set(begin.edge_nodes) <= set(peer.model.flow.order):
            raise MalformedFrame(f"task {begin.task} of nodes that {peer.name} has not announced")
        nodes = frozenset(begin.edge_nodes)
        run = peer.run
        fresh = run is None or run.task != begin.task
        if run is not None and not fresh:
            self.compute.resume(run, nodes, begin.have)
        else:
            self._end(peer)
            run = EdgeRun(peer.name, begin.task, peer.model, nodes, begin.serial, Timeline(now))
            peer.run, peer.begun_seconds = run, now
            peer.values.clear()
            peer.corrupt.clear()
            self.compute.begin(run)
        wanted = {node: peer.keys[node] for node in peer.model.layers(begin.edge_nodes)}
        self._cache.pin(peer.name, wanted.values())
        peer.needs = {}
        for node, key in wanted.items():
            layer = self._cache.held(key)
            if layer is None:
                peer.needs[node] = key
            else:
                self.compute.layer(run, node, layer, -1.0)
        came = {node: self._cache.coming(peer.name, key) for node, key in peer.needs.items()}
        partial = tuple((node, one.received) for node, one in came.items() if one is not None and one.received)
        held = tuple(node for node in wanted if node not in peer.needs)
        self._tell(peer.name, Ready(begin.task, fresh, tuple(peer.values), held, partial))

    def _end(self, peer: _Peer) -> None:
        """A UE's task is over. What it sends of it from now on is not kept."""
        run, peer.run = peer.run, None
        peer.sender.clear()
        peer.reader.forget()
        peer.needs = {}
        self._cache.unpin(peer.name)
        if self._forgets:
            self._cache.forget(peer.name)
        if run is not None:
            self.compute.end(run)

    # --------------------------------------------------------------------------------------------------------- streams

    def _open_sink(self, peer: _Peer, start: Start) -> Sink | None:
        run = peer.run
        if run is None or start.task != run.task:
            return None
        if isinstance(start, ValueStart):
            if start.name not in peer.model.shapes:
                raise MalformedFrame(f"no node is called {start.name!r}")
            return None if start.name in peer.values else ValueSink(start, peer.model.shapes[start.name])
        key = peer.keys.get(start.node)
        if key is None:
            raise MalformedFrame(f"no parameters of {start.node!r} were announced")
        return self._open_layer(peer, run, start, key)

    def _open_layer(self, peer: _Peer, run: EdgeRun, start: LayerStart, key: Key) -> Sink | None:
        if key in self._cache:
            self._held(peer, start.node, "shared", time.monotonic())
            return None
        if start.start == 0:
            try:
                return LayerSink(start, key, self._cache.open(peer.name, key, peer.contents[start.node]))
            except OutOfMemoryError as error:
                self._refuse_layer(peer, run, start.node, str(error))
                return None
        arriving = self._cache.coming(peer.name, key)
        if arriving is None or arriving.received != start.start:
            reason = f"they go on at {start.start}, and {0 if arriving is None else arriving.received} bytes are here"
            self._tell(peer.name, Verdict(run.task, start.node, "lost", time.monotonic(), reason))
            return None
        return LayerSink(start, key, arriving)

    def _value_came(self, peer: _Peer, sink: ValueSink, now: float) -> None:
        run, name = peer.run, sink.start.name
        if run is not None and sink.start.task == run.task:
            peer.values.add(name)
            self.compute.value(run, name, sink.value(), now)

    def _layer_came(self, peer: _Peer, sink: LayerSink, now: float) -> None:
        run, node = peer.run, sink.start.node
        if run is None:
            return
        if self._cache.coming(peer.name, sink.key) is not sink.arriving:
            if sink.key not in self._cache:
                self._tell(peer.name, Verdict(run.task, node, "lost", now, "they were evicted while they came"))
            return
        if not sink.arriving.sound:
            self._cache.drop(peer.name, sink.key)
            self._corrupt(peer, run, node, now)
            return
        self._cache.take(peer.name, sink.key)
        self._held(peer, node, "held", now)
        for other in self._peers.values():
            for same in [one for one, key in other.needs.items() if key == sink.key]:
                self._held(other, same, "shared", now)

    def _held(self, peer: _Peer, node: str, status: str, now: float) -> None:
        """Parameters that a task needs are here."""
        run, key = peer.run, peer.needs.pop(node, None)
        if run is None or key is None:
            return
        layer = self._cache.held(key)
        assert layer is not None
        self.compute.layer(run, node, layer, now)
        self._tell(peer.name, Verdict(run.task, node, status, now))

    def _corrupt(self, peer: _Peer, run: EdgeRun, node: str, now: float) -> None:
        times = peer.corrupt[node] = peer.corrupt.get(node, 0) + 1
        self._node.control.event(
            "layer-corrupt", f"{peer.name} task {run.task}: parameters of {node} have another checksum"
        )
        if times >= MOST_CORRUPT:
            self._refuse_layer(peer, run, node, f"the checksum was another {times} times")
        else:
            self._tell(peer.name, Verdict(run.task, node, "corrupt", now, "the checksum is another"))

    def _refuse_layer(self, peer: _Peer, run: EdgeRun, node: str, reason: str) -> None:
        """The UE computes all nodes that need these parameters."""
        moved = [name for name, owners in peer.model.layers_of.items() if node in owners]
        self.compute.move(run, moved)
        peer.needs.pop(node, None)
        self._node.control.event("layer-refused", f"{peer.name} task {run.task}: {node}: {reason}")
        self._tell(peer.name, Verdict(run.task, node, "refused", time.monotonic(), reason))

    # --------------------------------------------------------------------------------------------------------- control

    def decided(self, apply: protocol.Apply) -> None:
        for ue, rate in apply.rates_down_bits_per_second.items():
            if ue in self._peers and rate > 0:
                self._peers[ue].sender.credit.rate.command(rate)

    def slot_ended(self, now: float) -> None:
        for peer in self._peers.values():  # a UE that died says no End
            if peer.run is not None and now - peer.begun_seconds > self._node.config.task_timeout_seconds:
                self._end(peer)

    def cached_nodes(self, ue: str) -> tuple[str, ...]:
        return tuple(node for node, key in self._peers[ue].keys.items() if key in self._cache)

    def health(self, now: float, lateness_p99_seconds: float, unreadable: int) -> records.EdgeHealth:
        cache = self._cache
        return records.EdgeHealth(
            now,
            lateness_p99_seconds,
            unreadable,
            cache_bytes=cache.bytes,
            cache_limit_bytes=cache.limit_bytes,
            cache_evictions=cache.evictions,
            cache_refusals=cache.refusals,
        )


def load_models(config: EdgeConfig) -> dict[str, EdgeModel]:
    """By UE, their parameters forgotten."""
    read = functools.cache(lambda path: read_profile(Path(path)))
    return edge_models(
        {
            ue.name: (split_model(ue.model, config.seed, config.lab_folder, ue.weights), read(ue.profile_path))
            for ue in config.ues
        }
    )

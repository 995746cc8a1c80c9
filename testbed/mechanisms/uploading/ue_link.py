"""The data socket of a UE whose edge starts without the model: one task's parameters and values, over reconnects too.

Parameters of what the edge lacks go up in the order of the decision, or when the edge has come to their node (serial);
values go before them. A connection that broke is taken up where the edge says that it stopped.
"""

from __future__ import annotations

import math
import time
from collections import deque

from controller.contract import Uploading
from testbed.mechanisms.uploading import upload_books
from testbed.mechanisms.uploading.upload_frames import (
    Begin,
    Broken,
    End,
    Failed,
    Ready,
    Start,
    Turn,
    ValueStart,
    Verdict,
    decode_down,
    encode,
)
from testbed.mechanisms.uploading.upload_layers import Layers
from testbed.mechanisms.uploading.upload_run import Arrival, Crossing, Run
from testbed.mechanisms.uploading.upload_sender import PrioritySender, Sink, StreamReader, Transfer, ValueSink
from testbed.node import task_frames
from testbed.node.data_link import DataLink
from testbed.node.transport import CreditSender
from testbed.node.ue_node import UeNode


class UploadLink(DataLink):
    """Used by the I/O thread only."""

    def __init__(self, node: UeNode, uploading: Uploading) -> None:
        config, split = node.config, node.backend.split
        super().__init__(node.context, config.node, config.edge_endpoint, config.round_trip_seconds)
        self._node = node
        #: the edge has nothing when a task begins, so nobody waits to be told so
        self._cold = uploading.cache == "per_query"
        self._shapes = {one.name: one.output_shape for one in split.graph.nodes}
        self._layers = Layers(split)
        self._sender = PrioritySender(config.round_trip_seconds, self._try_send, node.silences.seconds)
        self._reader = StreamReader(self._open_sink)
        self._control: deque[bytes] = deque()  # single frames that wait for the socket
        self.run: Run | None = None
        self._ready = False  # the edge has said what it has of the run
        self._models: dict[str, Transfer] = {}  # parameters that the edge lacks, by node
        self._due: deque[str] = deque()  # serial: nodes whose turn has come while an input was not released
        self.values: dict[str, Transfer] = {}
        self._void_bytes = 0  # layer 2, of what the run sent in vain
        self.result_wire_bytes = 0
        self.uploaded_bytes = 0
        self.resumed = self.refused = self.corrupt = 0
        self._busy_before_seconds = 0.0  # the run

    # ------------------------------------------------------------------------------------------------------ the books

    @property
    def sender(self) -> CreditSender:
        return self._sender.credit

    @property
    def preemptions(self) -> int:
        return self._sender.preemptions

    @property
    def waiting_tasks(self) -> int:
        return int(self.backlog_bytes > 0)

    @property
    def backlog_bytes(self) -> int:
        pending = [one for one in (*self._models.values(), *self.values.values()) if math.isnan(one.received_seconds)]
        return sum(one.total_bytes - one.acknowledged_bytes for one in pending)

    @property
    def upload_progress_ratio(self) -> float:
        """Of the parameters that the run's edge lacked: what has come there. 1 with nothing to send."""
        total = sum(one.total_bytes for one in self._models.values())
        return sum(one.acknowledged_bytes for one in self._models.values()) / total if total else 1.0

    @property
    def run_wire_bytes(self) -> int:
        """Layer 2, up, of the run."""
        return self._void_bytes + sum(one.wire_bytes for one in (*self._models.values(), *self.values.values()))

    # ----------------------------------------------------------------------------------------------------------- a run

    def begin(self, run: Run) -> None:
        self._node.books.announce(run.task.arrival_seconds)
        self._busy_before_seconds = self._sender.busy_seconds
        self.run, self._ready = run, False
        self._models, self.values = {}, {}
        self._due.clear()
        self._reader.forget()
        self.result_wire_bytes = self._void_bytes = 0
        if run.on_edge and self._connected:
            self._send_begin(run)
            if self._cold:
                self._plan(run, Ready(run.task.number, True, (), (), ()))

    def release(self, run: Run, crossing: Crossing) -> None:
        """A value of the device's that the edge needs."""
        if run is not self.run or run.over:
            return
        transfer = Transfer(
            run.task.number,
            "feature",
            crossing.name,
            crossing.buffers,
            time.monotonic(),
            header=crossing.header,
            released_seconds=crossing.released_seconds,
        )
        self.values[crossing.name] = transfer
        if self._ready:
            self._send_value(transfer)
            self._send_due(run)

    def conclude(self, run: Run) -> None:
        """The run's answer is there, or it was given up: nothing of it is sent any more."""
        if run is not self.run:
            return
        for transfer in (*self._models.values(), *self.values.values()):
            if not transfer.status:
                self._sender.drop(transfer)
                if not math.isnan(transfer.first_sent_seconds):
                    self._record(transfer, "given-up", run.failure or "the task was over before")
        if run.on_edge and self._connected:
            self._control.append(encode(End(run.task.number)))
        self.run = None
        busy_seconds = self._sender.busy_seconds - self._busy_before_seconds
        run.task.transmit_joules = run.task.transmit_watts * busy_seconds
        upload_books.settle(self._node, run, self.values, self.run_wire_bytes, self.result_wire_bytes)
        run.finish(run.failure)

    def _give_up(self, run: Run, reason: str) -> None:
        run.failure = reason
        self.conclude(run)

    def _send_begin(self, run: Run) -> None:
        nodes = tuple(name for name in run.flow.order if name in run.on_edge)
        self._control.append(encode(Begin(run.task.number, nodes, run.serial, run.edge_has())))

    def _send_value(self, transfer: Transfer) -> None:
        start = ValueStart(transfer.task, transfer.name, transfer.header, transfer.released_seconds)
        self._sender.add_value(transfer, start)

    def _send_model(self, node: str, skip: int = 0, *, first: bool = False) -> None:
        transfer = self._models[node]
        if transfer.under_way or not math.isnan(transfer.received_seconds):
            return
        self._sender.add_model(transfer, skip, first=first)

    def _again(self, transfer: Transfer) -> Transfer:
        """What was sent, and recorded, in vain."""
        self._void_bytes += transfer.wire_bytes
        return Transfer(
            transfer.task,
            transfer.kind,
            transfer.name,
            transfer.buffers,
            time.monotonic(),
            header=transfer.header,
            released_seconds=transfer.released_seconds,
        )

    def _models_to(self, run: Run) -> tuple[str, ...]:
        """Nodes whose parameters the run needs at the edge, in the order in which they go up."""
        rest = (name for name in run.flow.order if name in run.on_edge)
        return self._layers.of((*(name for name in run.uploads if name in run.on_edge), *rest))

    # ---------------------------------------------------------------------------------------------------- the I/O loop

    def send(self) -> None:
        self.blocked = False
        while self._control:
            if not self._try_send([self._control[0]]):
                self.blocked = True
                return
            self._control.popleft()
        self._sender.pump()
        self.blocked = self._sender.blocked

    def _began(self) -> None:
        self._reader.forget()
        self._control.append(encode(self._layers.manifest()))
        if self.run is not None and self.run.on_edge:
            self._send_begin(self.run)

    def expire(self, arrived_before_seconds: float, reason: str) -> None:
        run = self.run
        if run is not None and not run.over and run.task.arrival_seconds < arrived_before_seconds:
            missing = [node for node, one in self._models.items() if math.isnan(one.received_seconds)]
            state = f"parameters of {len(missing)} nodes had not come to the edge" if missing else ""
            if run.on_edge and not self._connected:
                state = "the edge is not connected"
            self._give_up(run, "; ".join(filter(None, (reason, state))))

    def _broke(self) -> None:
        self._control.clear()
        self._break()

    def _break(self) -> None:
        """What was queued is queued again once the edge has said what it has."""
        for transfer in (*self._models.values(), *self.values.values()):
            if transfer.under_way and not math.isnan(transfer.first_sent_seconds):
                transfer.resumed += 1
                self.resumed += 1
        self._sender.reset()
        self._ready = False

    # -------------------------------------------------------------------------------------------------- from the edge

    def _take(self, frames: list[bytes]) -> None:
        message = decode_down(frames[0])
        if isinstance(message, task_frames.Ack):
            self._acknowledged(message)
        elif isinstance(message, task_frames.Chunk):
            self._chunk(message, frames)
        elif isinstance(message, Broken):
            self._break()
            self._began()
        elif self.run is None or message.task != self.run.task.number:
            if isinstance(message, Failed):
                self.late_results += 1
        elif isinstance(message, Ready):
            if not self._ready:
                self._plan(self.run, message)
        elif isinstance(message, Turn):
            self._due.extend(node for node in self._layers.of([message.node]) if node in self._models)
            self._send_due(self.run)
        elif isinstance(message, Verdict):
            self._judged(self.run, message)
        else:
            self._give_up(self.run, message.reason)

    def _plan(self, run: Run, ready: Ready) -> None:
        """Send what the edge lacks of a run that begins or goes on."""
        if ready.fresh:  # maybe another edge than the one that began it
            run.edge_segments.clear()
        partial = dict(ready.partial)
        now = time.monotonic()
        for node in self._models_to(run):
            if node in ready.layers:
                known = self._models.get(node)
                if known is not None and not known.status:  # word of it was lost with the connection
                    known.received_seconds = now if math.isnan(known.received_seconds) else known.received_seconds
                    known.acknowledged_bytes = known.total_bytes
                    self._record(known, "held")
                continue
            transfer = self._models.get(node)
            if transfer is None:
                transfer = Transfer(run.task.number, "parameters", node, self._layers.blocks[node][1], now)
            elif transfer.status:
                transfer = self._again(transfer)
            self._models[node] = transfer
            transfer.received_seconds = math.nan
            transfer.acknowledged_bytes = partial.get(node, 0)
            if not run.serial:
                self._send_model(node, transfer.acknowledged_bytes)
        for name, value in list(self.values.items()):
            if name not in ready.values:
                self.values[name] = self._again(value) if value.status else value
                self._send_value(self.values[name])
            elif not value.status:
                value.received_seconds = now
                self._record(value, "received")
        self._ready = True
        self._send_due(run)

    def _send_due(self, run: Run) -> None:
        """Parameters of the node whose turn has come, behind the values that it reads."""
        while self._due and self._ready:
            node = self._due[0]
            reads = [name for name in run.flow.inputs[node] if name not in run.on_edge]
            if node in run.on_edge and any(name not in self.values for name in reads):
                return
            self._due.popleft()
            if not math.isnan(self._models[node].received_seconds):
                continue
            if run.serial:
                self._models[node].queued_seconds = time.monotonic()
            self._send_model(node, self._models[node].acknowledged_bytes, first=not run.serial)

    def _judged(self, run: Run, verdict: Verdict) -> None:
        transfer = self._models.get(verdict.node)
        if transfer is None or transfer.status:
            return
        if verdict.status != "held":
            self._sender.drop(transfer)
        if verdict.status in ("held", "shared"):
            transfer.received_seconds = verdict.seconds
            transfer.acknowledged_bytes = transfer.total_bytes
            self._record(transfer, verdict.status, verdict.reason)
            return
        self._record(transfer, verdict.status, verdict.reason, checksum_ok=verdict.status != "corrupt")
        if verdict.status == "refused":
            self.refused += 1
            transfer.received_seconds = verdict.seconds  # nothing more is due
            for node in [one for one in run.on_edge if verdict.node in self._layers.of([one])]:
                run.moves(node)
            return
        self.corrupt += verdict.status == "corrupt"
        self._models[verdict.node] = self._again(transfer)
        self._send_model(verdict.node, first=True)

    def _acknowledged(self, ack: task_frames.Ack) -> None:
        transfer = self._sender.acknowledged(ack)
        if transfer is None:
            return
        self.uploaded_bytes += transfer.total_bytes
        if transfer.kind == "feature":
            self._record(transfer, "received")

    def _chunk(self, chunk: task_frames.Chunk, frames: list[bytes]) -> None:
        now = time.monotonic()
        self.result_wire_bytes += task_frames.message_layer2_bytes(frames)
        ack, done = self._reader.feed(chunk, [memoryview(frame) for frame in frames[1:]], now)
        self._control.append(task_frames.encode(ack))
        run = self.run
        if isinstance(done, ValueSink) and run is not None and done.start.task == run.task.number:
            start = done.start
            run.deliver(Arrival(start.name, start.released_seconds, now), done.value(), start.segments)
            if start.name == run.flow.answer:
                self.conclude(run)

    def _open_sink(self, start: Start) -> Sink | None:
        run = self.run
        if not isinstance(start, ValueStart) or run is None or start.task != run.task.number:
            self.late_results += 1
            return None
        if start.name not in self._shapes or start.name in run.arrivals:
            return None
        return ValueSink(start, self._shapes[start.name])

    def _record(self, transfer: Transfer, status: str, reason: str = "", *, checksum_ok: bool = True) -> None:
        transfer.status = status
        version = self._layers.version
        ue = self._node.config.node
        self._node.control.record(
            upload_books.upload_record(transfer, ue, version, status, reason, checksum_ok=checksum_ok)
        )

"""What an edge that has the models does with what UEs send: it puts tasks together, has tails computed, and answers."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping, Sequence

from controller.contract import ALL_ON_DEVICE, Cut, cut_from_label
from controller.service import protocol
from testbed.inference.tensors import FrameHeader
from testbed.node import task_frames
from testbed.node.backend import CpuBackend
from testbed.node.devices import Choice
from testbed.node.edge_node import EdgeNode
from testbed.node.transport import Assembler, ReceivedTask, RefusedTaskError
from testbed.programs.edge.edge_backends import usage_of
from testbed.programs.edge.edge_compute import NO_LOGITS, ComputeThread
from testbed.protocol import records

_MOST_STRANGE_CUTS = 64  # of several tensors, and not decided: a decision may reach the UE before it reaches the edge


class TailService:
    """Used by the receiver."""

    def __init__(self, node: EdgeNode, backends: Mapping[str, CpuBackend], device: Choice) -> None:
        self._node, self._backends, self.device = node, backends, device
        self.compute = ComputeThread(backends, node.config.cpus, node.decisions, node.deadlines, self._answer)
        self._assemblers = {ue: Assembler(functools.partial(self._check, ue)) for ue in backends}
        self._decided_cuts: dict[str, set[Cut]] = {ue: set() for ue in backends}
        self._strange_cuts: dict[str, set[Cut]] = {ue: set() for ue in backends}
        self._refused = 0

    @property
    def weights(self) -> dict[str, str]:
        return {ue: backend.split.model.weights_digest for ue, backend in self._backends.items()}

    def take(self, ue: str, frames: Sequence[memoryview], now: float) -> None:
        """Raises MalformedFrame."""
        ack, task = self._assemblers[ue].feed(frames, now)
        self._node.send(ue, [task_frames.encode(ack)])
        if task is None:
            return
        if task.refusal:
            self._refuse(ue, task)
        else:
            self.compute.add(ue, task)

    def send(self) -> None:
        """Answers are sent as they come."""

    def decided(self, apply: protocol.Apply) -> None:
        for own in apply.decision.ues:
            if len(own.cut) > 1 and own.name in self._decided_cuts:
                self._decided_cuts[own.name].add(own.cut)

    def slot_ended(self, now: float) -> None:
        """Tails that come too late are dropped when it is their turn."""

    def cached_nodes(self, ue: str) -> tuple[str, ...]:
        """None were sent by the UE."""
        return ()

    def health(self, now: float, lateness_p99_seconds: float, unreadable: int) -> records.EdgeHealth:
        usage = usage_of(self._backends)
        return records.EdgeHealth(
            now,
            lateness_p99_seconds,
            unreadable,
            dropped_tasks=self.compute.dropped,
            refused_tasks=self._refused,
            device_tails=usage.tails,
            device_tail_seconds=usage.tail_seconds,
            device_upload_seconds=usage.upload_seconds,
            device_download_seconds=usage.download_seconds,
            device_uploaded_bytes=usage.uploaded_bytes,
            device_downloaded_bytes=usage.downloaded_bytes,
        )

    def _check(self, ue: str, header: FrameHeader) -> None:
        """Raises RefusedTaskError for a task of which this edge has no tail, before its bytes come."""
        backend = self._backends[ue]
        cut = cut_from_label(header.cut)
        try:
            if cut == ALL_ON_DEVICE:
                raise ValueError("a local task has no tail")
            self._check_known(ue, cut)
            backend.check(cut)
            backend.check_tensors(cut, header.tensors)
            backend.check_codec(cut, header)
        except ValueError as error:
            raise RefusedTaskError(f"edge: {error}"[:500]) from error
        if header.model_version not in backend.split.weights:
            raise RefusedTaskError(f"edge: model version {header.model_version} is not here any more")
        if self.compute.full(ue, header.payload_bytes):
            waiting, _ = self.compute.state(ue, time.monotonic())
            raise RefusedTaskError(f"edge: its queue is full: {waiting} tasks of {ue} wait")

    def _check_known(self, ue: str, cut: Cut) -> None:
        """Each cut that is tried takes milliseconds and memory. Raises ValueError."""
        if len(cut) == 1 or cut in self._decided_cuts[ue]:
            return
        strange = self._strange_cuts[ue]
        if cut not in strange and len(strange) >= _MOST_STRANGE_CUTS:
            raise ValueError("a cut that was never decided")
        strange.add(cut)

    def _refuse(self, ue: str, task: ReceivedTask) -> None:
        self._refused += 1
        nowhere = math.nan
        result = task_frames.Result(task.task, task.received_seconds, nowhere, nowhere, nowhere, 0.0, 0.0, task.refusal)
        self._node.send(ue, [task_frames.encode(result)])

    def _answer(self, ue: str, result: task_frames.Result, logits: memoryview) -> None:
        """From the computing threads."""
        stamp = time.monotonic()

        def send() -> None:
            self._node.lateness.add(max(time.monotonic() - stamp, 0.0))
            frames: list[bytes | memoryview] = [task_frames.encode(result)]
            if logits is not NO_LOGITS:
                frames.append(logits)
            self._node.send(ue, frames)

        self._node.inbox.post(send)

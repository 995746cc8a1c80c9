"""The device of a UE whose edge starts without the model: its nodes of one task after the other, paced node by node.

A UE runs one inference at a time: the next one starts when the answer of the last is there. Within a task the device
works through its nodes in the graph's order and waits for what the edge makes.
"""

from __future__ import annotations

import math
import time
from collections import deque

import torch

from controller.contract import Codec, UeDecision
from controller.model.cut_times import NodeWork
from controller.model.uploading import edge_nodes, uploads_of
from controller.service import protocol
from testbed.inference import tensors
from testbed.inference.graph import INPUT
from testbed.mechanisms.uploading.timeline import Awaited, Timeline
from testbed.mechanisms.uploading.upload_run import Crossing, Flow, Run
from testbed.node.backend import CpuBackend
from testbed.node.control import DecisionBox
from testbed.node.last_words import reason_of
from testbed.node.ledger import Task
from testbed.node.pacing import DeadlineThread
from testbed.node.sight import Sight
from testbed.node.threads import Wakeup
from testbed.programs.ue.ue_stage import StageThread
from testbed.protocol.configs import UeConfig

_NOTHING = Awaited()
#: A node is computed so long before its books begin with it: a slow device's nodes do not take a core from others all
#: at once.
AHEAD_SECONDS = 5e-3


class UploadStage(StageThread):
    """The thread that computes. Runs go to :attr:`runs` when they start; what the edge needs of them to
    :attr:`released`; a run is at its end when :meth:`Run.finish` was called, from the I/O thread."""

    def __init__(
        self,
        config: UeConfig,
        backend: CpuBackend,
        decisions: DecisionBox,
        deadlines: DeadlineThread,
        wake_io: Wakeup,
        sight: Sight,
    ) -> None:
        super().__init__(config, backend, decisions, deadlines, wake_io, sight)
        profile = backend.profile
        self.flow = Flow(profile.nodes)
        seconds = NodeWork.of(profile, config.input_codec, config.boundary_codec).device_seconds
        self._node_seconds = {node.name: float(cost) for node, cost in zip(profile.nodes, seconds, strict=True)}
        self.runs: deque[Run] = deque()
        self.released: deque[tuple[Run, Crossing]] = deque()
        self._news = Wakeup()  # something came from the edge

    def _interrupt(self) -> None:
        super()._interrupt()
        self._news.set()

    def _serve(self, task: Task, apply: protocol.Apply, own: UeDecision) -> float:
        """Run one task to its end. Returns when that was."""
        config = self._config
        task.cut, task.decision_sequence = own.cut, apply.decision.sequence
        task.codec = config.boundary_codec
        task.speed = own.device_speed
        task.transmit_watts = config.transmit_watts if own.transmit_watts is None else own.transmit_watts
        profile = self._backend.profile
        run = Run(
            task,
            own,
            self.flow,
            edge_nodes(profile, own),
            uploads_of(profile, own),
            self._news.set,
            Timeline(task.head_start_seconds),
        )
        run.values[INPUT] = self._images[task.number % len(self._images)]
        self.runs.append(run)
        self._wake_io.set()
        try:
            self._cross(run, INPUT, task.head_start_seconds)
            while not (run.over or self._stopping):
                if not self._advance(run):
                    self._news.wait()
        except Exception as error:  # noqa: BLE001 - a model may raise anything: its task fails, the device goes on
            self._end(run, reason_of(f"device: {run.next_node()}", error))
        return time.monotonic() if math.isnan(run.end_seconds) else run.end_seconds

    def _advance(self, run: Run) -> bool:
        """Compute the device's next node, or wait until its time comes; False if what it reads is not there."""
        name = run.next_node()
        if name is None:
            return False
        value = run.awaited(name)
        if value is None:
            return False
        speed = run.own.device_speed
        if (early := run.timeline.start_of(value, _NOTHING) - AHEAD_SECONDS - time.monotonic()) > 0:
            self._news.wait(early)
            return True
        began = time.monotonic()
        run.values[name] = self._backend.split.run_node(name, run.values)
        is_answer = name == self.flow.answer
        crosses = is_answer or self.flow.goes_up(name, run.on_edge)
        computed = time.monotonic()
        end = run.timeline.ran(
            name,
            self._node_seconds[name] / speed,
            value,
            _NOTHING,
            computed - began,
            speed,
            crosses_seconds=computed if crosses else None,
        )
        run.done.add(name)
        if is_answer:
            self._deadlines.submit(end, lambda now: self._answered(run, now))
        elif crosses:
            self._cross(run, name, end)
        return True

    def _cross(self, run: Run, name: str, end_seconds: float) -> None:
        """Encode a value that the edge needs, and hand it over when its node has ended."""
        if not self.flow.goes_up(name, run.on_edge):
            return
        codec: Codec = self._config.input_codec if name == INPUT else self._config.boundary_codec
        with torch.inference_mode():
            header, buffers = tensors.pack(run.task.number, (name,), [run.values[name]], codec)
        self._deadlines.submit(end_seconds, lambda now: self._hand_to_io(run, Crossing(name, header, buffers, now)))

    def _hand_to_io(self, run: Run, crossing: Crossing) -> None:
        self.released.append((run, crossing))
        self._wake_io.set()

    def _answered(self, run: Run, now_seconds: float) -> None:
        run.end_seconds = now_seconds
        self._wake_io.set()

    def _end(self, run: Run, failure: str) -> None:
        run.finish(failure)
        self._wake_io.set()

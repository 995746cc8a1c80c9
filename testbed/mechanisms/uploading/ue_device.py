"""The device of a UE whose edge starts without the model: its nodes of one task after the other, paced node by node.

A UE runs one inference at a time: the next one starts when the answer of the last is there. Within a task the device
works through its nodes in the graph's order and waits for what the edge makes.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from controller.contract import Codec, UeDecision
from controller.model.cut_times import NodeWork
from controller.model.uploading import edge_nodes, uploads_of
from controller.service import protocol
from testbed.inference import tensors
from testbed.inference.graph import INPUT
from testbed.mechanisms.uploading.timeline import Awaited, Timeline
from testbed.mechanisms.uploading.ue_link import UploadLink
from testbed.mechanisms.uploading.upload_run import Crossing, Flow, Run
from testbed.node.last_words import reason_of
from testbed.node.ledger import Task
from testbed.node.threads import Wakeup
from testbed.node.ue_node import UeNode, UePart

_NOTHING = Awaited()
#: A node is computed so long before its books begin with it: a slow device's nodes do not take a core from others all
#: at once.
AHEAD_SECONDS = 5e-3


class UploadDevice:
    """Computes in the stage thread. What it makes goes to the link in the I/O thread, which ends a run by
    :meth:`Run.finish`."""

    def __init__(self, node: UeNode, link: UploadLink) -> None:
        """Builds all nodes and runs them once."""
        self._config, self._backend = node.config, node.backend
        self._deadlines, self._post, self._link = node.deadlines, node.inbox.post, link
        profile, split = node.backend.profile, node.backend.split
        self._flow = Flow(profile.nodes)
        seconds = NodeWork.of(profile, node.config.input_codec, node.config.boundary_codec).device_seconds
        self._node_seconds = {one.name: float(cost) for one, cost in zip(profile.nodes, seconds, strict=True)}
        self._news = Wakeup()  # something came from the edge
        self._stopping = False
        values = {INPUT: split.model.probe}
        for one in split.graph.nodes[1:]:
            values[one.name] = split.run_node(one.name, values)

    def check(self, own: UeDecision) -> None:
        """Raises ValueError for a decision that it cannot carry out."""
        if own.stop_rule:
            raise ValueError("an edge that starts without the model has none for a stop_rule")
        names = self._flow.order
        there = edge_nodes(self._backend.profile, own)
        if not there <= set(names):
            raise ValueError(f"{', '.join(sorted(there - set(names)))}: no nodes of the model")
        if len(there) < len(names) and not 0 < own.device_speed < math.inf:
            raise ValueError(f"nodes on a device of speed {own.device_speed}")

    def interrupt(self) -> None:
        self._stopping = True
        self._news.set()

    def serve(self, task: Task, own: UeDecision, image: Tensor) -> float:
        """Run one task to its end. Returns when that was."""
        task.cut, task.codec = own.cut, self._config.boundary_codec
        profile = self._backend.profile
        run = Run(
            task,
            own,
            self._flow,
            edge_nodes(profile, own),
            uploads_of(profile, own),
            self._news.set,
            Timeline(task.head_start_seconds),
        )
        run.values[INPUT] = image
        self._post(lambda: self._link.begin(run))
        try:
            self._cross(run, INPUT, task.head_start_seconds)
            while not (run.over or self._stopping):
                if not self._advance(run):
                    self._news.wait()
        except Exception as error:  # noqa: BLE001 - a model may raise anything: its task fails, the device goes on
            run.finish(reason_of(f"device: {run.next_node()}", error))
            self._post(lambda: self._link.conclude(run))
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
        is_answer = name == self._flow.answer
        crosses = is_answer or self._flow.goes_up(name, run.on_edge)
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
        if not self._flow.goes_up(name, run.on_edge):
            return
        codec: Codec = self._config.input_codec if name == INPUT else self._config.boundary_codec
        with torch.inference_mode():
            header, buffers = tensors.pack(run.task.number, (name,), [run.values[name]], codec)
        self._deadlines.submit(end_seconds, lambda now: self._release(run, Crossing(name, header, buffers, now)))

    def _release(self, run: Run, crossing: Crossing) -> None:
        self._post(lambda: self._link.release(run, crossing))

    def _answered(self, run: Run, now_seconds: float) -> None:
        run.end_seconds = now_seconds
        self._post(lambda: self._link.conclude(run))


class Uploads(UePart):
    """What the link has to say."""

    name = "uploading"

    def __init__(self, link: UploadLink) -> None:
        self._link = link

    def report(self) -> protocol.UploadingReport:
        link = self._link
        return protocol.UploadingReport(
            upload_progress_ratio=link.upload_progress_ratio,
            uploaded_bytes=link.uploaded_bytes,
            preemptions=link.preemptions,
            resumed_uploads=link.resumed,
            refused_layers=link.refused,
            corrupt_layers=link.corrupt,
        )

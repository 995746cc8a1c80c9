"""The UE's device where the edge has the models: one head at a time, really computed and ended at its target time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from torch import Tensor

from controller.contract import ALL_ON_EDGE, Codec, UeDecision
from testbed.node.backend import CpuBackend
from testbed.node.last_words import reason_of
from testbed.node.ledger import Task
from testbed.node.pacing import DeadlineThread
from testbed.node.threads import Wakeup
from testbed.node.times import StageTimes
from testbed.node.ue_node import Stopped, UePart, compute_watts
from testbed.protocol.configs import UeConfig


class HeadDevice:
    """Computes heads. ``ended(task)`` is called from the stage or the deadline thread: the task's boundary tensors, or
    its answer, are in it."""

    def __init__(
        self,
        config: UeConfig,
        backend: CpuBackend,
        deadlines: DeadlineThread,
        ended: Callable[[Task], None],
        parts: Sequence[UePart] = (),
    ) -> None:
        self._config = config
        self._backend = backend
        self._times = StageTimes(backend.profile)
        self._deadlines = deadlines
        self._ended = ended
        self._parts = parts
        self._released = Wakeup()

    def check(self, own: UeDecision) -> None:
        """Raises ValueError for a head without speed."""
        computes = own.cut != ALL_ON_EDGE or own.stop_rule or self._backend.profile.head_seconds[0] > 0  # it resizes
        if computes and not 0 < own.device_speed < math.inf:
            raise ValueError(f"cut {own.cut} at device speed {own.device_speed}")

    def interrupt(self) -> None:
        self._released.set()

    def serve(self, task: Task, own: UeDecision, image: Tensor) -> float:
        """Compute one head and wait for its target. Returns when the device is free again."""
        config = self._config
        for part in self._parts:
            own = part.fit(task, own)
        heads = (part.head(task, own, image, self._wait_until) for part in self._parts)
        stopped = next((found for found in heads if found is not None), Stopped(own.cut))
        cut = stopped.cut
        codec: Codec = config.input_codec if cut == ALL_ON_EDGE else (own.codec or config.boundary_codec)
        task.cut, task.codec = cut, codec
        reference = self._times.head_seconds(cut, codec)
        if reference > 0:
            task.head_target_seconds = reference / own.device_speed
        began = time.monotonic()
        if stopped.values:
            task.header, task.buffers = self._backend.pack(task.number, cut, stopped.values, codec)
        else:
            task.header, task.buffers = self._backend.head(task.number, cut, codec, image)
        computed = time.monotonic()
        task.head_compute_seconds += stopped.compute_seconds + computed - began
        target = task.head_start_seconds + task.head_target_seconds
        if reference == 0:
            task.head_end_seconds = task.head_start_seconds
        elif computed >= target:
            task.head_overrun = True
            task.head_end_seconds = computed
        else:
            self._deadlines.submit(target, lambda now: self._release(task, now))
            self._released.wait()
            return task.head_end_seconds
        self._finish(task)
        return task.head_end_seconds

    def _wait_until(self, deadline_seconds: float) -> None:
        if deadline_seconds > time.monotonic():
            self._deadlines.submit(deadline_seconds, lambda _: self._released.set())
            self._released.wait()

    def _release(self, task: Task, now_seconds: float) -> None:
        task.head_end_seconds = now_seconds
        self._finish(task)
        self._released.set()

    def _finish(self, task: Task) -> None:
        """From this thread or the deadline thread."""
        if task.cut == ():
            try:
                task.answer, task.answer_checksum = self._backend.answer_of(task.buffers[0])
            except Exception as error:  # noqa: BLE001 - bytes that are no logits; it may be the deadline thread's
                task.failure = reason_of("answer", error)
            task.buffers = []
        else:
            task.boundary_bytes = sum(len(buffer) for buffer in task.buffers)
        if task.head_target_seconds > 0:
            seconds = task.head_end_seconds - task.head_start_seconds
            task.compute_joules = compute_watts(self._config, task.speed) * seconds
        self._ended(task)

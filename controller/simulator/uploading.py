"""Labs whose edge starts without a model, from event to event: tasks, caches, and the slot's rows for the simulator.

A UE serves one task at a time, first come first served; it takes plan and speed as it starts, and its share of the edge
with its first node there. Rates change at once. Layers that the edge holds are shared by content: UEs of one model have
the same weights.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.contract import Codec, Decision, Observation, Scenario, UeDecision, cut_label
from controller.model.older_tasks import tail_share
from controller.model.outage import OUTAGE_BITS_PER_SECOND
from controller.model.radio import is_coupled, rates
from controller.model.uploading import UploadWork, edge_nodes, is_serial, uploads_of
from controller.simulator import tandem
from controller.simulator.channels import ChannelStates
from controller.simulator.model_moves import ModelMove
from controller.simulator.result import SimulatedTasks
from controller.simulator.upload_task import Capacities, UploadTask
from controller.simulator.world import refuse_stop_rules

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_Content = tuple[str, str]  # model, node


@dataclass
class _Layer:
    size_bytes: int
    held_since: float
    last_used: float


@dataclass
class _Served:
    """A task and what it was started with."""

    number: int
    task: UploadTask
    choice: UeDecision
    label: str
    needs: frozenset[_Content]
    share: float | None = None  # of the edge, from its first node there on


class _Cache:
    """Layers at the edge, the least recently used evicted first; never one that a running task needs."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._layers: dict[_Content, _Layer] = {}

    def has(self, content: _Content, at: float) -> bool:
        layer = self._layers.get(content)
        return layer is not None and layer.held_since <= at

    def use(self, content: _Content, at: float) -> None:
        if content in self._layers:
            self._layers[content].last_used = max(self._layers[content].last_used, at)

    def add(self, content: _Content, size_bytes: int, at: float, needed: frozenset[_Content]) -> None:
        if content in self._layers:
            return
        self._layers[content] = _Layer(size_bytes, at, at)
        while sum(layer.size_bytes for layer in self._layers.values()) > self._memory_bytes:
            idle = [key for key in self._layers if key not in needed]
            del self._layers[min(idle, key=lambda key: self._layers[key].last_used)]


class UploadingWorld:
    """All tasks of a run and where each UE stands: a :class:`controller.simulator.world.World`."""

    _decision: Decision

    def __init__(
        self,
        scenario: Scenario,
        arrivals: list[FloatArray],
        channel: ChannelStates,
        timeout_seconds: float = math.inf,
    ) -> None:
        """``arrivals``: sorted times of each UE. A task older than ``timeout_seconds`` is given up.

        Raises ValueError for a scenario without uploading, or not fp32.
        """
        if scenario.uploading is None:
            raise ValueError("the scenario's edge has its models")
        self._scenario, self._channel = scenario, channel
        self._keeps = scenario.uploading.cache == "keep"
        self._work = [UploadWork.of(scenario, index) for index in range(len(scenario.ues))]
        self._numbers = [{name: number for number, name in enumerate(work.names)} for work in self._work]
        self._cache = _Cache(scenario.uploading.memory_bytes)
        self._waiting = [deque(enumerate(times.tolist())) for times in arrivals]
        self._free = [0.0] * len(arrivals)
        self._serving: list[_Served | None] = [None] * len(arrivals)
        self._served: list[list[_Served]] = [[] for _ in arrivals]
        self._arrivals = arrivals
        self._timeout = timeout_seconds
        self._failed: list[dict[int, float]] = [{} for _ in arrivals]  # when a task was given up, by number
        self._unserved = [0] * len(arrivals)  # of those, never begun
        self._labels: list[str] = []

    # ------------------------------------------------------------------------------------------------ for the simulator

    def seen(self, observation: Observation) -> Observation:
        """With what the edge holds of each UE's model, and how far its upload is."""
        now = observation.monotonic_seconds
        ues = []
        for index, ue in enumerate(observation.ues):
            serving = self._serving[index]
            model = self._scenario.ues[index].profile.model
            cached = tuple(name for name in self._work[index].names if self._cache.has((model, name), now))
            if not self._keeps:
                own = {} if serving is None else serving.task.loaded
                cached = tuple(name for number, name in enumerate(self._work[index].names) if number in own)
            progress = 0.0 if serving is None else serving.task.progress_ratio()
            ues.append(msgspec.structs.replace(ue, cached_nodes=cached, upload_progress_ratio=progress))
        return msgspec.structs.replace(observation, ues=tuple(ues))

    def take(self, decision: Decision) -> IntArray:
        if is_coupled(self._scenario.radio):
            refuse_stop_rules(decision)
        self._decision = decision
        return np.array([self._label_of(choice) for choice in decision.ues], dtype=np.int64)

    def updates(self) -> tuple[ModelMove, ...]:
        return ()

    def _label_of(self, choice: UeDecision) -> int:
        """Number of its cut's label."""
        label = cut_label(choice.cut)
        if label not in self._labels:
            self._labels.append(label)
        return self._labels.index(label)

    @property
    def labels(self) -> list[str]:
        return self._labels

    @property
    def codecs(self) -> list[Codec | None]:
        return [None] * len(self._labels)

    def advance(self, begin: float, end: float) -> FloatArray:
        decision = self._decision
        steps = self._steps(begin, end, decision)
        while True:
            starts = [self._next_start(index) for index in range(len(self._serving))]
            moment = min([*starts, end])
            finished = [self._run(index, moment, steps, decision) for index in range(len(self._serving))]
            if any(finished):
                continue  # who waited behind it may start before the others
            if moment >= end:
                break
            self._start(starts.index(moment), moment, decision)
        return self._rows(begin, end, steps, decision)

    def tasks(self) -> SimulatedTasks:
        """A row per task that arrived."""
        counts = [times.size for times in self._arrivals]
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        total = int(first[-1])
        stamps = np.full((total, 8), np.nan)
        stamps[:, 0] = np.concatenate(self._arrivals)
        cut = np.full(total, -1, dtype=np.int64)
        numbers = np.full((4, total), np.nan)
        sent, boundary = np.zeros((2, total))
        failed = np.full(total, np.nan)
        for ue, given_up in enumerate(self._failed):
            for number, moment in given_up.items():
                failed[first[ue] + number] = moment
        for ue, served in enumerate(self._served):
            for one in served:
                row = first[ue] + one.number
                cut[row] = self._labels.index(one.label)
                numbers[:, row] = one.choice.device_speed, one.share or one.choice.edge_share, *self._joules(ue, one)
                sent[row] = one.task.sent_bits / 8.0
                nodes = self._scenario.ues[ue].profile.nodes
                boundary[row] = sum(nodes[value + 1].output_bytes for value in one.task.sent_values)
                if math.isnan(one.task.done):
                    stamps[row, 1] = one.task.start
                else:
                    stamps[row, 1:] = one.task.arrival + np.cumsum(one.task.stages())
        return SimulatedTasks(
            ue=np.repeat(np.arange(len(counts)), counts),
            stamps=stamps,
            cut=cut,
            speed=numbers[0],
            share=numbers[1],
            compute_joules=numbers[2],
            transmit_joules=numbers[3],
            boundary_bytes=boundary,
            sent_bytes=sent,
            failed_seconds=failed,
        )

    # ------------------------------------------------------------------------------------------------------------- time

    def _steps(self, begin: float, end: float, decision: Decision) -> list[tuple[float, FloatArray]]:
        """(end of a step, rates (ues, up and down)) over a slot."""
        floors = [ue.outage_floor_bits_per_second for ue in self._scenario.ues]
        found: list[tuple[float, FloatArray]] = []
        step = self._channel.step_seconds
        first = int(begin / step + 1e-9)
        for offset, row in enumerate(self._channel.steps_of(begin, end)):
            gains = {
                str(ue.name): ((float(self._channel.up[row, i]),), (float(self._channel.down[row, i]),))
                for i, ue in enumerate(self._scenario.ues)
            }
            links = rates(self._scenario, gains, decision)
            values = np.array([links[ue.name] for ue in self._scenario.ues])
            values = np.where(values < np.array(floors)[:, np.newaxis], OUTAGE_BITS_PER_SECOND, values)
            found.append((min((first + offset + 1) * step, end), values))
        found[-1] = (end, found[-1][1])
        return found

    def _next_start(self, index: int) -> float:
        if self._serving[index] is not None or not self._waiting[index]:
            return math.inf
        return float(max(self._waiting[index][0][1], self._free[index]))

    def _start(self, index: int, moment: float, decision: Decision) -> None:
        number, arrival = self._waiting[index].popleft()
        if moment - arrival > self._timeout:  # the device does not begin with it
            self._failed[index][number] = moment
            self._unserved[index] += 1
            return
        choice, work = decision.ues[index], self._work[index]
        profile = self._scenario.ues[index].profile
        there = edge_nodes(profile, choice)
        uploads = uploads_of(profile, choice)
        needs = frozenset((profile.model, name) for name in uploads)
        for content in needs:
            self._cache.use(content, moment)
        missing = [
            self._numbers[index][name]
            for name in uploads
            if not (self._keeps and self._cache.has((profile.model, name), moment))
        ]
        task = UploadTask(work, [name in there for name in work.names], missing, is_serial(choice), arrival, moment)
        self._label_of(choice)
        served = _Served(number, task, choice, cut_label(choice.cut), needs)
        self._serving[index] = served
        self._served[index].append(served)
        self._check_memory()

    def _needed(self) -> frozenset[_Content]:
        return frozenset().union(*(one.needs for one in self._serving if one is not None))

    def _check_memory(self) -> None:
        assert self._scenario.uploading is not None
        sizes = {
            (ue.profile.model, name): int(size)
            for ue, work in zip(self._scenario.ues, self._work, strict=True)
            for name, size in zip(work.names, work.parameter_bytes, strict=True)
        }
        needed = sum(sizes[content] for content in self._needed())
        if needed > self._scenario.uploading.memory_bytes:
            raise ValueError(
                f"running tasks need {needed} bytes of parameters at the edge, more than its memory of "
                f"{self._scenario.uploading.memory_bytes}: the simulator has no model of layers that the edge refuses"
            )

    def _run(self, index: int, until: float, steps: list[tuple[float, FloatArray]], decision: Decision) -> bool:
        """Whether the UE's task ended."""
        served = self._serving[index]
        if served is None:
            return False
        task, held = served.task, set(served.task.loaded)
        expiry = task.arrival + self._timeout
        until = min(until, expiry)
        for step_end, values in steps:
            if task.now < step_end:
                up, down = values[index].tolist()
                share = (
                    tail_share(decision.ues[index], self._scenario.edge.cpus) if served.share is None else served.share
                )
                task.advance(min(step_end, until), Capacities(served.choice.device_speed, share, up, down))
                if task.is_at_edge:
                    served.share = share
            if step_end >= until or not math.isnan(task.done):
                break
        self._hold(index, served, held)
        if not math.isnan(task.done):
            self._serving[index], self._free[index] = None, task.done
            return True
        if task.now < expiry:
            return False
        self._failed[index][served.number] = expiry
        self._serving[index], self._free[index] = None, expiry
        return True

    def _hold(self, index: int, served: _Served, before: set[int]) -> None:
        if not self._keeps:
            return
        model, work = self._scenario.ues[index].profile.model, self._work[index]
        for node, moment in sorted(served.task.loaded.items(), key=lambda item: item[1]):
            if node not in before:
                self._cache.add((model, work.names[node]), int(work.parameter_bytes[node]), moment, self._needed())

    # ------------------------------------------------------------------------------------------------------------- rows

    def _joules(self, ue: int, served: _Served) -> tuple[float, float]:
        facts, choice = self._scenario.ues[ue], served.choice
        compute = facts.compute_watts * (choice.device_speed / facts.max_speed) ** 3 * served.task.device_seconds
        watts = facts.transmit_watts if choice.transmit_watts is None else choice.transmit_watts
        return compute, watts * served.task.uplink_seconds

    def _rows(self, begin: float, end: float, steps: list[tuple[float, FloatArray]], decision: Decision) -> FloatArray:
        rows = np.zeros((len(self._serving), tandem.SLOT_FIELDS))
        for index, served in enumerate(self._served):
            times, serving = self._arrivals[index], self._serving[index]
            row = rows[index]
            row[tandem.ARRIVED] = np.searchsorted(times, end) - np.searchsorted(times, begin)
            for one in served:
                completed = begin < one.task.done <= end
                if completed:
                    row[tandem.COMPLETED] += 1
                    row[tandem.DELAY_SUM] += one.task.done - one.task.arrival
                    row[tandem.UE_QUEUE : tandem.DOWN + 1] += one.task.stages()
                if completed or begin < self._failed[index].get(one.number, math.nan) <= end:
                    compute, transmit = self._joules(index, one)
                    row[tandem.COMPUTE] += compute
                    row[tandem.TRANSMIT] += transmit
            row[tandem.FAILURES] = sum(begin < moment <= end for moment in self._failed[index].values())
            row[tandem.RATE] = np.mean([values[index, 0] for _, values in steps])
            arrived = int(np.searchsorted(times, end))
            row[tandem.QUEUED_DEVICE] = arrived - len(served) - self._unserved[index]
            row[tandem.IN_FLIGHT] = row[tandem.QUEUED_DEVICE] + (serving is not None)
        return rows

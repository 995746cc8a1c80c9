"""One task of an uploading lab from event to event: device, edge, uplink and downlink, each doing one thing at a time.

Nothing is computed in advance: what an idle lab gives is what the planners' recursions say
(:mod:`controller.solvers.upload.plan`, :mod:`controller.solvers.upload.graph`), and rates may change at any time.
Features are sent before parameters, and take the link from them (preemptive resume).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from controller.contract import STAGES
from controller.model.uploading import INPUT, UploadWork

DEVICE, EDGE = 0, 1
_NEVER = math.inf


@dataclass(frozen=True)
class Capacities:
    """In force until they change."""

    speed: float  # reference cores
    share: float
    up_bits_per_second: float
    down_bits_per_second: float


@dataclass
class _Message:
    """A feature, or a node's parameters, on its way."""

    value: int  # number of the node
    bits: float  # left to send
    queued: float
    first_sent: float = math.nan
    sent: float = math.nan
    arrived: float = math.nan


@dataclass
class _Side:
    """A processor and the values that are there."""

    queue: deque[int]
    values: set[int] = field(default_factory=set)
    running: int | None = None
    ends: float = _NEVER
    last_ended: float = math.nan


class UploadTask:
    """A task that starts now. :meth:`advance` until :attr:`done` is not nan; times are seconds of the caller's clock.

    ``at_edge``: (nodes,) whether a node runs there. ``uploads``: numbers of the nodes whose parameters the edge lacks,
    in the order in which they go up. ``serial``: they are sent when a node's turn has come, not in advance.
    """

    def __init__(
        self, work: UploadWork, at_edge: list[bool], uploads: list[int], serial: bool, arrival: float, start: float
    ) -> None:
        self.work, self.at_edge, self.serial = work, at_edge, serial
        self.arrival, self.start, self.done = arrival, start, math.nan
        self.now = start
        self.uplink_seconds = 0.0  # in use
        self.device_seconds = 0.0  # at work
        count = len(work.names)
        self._sides = [
            _Side(deque(node for node in range(count) if at_edge[node] == bool(side))) for side in (DEVICE, EDGE)
        ]
        self._sides[DEVICE].values.add(INPUT)
        self._wanted = self._crossings()
        self._features: tuple[deque[_Message], deque[_Message]] = (deque(), deque())  # up, down
        self._parameters: deque[_Message] = deque(
            _Message(node, float(work.parameter_bits[node]), start) for node in uploads
        )
        self._lacking = set(uploads)
        self._flying: list[tuple[float, int, _Message]] = []  # arrival, direction, message
        # what happened, for the stages
        self._node_times: dict[int, tuple[float, float]] = {}
        self._before: dict[int, int | None] = {}  # the node before it on its side
        self._crossed: dict[tuple[int, int], _Message] = {}  # (value, direction)
        self._loaded: dict[int, _Message] = {}
        self._order: tuple[list[int], list[int]] = ([], [])
        self._finished(INPUT, DEVICE)

    # ------------------------------------------------------------------------------------------------------------ facts

    @property
    def sent_values(self) -> list[int]:
        """That the device has sent; INPUT is the raw input."""
        return [value for (value, way) in self._crossed if way == EDGE]

    @property
    def sent_bits(self) -> float:
        """Up, until now: values and parameters."""
        crossed = sum(self.work.bits(value) for value in self.sent_values)
        return crossed + sum(float(self.work.parameter_bits[node]) for node in self._loaded)

    @property
    def is_at_edge(self) -> bool:
        """Whether the edge has begun one of its nodes."""
        return self._sides[EDGE].running is not None or bool(self._order[EDGE])

    @property
    def loaded(self) -> dict[int, float]:
        """When the edge had the parameters of which node."""
        return {node: message.arrived for node, message in self._loaded.items()}

    def progress_ratio(self) -> float:
        """Bits of parameters at the edge, of those that this task sends; 1 if it sends none."""
        there = sum(float(self.work.parameter_bits[node]) for node in self._loaded)
        missing = sum(float(self.work.parameter_bits[node]) for node in self._lacking)
        return there / (there + missing) if there + missing > 0 else 1.0

    def stages(self) -> list[float]:
        """Seconds of each of STAGES, of a task that is done; they sum to its E2E delay.

        Each instant goes to what the answer was waiting for then, walking back from it.
        """
        spent = dict.fromkeys(STAGES, 0.0)
        node, now = len(self.work.names) - 1, self.done
        while node != INPUT:
            side = EDGE if self.at_edge[node] else DEVICE
            begun, ended = self._node_times.get(node, (math.nan, math.nan))
            if now > ended:  # what follows on the other side waited for its value
                message = self._crossed[node, 1 - side]
                self._charge_crossing(spent, message, 1 - side, now)
            spent["tail" if side == EDGE else "head"] += ended - begun
            now, node = self._back(spent, node, side, begun)
        if now > self.start:  # the input's way
            self._charge_crossing(spent, self._crossed[INPUT, EDGE], EDGE, now)
        spent["ue_queue"] += self.start - self.arrival
        return [spent[stage] for stage in STAGES]

    def _charge_crossing(self, spent: dict[str, float], message: _Message, way: int, now: float) -> None:
        if way == EDGE:
            spent["tx_queue"] += message.first_sent - message.queued
            spent["uplink"] += now - message.first_sent
        else:
            spent["downlink"] += now - message.queued

    def _back(self, spent: dict[str, float], node: int, side: int, begun: float) -> tuple[float, int]:
        """(when, which value) a node had waited for before its parameters; those go to tx_queue."""
        reasons: list[tuple[float, int]] = []
        before = self._before[node]
        if before is not None:
            reasons.append((self._node_times[before][1], before))
        for source in self.work.inputs[node]:
            if (source, side) in self._crossed:
                reasons.append((self._crossed[source, side].arrived, source))
            elif source == INPUT:
                reasons.append((self.start, INPUT))
        ready, value = max(reasons)
        spent["tx_queue"] += begun - ready
        return ready, value

    # ------------------------------------------------------------------------------------------------------------- time

    def advance(self, until: float, capacities: Capacities) -> None:
        """To ``until``, or to the task's end if that comes first."""
        while math.isnan(self.done):
            self._begin(capacities)
            up, down = self._on_uplink(), self._features[DEVICE][0] if self._features[DEVICE] else None
            next_event = min(
                self._sides[DEVICE].ends,
                self._sides[EDGE].ends,
                self.now + up.bits / capacities.up_bits_per_second if up else _NEVER,
                self.now + down.bits / capacities.down_bits_per_second if down else _NEVER,
                min((arrival for arrival, _, _ in self._flying), default=_NEVER),
                self._turn(),
            )
            assert next_event < _NEVER, "the task waits for nothing"
            moment = min(next_event, until)
            if up:
                self.uplink_seconds += moment - self.now
                self._send(up, capacities.up_bits_per_second, moment, EDGE)
            if down:
                self._send(down, capacities.down_bits_per_second, moment, DEVICE)
            self.now = moment
            self._happen()
            if next_event > until:
                return

    def _begin(self, capacities: Capacities) -> None:
        """Nodes that can start, start."""
        for side, seconds, speed in (
            (DEVICE, self.work.device_seconds, capacities.speed),
            (EDGE, self.work.edge_seconds, capacities.share),
        ):
            place = self._sides[side]
            if place.running is not None or not place.queue:
                continue
            node = place.queue[0]
            if not all(source in place.values for source in self.work.inputs[node]):
                continue
            if side == EDGE and node in self._lacking:
                continue
            place.queue.popleft()
            place.running, place.ends = node, self.now + float(seconds[node]) / speed
            self._before[node] = self._order[side][-1] if self._order[side] else None
            self._node_times[node] = (self.now, place.ends)

    def _on_uplink(self) -> _Message | None:
        if self._features[EDGE]:
            return self._features[EDGE][0]
        if self._parameters and self._turn_has_come():
            return self._parameters[0]
        return None

    def _turn_has_come(self) -> bool:
        return not self.serial or self._serial_turn() <= self.now

    def _turn(self) -> float:
        """When the next parameters may be sent, if that is still to come."""
        if not self.serial or not self._parameters:
            return _NEVER
        turn = self._serial_turn()
        return turn if turn > self.now else _NEVER

    def _serial_turn(self) -> float:
        """When the device knows that the edge waits for parameters: the node before has ended, features are sent."""
        edge = self._sides[EDGE]
        if edge.running is not None or not edge.queue or edge.queue[0] != self._parameters[0].value:
            return _NEVER
        known = edge.last_ended + self.work.down_delay_seconds if self._order[EDGE] else self.start
        for source in self.work.inputs[edge.queue[0]]:
            if source in edge.values:
                continue
            message = self._crossed.get((source, EDGE))
            if message is None:
                return _NEVER
            known = max(known, message.sent)
        return known

    def _send(self, message: _Message, rate: float, moment: float, way: int) -> None:
        if math.isnan(message.first_sent):
            message.first_sent = self.now
        if moment < self.now + message.bits / rate:
            message.bits -= rate * (moment - self.now)
            return
        message.bits = 0.0
        message.sent = moment
        is_feature = bool(self._features[way]) and self._features[way][0] is message
        delay = self.work.up_delay_seconds if way == EDGE else self.work.down_delay_seconds
        message.arrived = moment + delay
        if is_feature:
            self._features[way].popleft()
            self._crossed[message.value, way] = message
        else:
            self._parameters.popleft()
        self._flying.append((message.arrived, way if is_feature else -1, message))

    def _happen(self) -> None:
        """What is due at this moment."""
        for side in (DEVICE, EDGE):
            place = self._sides[side]
            if place.running is not None and place.ends <= self.now:
                node, place.running, place.ends = place.running, None, _NEVER
                place.last_ended = self.now
                self._order[side].append(node)
                begun, ended = self._node_times[node]
                self.device_seconds += ended - begun if side == DEVICE else 0.0
                self._finished(node, side)
        due = sorted((one for one in self._flying if one[0] <= self.now), key=lambda one: one[0])
        self._flying = [one for one in self._flying if one[0] > self.now]
        for arrival, way, message in due:
            if way == -1:
                self._lacking.discard(message.value)
                self._loaded[message.value] = message
            elif way == DEVICE and message.value == len(self.work.names) - 1:
                self.done = arrival
            else:
                self._sides[way].values.add(message.value)

    def _finished(self, value: int, side: int) -> None:
        """A value is there: it goes to the other side if anything there reads it; the answer goes to the device."""
        self._sides[side].values.add(value)
        last = len(self.work.names) - 1
        if value == last and side == DEVICE:
            self.done = self.now
        elif (value, 1 - side) in self._wanted:
            way = 1 - side
            self._features[way].append(_Message(value, self.work.bits(value), self.now))

    def _crossings(self) -> set[tuple[int, int]]:
        """(value, side that it has to go to)."""
        last = len(self.work.names) - 1
        found = {(last, DEVICE)} if self.at_edge[last] else set()
        for node, sources in enumerate(self.work.inputs):
            side = EDGE if self.at_edge[node] else DEVICE
            for source in sources:
                made = EDGE if source != INPUT and self.at_edge[source] else DEVICE
                if made != side:
                    found.add((source, side))
        return found


def task_seconds(
    work: UploadWork, at_edge: list[bool], uploads: list[int], capacities: Capacities, *, serial: bool = False
) -> float:
    """Latency of a task that finds nobody before it, at rates that stay."""
    task = UploadTask(work, at_edge, uploads, serial, 0.0, 0.0)
    task.advance(math.inf, capacities)
    assert np.isfinite(task.done)
    return task.done

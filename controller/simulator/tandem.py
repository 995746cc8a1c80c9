"""The event-driven tandem: every task of every UE through device queue, uplink, edge queue and downlink.

Queues carry over from slot to slot. A task takes its cut and speed when its head starts and its edge share when its
tail starts; the link's rate changes at once, at every step of the trace and every slot. Every queue is first come
first served, so a local result may overtake a transmitted one but nothing overtakes within a queue: a UE's stages can
be walked one after the other through a slot instead of keeping a heap of events.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller.compiled import compiled
from controller.frames import FRAME_BITS
from controller.model.carried import carried_rate, outage_end, transmit
from controller.model.outage import FORESIGHT_SECONDS

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# rows of Tandem.tasks
ARRIVAL, HEAD_START, HEAD_END, TX_START, RECEIVED, TAIL_START, TAIL_END, DONE = range(8)
CUT, SPEED, SHARE, BITS, TAIL_WORK, DOWN_BITS, COMPUTE_JOULES, TRANSMIT_JOULES, HEAD_SLOT, QUALITY = range(8, 18)
FAILED = 18  # when it was given up; nan: it was not
TASK_FIELDS = 19
# columns of Tandem.pointers: index of the UE's next task at each point
NEXT_HEAD, NEXT_HEAD_END, NEXT_TX, NEXT_TAIL, NEXT_DOWN, NEXT_DONE, SENDING, NEXT_EXPIRY, ANSWERING = range(9)
# columns of Tandem.free: when the server is free, the bits left of the frame and of the result on the air, from
# when until when, and for how long, an answer waits for pieces of a model that is on its way down, and for how long the
# wire has let nothing of the frame on the air through
DEVICE, LINK, EDGE, DOWNLINK, BITS_LEFT, DOWN_BITS_LEFT, HELD_FROM, HELD_UNTIL, HELD_SECONDS, SILENT = range(10)
# columns of the slot's result
(
    ARRIVED, COMPLETED, DELAY_SUM, UE_QUEUE, HEAD, TX_QUEUE, UPLINK, EDGE_QUEUE, TAIL, DOWN, COMPUTE, TRANSMIT, RATE,
    QUEUED_DEVICE, QUEUED_TX, QUEUED_EDGE, IN_FLIGHT, BACKLOG_BITS, BACKLOG_SECONDS, FAILURES,
) = range(20)  # fmt: skip
SLOT_FIELDS = 20


class StopPoints(NamedTuple):
    """Where a task may stop before its decided cut, arrays (ues, points); see UeDecision.stop_rule."""

    used: IntArray  # (ues,): points that are not padding
    gate: FloatArray  # it stops where the link quality is not below this
    seconds: FloatArray  # of the head without encoding, on the reference core: when it looks
    cut: IntArray
    column: IntArray  # of the chain, for channels that are drawn per stage
    head_seconds: FloatArray
    wire_bits: FloatArray
    tail_seconds: FloatArray
    down_bits: FloatArray

    @classmethod
    def none(cls, ues: int, points: int = 1) -> StopPoints:
        """Room for ``points``, none of them used."""

        def real() -> FloatArray:
            return np.zeros((ues, points))

        def whole() -> IntArray:
            return np.zeros((ues, points), dtype=np.int64)

        return cls(np.zeros(ues, dtype=np.int64), real(), real(), whole(), whole(), real(), real(), real(), real())


class InForce(NamedTuple):
    """The decision of a slot as the tandem needs it; arrays (ues,)."""

    cut: IntArray  # an id of the caller's
    head_seconds: FloatArray  # on the reference core
    wire_bits: FloatArray  # 0: local
    tail_seconds: FloatArray  # on the reference core
    down_bits: FloatArray
    speed: FloatArray
    share: FloatArray
    spectrum_up_hz: FloatArray
    down_ratio: FloatArray  # of the downlink's whole spectrum
    most_up: FloatArray  # bit/s that the wire carries at most, in whatever spectrum; inf: all that this gives
    most_down: FloatArray
    power_ratio: FloatArray  # transmit power over its nominal value
    column: IntArray  # of the decided cut in its chain, for channels that are drawn per stage
    points: StopPoints


@compiled
def _stop(ue, j, start, points, staged, quality, speed, step_seconds):  # type: ignore[no-untyped-def]
    """The point at which task ``j`` stops by what it sees of the channel on its way, -1 if it goes on to its cut."""
    for point in range(points.used[ue]):
        seen = np.nan
        if staged.shape[0] > 0:
            seen = staged[j, points.column[ue, point]]
        if seen != seen:
            now = start + points.seconds[ue, point] / speed
            seen = quality[int(now / step_seconds + 1e-9) % quality.shape[0], ue]
        if seen >= points.gate[ue, point]:
            return point
    return -1


@compiled
def _advance(  # type: ignore[no-untyped-def]
    slot, begin, end, tasks, first, pointers, free, quality, downlink, step_seconds, linear, floor, foresight, kappa,
    watts, up_delay, down_delay, cut, head_seconds, wire_bits, tail_seconds, down_bits, speed, share, spectrum,
    down_ratio, most_up, most_down, power, column, points, staged, timeout, out,
):  # fmt: skip
    steps = quality.shape[0]
    for ue in range(cut.shape[0]):
        base, last = first[ue], first[ue + 1]
        for field in range(SLOT_FIELDS):
            out[ue, field] = 0.0
        # heads that start in this slot
        j = pointers[ue, NEXT_HEAD]
        while j < last:
            start = max(tasks[ARRIVAL, j], free[ue, DEVICE])
            if start >= end:
                break
            if start - tasks[ARRIVAL, j] > timeout:  # the device does not begin with it
                tasks[FAILED, j] = start
                tasks[BITS, j] = 0.0
                out[ue, FAILURES] += 1
                j += 1
                continue
            point = _stop(ue, j, start, points, staged, quality, speed[ue], step_seconds)
            tasks[HEAD_START, j] = start
            tasks[SPEED, j] = speed[ue]
            if point >= 0:
                seconds = points.head_seconds[ue, point] / speed[ue]
                bits = points.wire_bits[ue, point]
                tasks[CUT, j] = points.cut[ue, point]
                tasks[TAIL_WORK, j] = points.tail_seconds[ue, point]
                tasks[DOWN_BITS, j] = points.down_bits[ue, point]
                drawn = points.column[ue, point]
            else:
                seconds = head_seconds[ue] / speed[ue]
                bits = wire_bits[ue]
                tasks[CUT, j] = cut[ue]
                tasks[TAIL_WORK, j] = tail_seconds[ue]
                tasks[DOWN_BITS, j] = down_bits[ue]
                drawn = column[ue]
            if staged.shape[0] > 0 and drawn >= 0:
                tasks[QUALITY, j] = staged[j, drawn]
            tasks[HEAD_END, j] = start + seconds
            tasks[BITS, j] = bits
            tasks[COMPUTE_JOULES, j] = kappa[ue] * speed[ue] ** 3 * seconds
            tasks[HEAD_SLOT, j] = slot
            free[ue, DEVICE] = start + seconds
            if bits <= 0.0:
                for stamp in range(TX_START, DONE + 1):
                    tasks[stamp, j] = start + seconds
            j += 1
        pointers[ue, NEXT_HEAD] = j
        # heads that end in it: energy, and local tasks complete
        j = pointers[ue, NEXT_HEAD_END]
        while j < pointers[ue, NEXT_HEAD] and not tasks[HEAD_END, j] > end:
            if tasks[HEAD_START, j] != tasks[HEAD_START, j]:  # given up in the device queue
                j += 1
                continue
            out[ue, COMPUTE] += tasks[COMPUTE_JOULES, j]
            if tasks[BITS, j] <= 0.0:
                _complete(tasks, j, ue, out)
            j += 1
        pointers[ue, NEXT_HEAD_END] = j
        # transfers
        j = pointers[ue, NEXT_TX]
        while j < pointers[ue, NEXT_HEAD]:
            if tasks[BITS, j] <= 0.0:
                j += 1
                continue
            expiry = tasks[ARRIVAL, j] + timeout
            if pointers[ue, SENDING] == 1:
                start = begin
            else:
                start = max(tasks[HEAD_END, j], free[ue, LINK])
                if start >= end:
                    break
                if start > expiry:  # given up while it waited
                    j += 1
                    continue
                tasks[TX_START, j] = start
                free[ue, BITS_LEFT] = tasks[BITS, j]
                free[ue, SILENT] = 0.0
                pointers[ue, SENDING] = 1
            now, left, silent = transmit(
                start,
                min(end, expiry),
                free[ue, BITS_LEFT],
                tasks[QUALITY, j],
                quality,
                power[ue],
                ue,
                linear[ue],
                spectrum[ue],
                most_up[ue],
                floor[ue],
                step_seconds,
                foresight,
            )
            free[ue, BITS_LEFT] = left
            free[ue, SILENT] += silent
            if left > 0.0 and expiry > end:
                break
            pointers[ue, SENDING] = 0
            if left > 0.0:  # given up on the air
                free[ue, LINK] = expiry
                tasks[TRANSMIT_JOULES, j] = watts[ue] * power[ue] * (expiry - tasks[TX_START, j] - free[ue, SILENT])
                out[ue, TRANSMIT] += tasks[TRANSMIT_JOULES, j]
                j += 1
                continue
            free[ue, LINK] = now
            tasks[RECEIVED, j] = now + up_delay[ue]
            tasks[TRANSMIT_JOULES, j] = watts[ue] * power[ue] * (now - tasks[TX_START, j] - free[ue, SILENT])
            out[ue, TRANSMIT] += tasks[TRANSMIT_JOULES, j]
            j += 1
        pointers[ue, NEXT_TX] = j
        # tails that start in this slot
        j = pointers[ue, NEXT_TAIL]
        while j < pointers[ue, NEXT_TX]:
            if tasks[BITS, j] <= 0.0 or tasks[RECEIVED, j] != tasks[RECEIVED, j]:
                j += 1
                continue
            start = max(tasks[RECEIVED, j], free[ue, EDGE])
            if start >= end:
                break
            if start + tasks[TAIL_WORK, j] / share[ue] > tasks[ARRIVAL, j] + timeout:  # the edge drops it
                if start <= tasks[ARRIVAL, j] + timeout:
                    tasks[FAILED, j] = start
                    out[ue, FAILURES] += 1
                j += 1
                continue
            tasks[TAIL_START, j] = start
            tasks[TAIL_END, j] = start + tasks[TAIL_WORK, j] / share[ue]
            tasks[SHARE, j] = share[ue]
            free[ue, EDGE] = tasks[TAIL_END, j]
            j += 1
        pointers[ue, NEXT_TAIL] = j
        # results
        j = pointers[ue, NEXT_DOWN]
        while j < pointers[ue, NEXT_TAIL]:
            if tasks[BITS, j] <= 0.0 or tasks[TAIL_END, j] != tasks[TAIL_END, j]:
                j += 1
                continue
            if pointers[ue, ANSWERING] == 1:
                start = begin
            else:
                start = max(tasks[TAIL_END, j], free[ue, DOWNLINK])
                if start >= end:
                    break
                if free[ue, HELD_FROM] <= start < free[ue, HELD_UNTIL]:
                    start += free[ue, HELD_SECONDS]
                number = int(start / step_seconds + 1e-9)
                if min(downlink[number % steps, ue] * down_ratio[ue], most_down[ue]) < floor[ue]:
                    back = outage_end(
                        number,
                        downlink,
                        1.0,
                        ue,
                        True,
                        down_ratio[ue],
                        most_down[ue],
                        floor[ue],
                        step_seconds,
                        foresight,
                    )
                    # its first packet leaves, where nothing left just before, and is paid for when the outage is over
                    if back < np.inf and start > free[ue, DOWNLINK] and tasks[DOWN_BITS, j] <= FRAME_BITS:
                        tasks[DONE, j] = start + down_delay[ue]
                        free[ue, DOWNLINK] = back
                        j += 1
                        continue
                pointers[ue, ANSWERING] = 1
                free[ue, DOWN_BITS_LEFT] = tasks[DOWN_BITS, j]
            now, left, _ = transmit(
                start, end, free[ue, DOWN_BITS_LEFT], np.nan, downlink, 1.0, ue, True, down_ratio[ue],
                most_down[ue], floor[ue], step_seconds, foresight,
            )  # fmt: skip
            free[ue, DOWN_BITS_LEFT] = left
            if left > 0.0:
                break
            pointers[ue, ANSWERING] = 0
            free[ue, DOWNLINK] = now
            tasks[DONE, j] = now + down_delay[ue]
            j += 1
        pointers[ue, NEXT_DOWN] = j
        j = pointers[ue, NEXT_DONE]
        while j < pointers[ue, NEXT_DOWN]:
            if tasks[BITS, j] > 0.0:
                if tasks[DONE, j] > end:
                    break
                if tasks[DONE, j] <= tasks[ARRIVAL, j] + timeout:
                    _complete(tasks, j, ue, out)
            j += 1
        pointers[ue, NEXT_DONE] = j
        # tasks whose head has begun and that have no answer in time; those in the device queue fail at its head
        j = pointers[ue, NEXT_EXPIRY]
        while j < pointers[ue, NEXT_HEAD] and tasks[ARRIVAL, j] + timeout <= end:
            expiry = tasks[ARRIVAL, j] + timeout
            over = tasks[DONE, j] <= expiry or tasks[FAILED, j] == tasks[FAILED, j]
            if tasks[BITS, j] > 0.0 and not over:
                tasks[FAILED, j] = max(expiry, tasks[HEAD_END, j])
                out[ue, FAILURES] += 1
            j += 1
        pointers[ue, NEXT_EXPIRY] = j
        _report(ue, begin, end, tasks, base, last, pointers, free, out)
        # mean rate over the slot, by the steps that begin in it
        number = int(begin / step_seconds + 1e-9)
        count = 0
        while number * step_seconds < end - 1e-9 or count == 0:
            out[ue, RATE] += carried_rate(
                quality[number % steps, ue], power[ue], linear[ue], spectrum[ue], most_up[ue], floor[ue]
            )
            number += 1
            count += 1
        out[ue, RATE] /= count
        pending = out[ue, BACKLOG_SECONDS]
        out[ue, BACKLOG_SECONDS] = pending / share[ue]


@compiled
def _complete(tasks, j, ue, out):  # type: ignore[no-untyped-def]
    out[ue, COMPLETED] += 1
    out[ue, DELAY_SUM] += tasks[DONE, j] - tasks[ARRIVAL, j]
    for stage in range(7):
        out[ue, UE_QUEUE + stage] += tasks[ARRIVAL + stage + 1, j] - tasks[ARRIVAL + stage, j]


@compiled
def _report(ue, begin, end, tasks, base, last, pointers, free, out):  # type: ignore[no-untyped-def]
    """Arrivals of the slot and what is queued at its end."""
    # arrivals are sorted: bisect for the slot's borders
    low, high = base, last
    while low < high:
        middle = (low + high) // 2
        if tasks[ARRIVAL, middle] < begin:
            low = middle + 1
        else:
            high = middle
    before = low
    high = last
    while low < high:
        middle = (low + high) // 2
        if tasks[ARRIVAL, middle] < end:
            low = middle + 1
        else:
            high = middle
    out[ue, ARRIVED] = low - before
    out[ue, QUEUED_DEVICE] = low - pointers[ue, NEXT_HEAD]
    in_device = pointers[ue, NEXT_HEAD] - pointers[ue, NEXT_HEAD_END]  # at most one, and none has failed
    in_flight = out[ue, QUEUED_DEVICE] + in_device
    for j in range(pointers[ue, NEXT_DONE], pointers[ue, NEXT_HEAD_END]):
        if tasks[BITS, j] <= 0.0 or (j < pointers[ue, NEXT_DOWN] and tasks[DONE, j] <= end):
            continue
        if tasks[FAILED, j] <= end:
            continue
        in_flight += 1
        if j >= pointers[ue, NEXT_TX]:
            out[ue, QUEUED_TX] += 1
            sending = j == pointers[ue, NEXT_TX] and pointers[ue, SENDING] == 1
            out[ue, BACKLOG_BITS] += free[ue, BITS_LEFT] if sending else tasks[BITS, j]
        elif j >= pointers[ue, NEXT_TAIL]:
            out[ue, QUEUED_EDGE] += 1
            out[ue, BACKLOG_SECONDS] += tasks[TAIL_WORK, j]
    out[ue, IN_FLIGHT] = in_flight


class Tandem:
    """All tasks of a run and where each UE stands. Call :meth:`advance` slot by slot, in order."""

    def __init__(self, arrivals: list[FloatArray], up_delay: FloatArray, down_delay: FloatArray, kappa: FloatArray,
                 transmit_watts: FloatArray, linear: NDArray[np.bool_], floor: FloatArray,
                 staged: FloatArray | None = None, foresight_seconds: float = FORESIGHT_SECONDS,
                 timeout_seconds: float = np.inf) -> None:  # fmt: skip
        """``arrivals`` holds one sorted array of times per UE; the rest is (ues,). Raises ValueError if not sorted.

        ``staged`` (tasks, cuts): link quality of each task at each cut of its chain, where it is drawn per stage; nan
        where it comes from the trace. ``timeout_seconds``: tasks that are older are given up, as in the lab: at the
        head of the device queue, on the way to the edge, and by the edge before a tail that would end too late.
        """
        for index, times in enumerate(arrivals):
            if times.size and (np.any(np.diff(times) < 0) or times[0] < 0):
                raise ValueError(f"arrival times of UE {index} must be sorted and not negative")
        counts = np.array([times.size for times in arrivals], dtype=np.int64)
        self.first: IntArray = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.tasks: FloatArray = np.full((TASK_FIELDS, int(self.first[-1])), np.nan)
        self.tasks[ARRIVAL] = np.concatenate(arrivals) if arrivals else []
        self.tasks[TRANSMIT_JOULES] = 0.0
        ues = len(arrivals)
        self.pointers: IntArray = np.repeat(self.first[:-1, np.newaxis], 9, axis=1)
        self.pointers[:, [SENDING, ANSWERING]] = 0
        self.free: FloatArray = np.zeros((ues, 10))
        self._constants = (linear, floor, foresight_seconds, kappa, transmit_watts, up_delay, down_delay)
        self._timeout = timeout_seconds
        self._staged: FloatArray = np.empty((0, 1)) if staged is None else staged

    def advance(self, slot: int, begin: float, end: float, decision: InForce, quality: FloatArray,
                downlink: FloatArray, step_seconds: float) -> FloatArray:  # fmt: skip
        """One slot. ``quality`` and ``downlink`` are (steps, ues), see ChainTables. Returns (ues, SLOT_FIELDS)."""
        out = np.empty((self.free.shape[0], SLOT_FIELDS))
        linear, floor, foresight, kappa, watts, up_delay, down_delay = self._constants
        _advance(
            slot, begin, end, self.tasks, self.first, self.pointers, self.free, quality, downlink, step_seconds,
            linear, floor, foresight, kappa, watts, up_delay, down_delay, *decision, self._staged, self._timeout, out,
        )  # fmt: skip
        return out

    def ue_of_tasks(self) -> IntArray:
        """UE index of every task, (tasks,)."""
        return np.repeat(np.arange(self.first.size - 1), np.diff(self.first))

"""The event-driven tandem: every task of every UE through device queue, uplink, edge queue and downlink.

Queues carry over from slot to slot. A task takes its cut and speed when its head starts and its edge share when its
tail starts; the link's rate changes at once, at every step of the trace and every slot. Every queue is first come
first served, so a local result may overtake a transmitted one but nothing overtakes within a queue: a UE's stages can
be walked one after the other through a slot instead of keeping a heap of events.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from controller.compiled import compiled
from controller.frames import FRAME_BITS
from controller.model.carried import carried_rate, outage_end, transmit
from controller.simulator.given import DROP, LATEST, Fixed, FloatArray, IntArray, Links
from controller.simulator.in_force import InForce

# rows of Tandem.tasks
ARRIVAL, HEAD_START, HEAD_END, TX_START, RECEIVED, TAIL_START, TAIL_END, DONE = range(8)
CUT, SPEED, SHARE, BITS, TAIL_WORK, DOWN_BITS, COMPUTE_JOULES, TRANSMIT_JOULES, QUALITY = range(8, 17)
FAILED = 17  # when it was given up; nan: it was not
DROPPED = 18  # when the device, busy, did not take it; nan: it did
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


class _Progress(NamedTuple):
    tasks: FloatArray  # (TASK_FIELDS, tasks), by UE and arrival
    first: IntArray  # (ues + 1,): of each UE
    pointers: IntArray  # (ues, 9)
    free: FloatArray  # (ues, 10)


@compiled
def _stop(ue, j, start, links, fixed, force):  # type: ignore[no-untyped-def]
    """The point at which task ``j`` stops by what it sees of the channel on its way, -1 if it goes on to its cut."""
    points = force.points
    for point in range(points.used[ue]):
        seen = np.nan
        if fixed.staged.shape[0] > 0:
            seen = fixed.staged[j, points.column[ue, point]]
        if seen != seen:
            now = start + points.seconds[ue, point] / force.speed[ue]
            seen = links.quality[int(now / links.step_seconds + 1e-9) % links.quality.shape[0], ue]
        if seen >= points.gate[ue, point]:
            return point
    return -1


@compiled
def _complete(tasks, j, ue, out):  # type: ignore[no-untyped-def]
    out[ue, COMPLETED] += 1
    out[ue, DELAY_SUM] += tasks[DONE, j] - tasks[ARRIVAL, j]
    for stage in range(7):
        out[ue, UE_QUEUE + stage] += tasks[ARRIVAL + stage + 1, j] - tasks[ARRIVAL + stage, j]


@compiled
def _dropped_seconds(ue, j, last, progress, fixed):  # type: ignore[no-untyped-def]
    """When task ``j``, the next of its UE, is thrown away since the device computes; nan: it is not."""
    if fixed.on_busy.shape[0] == 0:
        return np.nan
    free, arrivals = progress.free[ue, DEVICE], progress.tasks[ARRIVAL]
    if fixed.on_busy[ue] == DROP and arrivals[j] < free:
        return arrivals[j]
    if fixed.on_busy[ue] == LATEST and j + 1 < last and arrivals[j + 1] < free:
        return arrivals[j + 1]
    return np.nan


@compiled
def _heads(end, progress, links, fixed, force, out):  # type: ignore[no-untyped-def]
    """Start heads."""
    tasks, pointers, free = progress.tasks, progress.pointers, progress.free
    for ue in range(out.shape[0]):
        last = progress.first[ue + 1]
        j = pointers[ue, NEXT_HEAD]
        while j < last:
            dropped = _dropped_seconds(ue, j, last, progress, fixed)
            if dropped < end:
                tasks[DROPPED, j] = dropped
                tasks[BITS, j] = 0.0
                j += 1
                continue
            start = max(tasks[ARRIVAL, j], free[ue, DEVICE])
            if start >= end:
                break
            if start - tasks[ARRIVAL, j] > fixed.timeout_seconds:  # the device does not begin with it
                tasks[FAILED, j] = start
                tasks[BITS, j] = 0.0
                out[ue, FAILURES] += 1
                j += 1
                continue
            point = _stop(ue, j, start, links, fixed, force) if force.points.used[ue] > 0 else -1
            tasks[HEAD_START, j] = start
            tasks[SPEED, j] = force.speed[ue]
            if point >= 0:
                seconds = force.points.head_seconds[ue, point] / force.speed[ue]
                bits = force.points.wire_bits[ue, point]
                tasks[CUT, j] = force.points.cut[ue, point]
                tasks[TAIL_WORK, j] = force.points.tail_seconds[ue, point]
                tasks[DOWN_BITS, j] = force.points.down_bits[ue, point]
                drawn = force.points.column[ue, point]
            else:
                seconds = force.head_seconds[ue] / force.speed[ue]
                bits = force.wire_bits[ue]
                tasks[CUT, j] = force.cut[ue]
                tasks[TAIL_WORK, j] = force.tail_seconds[ue]
                tasks[DOWN_BITS, j] = force.down_bits[ue]
                drawn = force.column[ue]
            if fixed.staged.shape[0] > 0 and drawn >= 0:
                tasks[QUALITY, j] = fixed.staged[j, drawn]
            tasks[HEAD_END, j] = start + seconds
            tasks[BITS, j] = bits
            tasks[COMPUTE_JOULES, j] = fixed.kappa[ue] * force.speed[ue] ** 3 * seconds
            free[ue, DEVICE] = start + seconds
            if bits <= 0.0:
                for stamp in range(TX_START, DONE + 1):
                    tasks[stamp, j] = start + seconds
            j += 1
        pointers[ue, NEXT_HEAD] = j


@compiled
def _end_heads(end, progress, out):  # type: ignore[no-untyped-def]
    """End heads: their energy is charged, and local tasks complete."""
    tasks, pointers = progress.tasks, progress.pointers
    for ue in range(out.shape[0]):
        j = pointers[ue, NEXT_HEAD_END]
        while j < pointers[ue, NEXT_HEAD] and not tasks[HEAD_END, j] > end:
            if tasks[HEAD_START, j] != tasks[HEAD_START, j]:  # given up in the device queue, or dropped
                j += 1
                continue
            out[ue, COMPUTE] += tasks[COMPUTE_JOULES, j]
            if tasks[BITS, j] <= 0.0:
                _complete(tasks, j, ue, out)
            j += 1
        pointers[ue, NEXT_HEAD_END] = j


@compiled
def _transfers(begin, end, progress, links, fixed, force, out):  # type: ignore[no-untyped-def]
    """Send what heads made."""
    tasks, pointers, free = progress.tasks, progress.pointers, progress.free
    for ue in range(out.shape[0]):
        watts = fixed.transmit_watts[ue] * force.power_ratio[ue]
        j = pointers[ue, NEXT_TX]
        while j < pointers[ue, NEXT_HEAD]:
            if tasks[BITS, j] <= 0.0:
                j += 1
                continue
            expiry = tasks[ARRIVAL, j] + fixed.timeout_seconds
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
                start, min(end, expiry), free[ue, BITS_LEFT], tasks[QUALITY, j], links.quality, force.power_ratio[ue],
                ue, fixed.linear[ue], force.spectrum_up_hz[ue], force.most_up[ue], fixed.floor[ue], links.step_seconds,
                fixed.foresight_seconds,
            )  # fmt: skip
            free[ue, BITS_LEFT] = left
            free[ue, SILENT] += silent
            if left > 0.0 and expiry > end:
                break
            pointers[ue, SENDING] = 0
            if left > 0.0:  # given up on the air
                free[ue, LINK] = expiry
                tasks[TRANSMIT_JOULES, j] = watts * (expiry - tasks[TX_START, j] - free[ue, SILENT])
                out[ue, TRANSMIT] += tasks[TRANSMIT_JOULES, j]
                j += 1
                continue
            free[ue, LINK] = now
            tasks[RECEIVED, j] = now + fixed.up_delay[ue]
            tasks[TRANSMIT_JOULES, j] = watts * (now - tasks[TX_START, j] - free[ue, SILENT])
            out[ue, TRANSMIT] += tasks[TRANSMIT_JOULES, j]
            j += 1
        pointers[ue, NEXT_TX] = j


@compiled
def _tails(end, progress, fixed, force, out):  # type: ignore[no-untyped-def]
    """Start tails."""
    tasks, pointers, free = progress.tasks, progress.pointers, progress.free
    for ue in range(out.shape[0]):
        j = pointers[ue, NEXT_TAIL]
        while j < pointers[ue, NEXT_TX]:
            if tasks[BITS, j] <= 0.0 or tasks[RECEIVED, j] != tasks[RECEIVED, j]:
                j += 1
                continue
            start = max(tasks[RECEIVED, j], free[ue, EDGE])
            if start >= end:
                break
            expiry = tasks[ARRIVAL, j] + fixed.timeout_seconds
            if start + tasks[TAIL_WORK, j] / force.share[ue] > expiry:  # the edge drops it
                if start <= expiry:
                    tasks[FAILED, j] = start
                    out[ue, FAILURES] += 1
                j += 1
                continue
            tasks[TAIL_START, j] = start
            tasks[TAIL_END, j] = start + tasks[TAIL_WORK, j] / force.share[ue]
            tasks[SHARE, j] = force.share[ue]
            free[ue, EDGE] = tasks[TAIL_END, j]
            j += 1
        pointers[ue, NEXT_TAIL] = j


@compiled
def _results(begin, end, progress, links, fixed, force):  # type: ignore[no-untyped-def]
    """Send results."""
    tasks, pointers, free = progress.tasks, progress.pointers, progress.free
    for ue in range(pointers.shape[0]):
        ratio, most = force.down_ratio[ue], force.most_down[ue]
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
                number = int(start / links.step_seconds + 1e-9)
                if min(links.downlink[number % links.downlink.shape[0], ue] * ratio, most) < fixed.floor[ue]:
                    back = outage_end(
                        number, links.downlink, 1.0, ue, True, ratio, most, fixed.floor[ue], links.step_seconds,
                        fixed.foresight_seconds,
                    )  # fmt: skip
                    # its first packet leaves, where nothing left just before, and is paid for when the outage is over
                    if back < np.inf and start > free[ue, DOWNLINK] and tasks[DOWN_BITS, j] <= FRAME_BITS:
                        tasks[DONE, j] = start + fixed.down_delay[ue]
                        free[ue, DOWNLINK] = back
                        j += 1
                        continue
                pointers[ue, ANSWERING] = 1
                free[ue, DOWN_BITS_LEFT] = tasks[DOWN_BITS, j]
            now, left, _ = transmit(
                start, end, free[ue, DOWN_BITS_LEFT], np.nan, links.downlink, 1.0, ue, True, ratio, most,
                fixed.floor[ue], links.step_seconds, fixed.foresight_seconds,
            )  # fmt: skip
            free[ue, DOWN_BITS_LEFT] = left
            if left > 0.0:
                break
            pointers[ue, ANSWERING] = 0
            free[ue, DOWNLINK] = now
            tasks[DONE, j] = now + fixed.down_delay[ue]
            j += 1
        pointers[ue, NEXT_DOWN] = j


@compiled
def _arrive(end, progress, fixed, out):  # type: ignore[no-untyped-def]
    """Complete tasks whose result has arrived in time."""
    tasks, pointers = progress.tasks, progress.pointers
    for ue in range(out.shape[0]):
        j = pointers[ue, NEXT_DONE]
        while j < pointers[ue, NEXT_DOWN]:
            if tasks[BITS, j] > 0.0:
                if tasks[DONE, j] > end:
                    break
                if tasks[DONE, j] <= tasks[ARRIVAL, j] + fixed.timeout_seconds:
                    _complete(tasks, j, ue, out)
            j += 1
        pointers[ue, NEXT_DONE] = j


@compiled
def _expire(end, progress, fixed, out):  # type: ignore[no-untyped-def]
    """Give up tasks whose head has begun and that have no answer in time; who waits for it fails as it would begin."""
    tasks, pointers = progress.tasks, progress.pointers
    for ue in range(out.shape[0]):
        j = pointers[ue, NEXT_EXPIRY]
        while j < pointers[ue, NEXT_HEAD] and tasks[ARRIVAL, j] + fixed.timeout_seconds <= end:
            expiry = tasks[ARRIVAL, j] + fixed.timeout_seconds
            over = tasks[DONE, j] <= expiry or tasks[FAILED, j] == tasks[FAILED, j]
            if tasks[BITS, j] > 0.0 and not over:
                tasks[FAILED, j] = max(expiry, tasks[HEAD_END, j])
                out[ue, FAILURES] += 1
            j += 1
        pointers[ue, NEXT_EXPIRY] = j


@compiled
def _mean_rate(begin, end, links, fixed, force, out):  # type: ignore[no-untyped-def]
    """Rate of an uplink in bit/s, the mean over a slot by the steps that begin in it."""
    for ue in range(out.shape[0]):
        power, spectrum, most = force.power_ratio[ue], force.spectrum_up_hz[ue], force.most_up[ue]
        total, count = 0.0, 0
        steps = links.quality.shape[0]
        number = int(begin / links.step_seconds + 1e-9)
        while number * links.step_seconds < end - 1e-9 or count == 0:
            quality = links.quality[number % steps, ue]
            total += carried_rate(quality, power, fixed.linear[ue], spectrum, most, fixed.floor[ue])
            number += 1
            count += 1
        out[ue, RATE] = total / count


@compiled
def _report(begin, end, progress, out):  # type: ignore[no-untyped-def]
    """Arrivals of the slot and what is queued at its end."""
    tasks, pointers, free = progress.tasks, progress.pointers, progress.free
    for ue in range(out.shape[0]):
        first = progress.first[ue]
        arrivals = tasks[ARRIVAL, first : progress.first[ue + 1]]
        arrived = first + np.searchsorted(arrivals, end)
        out[ue, ARRIVED] = arrived - first - np.searchsorted(arrivals, begin)
        out[ue, QUEUED_DEVICE] = arrived - pointers[ue, NEXT_HEAD]
        in_device = 0  # at most one: those behind it were dropped
        for j in range(pointers[ue, NEXT_HEAD_END], pointers[ue, NEXT_HEAD]):
            in_device += tasks[HEAD_START, j] == tasks[HEAD_START, j]
        in_flight = out[ue, QUEUED_DEVICE] + in_device
        for j in range(pointers[ue, NEXT_DONE], pointers[ue, NEXT_HEAD_END]):
            answered = j < pointers[ue, NEXT_DOWN] and tasks[DONE, j] <= end
            if tasks[BITS, j] <= 0.0 or answered or tasks[FAILED, j] <= end:
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


@compiled
def _advance(begin, end, progress, links, fixed, force, out):  # type: ignore[no-untyped-def]
    _heads(end, progress, links, fixed, force, out)
    _end_heads(end, progress, out)
    _transfers(begin, end, progress, links, fixed, force, out)
    _tails(end, progress, fixed, force, out)
    _results(begin, end, progress, links, fixed, force)
    _arrive(end, progress, fixed, out)
    _expire(end, progress, fixed, out)
    _report(begin, end, progress, out)
    _mean_rate(begin, end, links, fixed, force, out)
    out[:, BACKLOG_SECONDS] /= force.share


class Tandem:
    """All tasks of a run and where each UE stands. Call :meth:`advance` slot by slot, in order."""

    def __init__(self, arrivals: list[FloatArray], fixed: Fixed) -> None:
        """``arrivals`` holds one sorted array of times per UE. Raises ValueError if it is not sorted."""
        for index, times in enumerate(arrivals):
            if times.size and (np.any(np.diff(times) < 0) or times[0] < 0):
                raise ValueError(f"arrival times of UE {index} must be sorted and not negative")
        counts = np.array([times.size for times in arrivals], dtype=np.int64)
        self.first: IntArray = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.tasks: FloatArray = np.full((TASK_FIELDS, int(self.first[-1])), np.nan)
        self.tasks[ARRIVAL] = np.concatenate(arrivals) if arrivals else []
        self.tasks[TRANSMIT_JOULES] = 0.0
        pointers: IntArray = np.repeat(self.first[:-1, np.newaxis], 9, axis=1)
        pointers[:, [SENDING, ANSWERING]] = 0
        self.free: FloatArray = np.zeros((len(arrivals), 10))
        self._progress = _Progress(self.tasks, self.first, pointers, self.free)
        self._fixed = fixed

    def advance(self, begin: float, end: float, decision: InForce, links: Links) -> FloatArray:
        """One slot. Returns (ues, SLOT_FIELDS)."""
        out = np.zeros((self.free.shape[0], SLOT_FIELDS))
        _advance(begin, end, self._progress, links, self._fixed, decision, out)
        return out

"""The rule of :mod:`controller.model.outage`, compiled: the rate that a link carries, and a transfer along a trace."""

from __future__ import annotations

import numpy as np

from controller.compiled import compiled
from controller.model.outage import OUTAGE_BITS_PER_SECOND

_LN2 = np.log(2.0)


@compiled
def planned_rate(quality: float, power: float, linear: bool, spectrum: float, most: float) -> float:
    """Rate in bit/s before the outage floor."""
    return min(spectrum * quality if linear else spectrum * np.log1p(quality * power / spectrum) / _LN2, most)


@compiled
def carried_rate(quality: float, power: float, linear: bool, spectrum: float, most: float, floor: float) -> float:
    """Rate in bit/s: what is planned, or in an outage the least that a wire carries."""
    rate = planned_rate(quality, power, linear, spectrum, most)
    return rate if rate >= floor else OUTAGE_BITS_PER_SECOND


@compiled
def outage_end(number, quality, power, column, linear, spectrum, most, floor, step_seconds, foresight_seconds):  # type: ignore[no-untyped-def]
    """When the outage that step ``number`` is in ends, at this spectrum; inf if that is not in sight."""
    if foresight_seconds <= 0.0:
        return np.inf
    steps = quality.shape[0]
    for ahead in range(1, 2 + int(foresight_seconds / step_seconds + 1e-9)):
        if planned_rate(quality[(number + ahead) % steps, column], power, linear, spectrum, most) >= floor:
            return (number + ahead) * step_seconds
    return np.inf


@compiled
def transmit(  # type: ignore[no-untyped-def]
    start, end, bits, held, quality, power, column, linear, spectrum, most, floor, step_seconds, foresight_seconds,
):  # fmt: skip
    """Send ``bits`` from ``start`` until ``end`` at most, over the trace or, where it is not nan, at the quality
    ``held``. Returns (time reached, bits left, seconds of it in which an outage let nothing through)."""
    if held == held:
        rate = carried_rate(held, power, linear, spectrum, most, floor)
        if start + bits / rate <= end:
            return start + bits / rate, 0.0, 0.0
        return end, bits - rate * max(end - start, 0.0), 0.0
    steps = quality.shape[0]
    number = int(start / step_seconds + 1e-9)
    now = start
    silent = 0.0
    while now < end and bits > 0.0:
        until = min(end, (number + 1) * step_seconds)
        rate = planned_rate(quality[number % steps, column], power, linear, spectrum, most)
        if rate < floor:
            rate = OUTAGE_BITS_PER_SECOND
            back = outage_end(
                number, quality, power, column, linear, spectrum, most, floor, step_seconds, foresight_seconds
            )
            if back < np.inf:
                silent += min(end, back) - now
                now = min(end, back)
                number = int(now / step_seconds + 1e-9)
                continue
        needed = bits / rate
        if now + needed <= until:
            return now + needed, 0.0, silent
        bits -= rate * max(until - now, 0.0)
        now = until
        number += 1
    return now, bits, silent

"""What HTB has to be told so that every frame takes the time on the wire that a changing rate gives it.

HTB lets a frame go at once and pays for it afterwards, in time and at the rate of that moment: the next one waits for
frame / rate, whatever the rate becomes meanwhile. A frame that leaves at 120 kbit/s holds the wire for 0.1 s though
it may be 10 Mbit/s a moment later; one that leaves at 10 Mbit/s right before an outage has paid before it begins. A
trace is known in advance, so before each step the rate is led over to the next one such that a frame which leaves at
a time t pays until the course of the rate has carried its bits. No counters, no corrections afterwards: it holds for
a single frame on an idle wire as well as for a full one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from controller.frames import FRAME_BITS
from controller.model.outage import FORESIGHT_SECONDS, OUTAGE_BITS_PER_SECOND

OUTAGE_FRAME_SECONDS = FRAME_BITS / OUTAGE_BITS_PER_SECOND
#: Changes before a step are at whole multiples of this from it, so that those of several wires fall together ...
_GRID_SECONDS = 1e-3
#: ... and on one wire not closer than this.
_LEVEL_SECONDS = 2e-3
#: In an outage nothing leaves but what comes to an empty wire.
_OUTAGE_LEVEL_SECONDS = 20e-3
#: A step by which a frame pays less than this too much or too little needs no leading over.
_NEGLIGIBLE_FRAMES = 0.1

#: ``course(i)``: when the i-th rate from now on begins (0: the one in force, from now on; inf: never, as far as is
#: known), and the rate in bit/s, 0 in an outage.
Course = Callable[[int], tuple[float, float]]


def service(course: Course, index: int, at_seconds: float) -> tuple[float, float]:
    """How long a frame takes that leaves at a time, which is in the index-th rate; and the rate at its end."""
    last = at_seconds + FORESIGHT_SECONDS
    begin, left = at_seconds, float(FRAME_BITS)
    while True:
        rate = course(index)[1]
        index += 1
        end = min(course(index)[0], last)
        carried = rate * (end - begin)
        if carried >= left or (end == last and rate > 0):
            return (begin - at_seconds) + left / rate, rate
        if end == last:
            return OUTAGE_FRAME_SECONDS, rate
        left -= carried
        begin = end


def leading_over(course: Course) -> list[tuple[float, float]]:
    """When HTB is told which rate, bit/s, from now on until the first change of the course; the first entry is now.

    Between two changes the time that a frame takes goes (in pieces) linearly from that at one rate to that at the
    next; as many levels as it takes to be right within half a frame, and as far apart as a timer can tell.
    """
    now, rate = course(0)
    step = course(1)[0]
    first, rate_after_first = service(course, 0, now)
    told = [(now, FRAME_BITS / first)]
    window = min(FRAME_BITS / rate if rate > 0 else math.inf, step - now)
    if not math.isfinite(step) or window < _GRID_SECONDS:
        return told
    begin = step - window
    own, rate_after_own = service(course, 0, begin) if begin > now else (first, rate_after_first)
    other, rate_after_other = service(course, 1, step)
    error_frames = abs(own - other) * max(rate_after_own, rate_after_other) / FRAME_BITS
    if error_frames < _NEGLIGIBLE_FRAMES:
        return told
    levels = max(1, min(math.ceil(error_frames), int(window / (_LEVEL_SECONDS if rate else _OUTAGE_LEVEL_SECONDS))))
    for level in range(1, levels + 1):
        before = window * (1 - (level - 0.5) / levels)
        at = step - round(before / _GRID_SECONDS) * _GRID_SECONDS
        if told[-1][0] < at < step:
            seconds, _ = service(course, 0, begin + window * level / levels) if level < levels else (other, 0.0)
            told.append((at, FRAME_BITS / seconds))
    return told

"""A trace: the state of one wire's channel over time, as a step function, and what follows its end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Kind = Literal["gain", "rate", "delay", "loss"]
AtEnd = Literal["loop", "hold", "clear"]

#: Of one trace: 55 hours at the default step. More have been asked for by mistake, and would fill the memory.
MAX_STEPS = 2_000_000
#: A loop that is shorter is heard as its mean: no wire follows it.
SHORTEST_LOOP_SECONDS = 0.01
#: After the end of a trace with ``at_end: clear`` nothing impairs the channel: no loss at all, or a rate that no wire
#: of ours reaches.
CLEAR_STATE: dict[Kind, float] = {"gain": 1.0, "rate": 10e9, "delay": 0.0, "loss": 0.0}


class State(NamedTuple):
    """Channel state: linear power gain, bit/s at the radio's whole spectrum, seconds of delay, or ratio of losses."""

    up: float
    down: float


@dataclass(frozen=True, eq=False)
class Trace:
    """``up[i]`` and ``down[i]`` hold from ``times_seconds[i]`` to the next time; the last until ``duration_seconds``.

    ``times_seconds`` starts at 0 and rises strictly. ``kind`` "gain": linear power gains; "rate": bit/s at layer 2 with
    the radio's whole spectrum; "delay": seconds; "loss": a ratio. Raises ValueError for anything else.

    ``at_end`` of the look-ups: "loop" starts again, "hold" keeps the last value, "clear" ends the impairment
    (:data:`CLEAR_STATE`). Time before 0 has the first value. A trace of one step that loops never steps again.
    """

    times_seconds: Floats
    up: Floats
    down: Floats
    kind: Kind
    duration_seconds: float
    _integrals: tuple[Floats, Floats] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("times_seconds", "up", "down"):
            values = np.array(getattr(self, name), dtype=np.float64)
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        n = self.times_seconds.size
        if n == 0 or self.times_seconds.shape != (n,) or self.up.shape != (n,) or self.down.shape != (n,):
            raise ValueError("a trace needs at least one step, and as many values each way as times")
        if self.times_seconds[0] != 0 or not np.all(np.diff(self.times_seconds) > 0):
            raise ValueError("the times of a trace start at 0 and rise")
        if not (math.isfinite(self.duration_seconds) and self.duration_seconds > self.times_seconds[-1]):
            raise ValueError("the duration of a trace is finite and after its last time")
        for values in (self.up, self.down):
            if not np.all(np.isfinite(values)) or np.any(values < 0):
                raise ValueError("the values of a trace are finite and not negative")
            if self.kind == "loss" and np.any(values > 1):
                raise ValueError("losses are ratios: at most 1")
        widths = np.diff(self.times_seconds, append=self.duration_seconds)
        integrals = tuple(np.concatenate(([0.0], np.cumsum(values * widths))) for values in (self.up, self.down))
        object.__setattr__(self, "_integrals", integrals)

    def __len__(self) -> int:
        return int(self.times_seconds.size)

    # Steps are numbered through all rounds of a loop: step k is entry k % len of round k // len.

    def step_number(self, time_seconds: float, at_end: AtEnd) -> int:
        """Number of the step in force at a time."""
        if at_end == "loop" and len(self) == 1:
            return 0
        rounds, inside = 0, max(time_seconds, 0.0)
        if at_end == "loop":
            rounds = int(inside // self.duration_seconds)
            inside -= rounds * self.duration_seconds
        elif inside >= self.duration_seconds:
            return len(self) - 1 if at_end == "hold" else len(self)
        number = rounds * len(self) + int(np.searchsorted(self.times_seconds, inside, side="right")) - 1
        # rounding in the lines above must not contradict step_time
        while self.step_time(number + 1, at_end) <= time_seconds:
            number += 1
        while number > 0 and self.step_time(number, at_end) > time_seconds:
            number -= 1
        return number

    def step_time(self, number: int, at_end: AtEnd) -> float:
        """When a step starts; inf if it never does."""
        rounds, entry = divmod(number, len(self))
        if rounds == 0:
            return float(self.times_seconds[entry])
        if at_end == "loop" and len(self) > 1:
            return rounds * self.duration_seconds + float(self.times_seconds[entry])
        return self.duration_seconds if at_end == "clear" and number == len(self) else math.inf

    def step_state(self, number: int, at_end: AtEnd) -> State:
        """The state that a step brings."""
        if at_end == "clear" and number >= len(self):
            return State(CLEAR_STATE[self.kind], CLEAR_STATE[self.kind])
        entry = min(number, len(self) - 1) if at_end == "hold" else number % len(self)
        return State(float(self.up[entry]), float(self.down[entry]))

    def value_at(self, time_seconds: float, at_end: AtEnd = "loop") -> State:
        """The state in force at a time."""
        return self.step_state(self.step_number(time_seconds, at_end), at_end)

    def mean(self, start_seconds: float = 0.0, end_seconds: float | None = None, at_end: AtEnd = "loop") -> State:
        """Time-weighted mean over [start, end); the whole trace if no end is given."""
        end = self.duration_seconds if end_seconds is None else end_seconds
        if not 0 <= start_seconds < end:
            raise ValueError(f"a mean needs 0 <= start < end, got {start_seconds} and {end}")
        first, last = self._integral(start_seconds, at_end), self._integral(end, at_end)
        width = end - start_seconds
        return State((last.up - first.up) / width, (last.down - first.down) / width)

    def sampled(self, times_seconds: ArrayLike, at_end: AtEnd = "loop") -> tuple[Floats, Floats]:
        """``value_at`` of many times: (up, down), each of the shape of ``times_seconds``."""
        times = np.asarray(times_seconds, dtype=np.float64)
        states = np.array([self.value_at(float(time), at_end) for time in times.ravel()]).reshape((*times.shape, 2))
        return states[..., 0], states[..., 1]

    def without_repeats(self) -> Trace:
        """The same function of time: neighbouring steps that are equal are one."""
        # nine digits, as in files: bins of equal content differ by rounding of their edges
        new = np.append(True, _differs(self.up) | _differs(self.down))
        if new.all():
            return self
        return Trace(self.times_seconds[new], self.up[new], self.down[new], self.kind, self.duration_seconds)

    def as_played(self, at_end: AtEnd) -> Trace:
        """What a wire is given: a loop under :data:`SHORTEST_LOOP_SECONDS` is its mean."""
        if at_end != "loop" or len(self) == 1 or self.duration_seconds >= SHORTEST_LOOP_SECONDS:
            return self
        up, down = self.mean()
        return Trace(self.times_seconds[:1], np.array([up]), np.array([down]), self.kind, self.duration_seconds)

    def binned(self, width_seconds: float) -> Trace:
        """Means over bins of a width, the last one cut at the end. Raises ValueError for too many of them."""
        if not self.duration_seconds / width_seconds <= MAX_STEPS:
            raise ValueError(f"{self.duration_seconds:g} s in bins of {width_seconds:g} s are more than {MAX_STEPS}")
        starts = np.arange(0.0, self.duration_seconds - 1e-9, width_seconds)
        edges = np.append(starts, self.duration_seconds)
        knots = np.append(self.times_seconds, self.duration_seconds)
        up, down = (np.diff(np.interp(edges, knots, each)) / np.diff(edges) for each in self._integrals)
        return Trace(starts, np.maximum(up, 0.0), np.maximum(down, 0.0), self.kind, self.duration_seconds)

    def _integral(self, time_seconds: float, at_end: AtEnd) -> State:
        """Of each direction from 0 to a time."""
        number = self.step_number(time_seconds, at_end)
        state = self.step_state(number, at_end)
        inside = time_seconds - self.step_time(number, at_end)
        rounds, entry = divmod(number, len(self))
        up, down = self._integrals
        return State(
            float(rounds * up[-1] + up[entry] + state.up * inside),
            float(rounds * down[-1] + down[entry] + state.down * inside),
        )


def _differs(values: Floats) -> NDArray[np.bool_]:
    """Whether each value is another than the one before, shape (n - 1,)."""
    return np.asarray(np.abs(np.diff(values)) > 1e-9 * values[1:])

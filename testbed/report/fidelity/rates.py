"""The applied rate of a link as a function of time, and its integral."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from testbed.records.tables import column


class AppliedRate:
    """Piecewise constant: each value holds from when the kernel acknowledged it until the next one.

    Before the first step the first value holds, after the last one the last.
    """

    def __init__(self, times_seconds: ArrayLike, bits_per_second: ArrayLike) -> None:
        order = np.argsort(np.asarray(times_seconds, dtype=np.float64), kind="stable")
        self.times = np.asarray(times_seconds, dtype=np.float64)[order]
        self.rates = np.asarray(bits_per_second, dtype=np.float64)[order]
        if not len(self.times):
            raise ValueError("a rate needs at least one step")
        self._bits = np.concatenate([[0.0], np.cumsum(self.rates[:-1] * np.diff(self.times))])

    def bits_until(self, seconds: ArrayLike) -> NDArray[np.float64]:
        """Integral from the first step to ``seconds`` (negative before it), in bits."""
        at = np.asarray(seconds, dtype=np.float64)
        step = np.clip(np.searchsorted(self.times, at, side="right") - 1, 0, None)
        result: NDArray[np.float64] = self._bits[step] + self.rates[step] * (at - self.times[step])
        return result

    def bits_between(self, start_seconds: ArrayLike, end_seconds: ArrayLike) -> NDArray[np.float64]:
        return self.bits_until(end_seconds) - self.bits_until(start_seconds)

    def time_of(self, bits: ArrayLike) -> NDArray[np.float64]:
        """Inverse of :meth:`bits_until`; inf where a final rate of 0 never gets there."""
        goal = np.asarray(bits, dtype=np.float64)
        step = np.clip(np.searchsorted(self._bits, goal, side="left") - 1, 0, len(self.times) - 1)
        rate = self.rates[step]
        with np.errstate(divide="ignore", invalid="ignore"):
            beyond = np.where(goal == self._bits[step], 0.0, (goal - self._bits[step]) / rate)
        result: NDArray[np.float64] = self.times[step] + beyond
        return result


def applied_rates(links: pa.Table, direction: str) -> dict[str, AppliedRate]:
    """The applied rate of every UE's link in one direction ("up" or "down")."""
    ues, directions = column(links, "ue"), column(links, "direction")
    times, values = column(links, "applied_seconds"), column(links, "applied_bits_per_second")
    return {
        ue: AppliedRate(times[mine], values[mine])
        for ue in sorted(set(ues))
        if (mine := (ues == ue) & (directions == direction)).any()
    }

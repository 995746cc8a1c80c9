"""How long transfers take on sampled paths of a channel, by the rule of the simulator's links, outages included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.compiled import compiled
from controller.model.carried import transmit
from controller.model.outage import FORESIGHT_SECONDS

FloatArray = NDArray[np.float64]

#: More than a link sends in a step.
_ENDLESS_BITS = 1e12


@compiled
def _sent(quality, linear, spectrum, floor, step_seconds, foresight):  # type: ignore[no-untyped-def]
    """Bits that a link that always has some to send has sent by the end of each step: (paths, steps + 1) from 0 on."""
    steps, paths = quality.shape
    sent = np.zeros((paths, steps + 1))
    for path in range(paths):
        for step in range(steps):
            _, left, _ = transmit(
                step * step_seconds, (step + 1) * step_seconds, _ENDLESS_BITS, np.nan, quality, 1.0, path, linear,
                spectrum, np.inf, floor, step_seconds, foresight,
            )  # fmt: skip
            sent[path, step + 1] = sent[path, step] + _ENDLESS_BITS - left
    return sent


@compiled
def _durations(sent, step_seconds, starts, bits):  # type: ignore[no-untyped-def]
    paths, steps = sent.shape[0], sent.shape[1] - 1
    seconds = np.empty(paths)
    for path in range(paths):
        row = sent[path]
        start = starts[path] / step_seconds
        laps = int(start) // steps
        step = int(start) % steps
        before = row[step] + (start - int(start)) * (row[step + 1] - row[step])
        until = before + bits
        more = int(until / row[steps])
        rest = until - more * row[steps]
        end = min(max(np.searchsorted(row, rest), 1), steps)
        part = (rest - row[end - 1]) / max(row[end] - row[end - 1], 1e-300)
        seconds[path] = ((laps + more) * steps + end - 1 + part - start) * step_seconds
    return seconds


@dataclass(frozen=True)
class Transfers:
    """A link over sampled paths. Behind its last step a path begins again."""

    sent_bits: FloatArray  # (paths, steps + 1)
    step_seconds: float

    @classmethod
    def over(
        cls, quality: FloatArray, step_seconds: float, floor: float, *, linear: bool, spectrum: float
    ) -> Transfers:
        """``quality``, (steps, paths), is that of :class:`controller.solvers.allocation.chain.ChainTables`; ``floor``
        in bit/s."""
        return cls(_sent(quality, linear, spectrum, floor, step_seconds, FORESIGHT_SECONDS), step_seconds)

    def seconds(self, starts_seconds: FloatArray, bits: float) -> FloatArray:
        """Duration of a transfer on each path, (paths,), that begins ``starts_seconds`` after the path."""
        if bits <= 0:
            return np.zeros(self.sent_bits.shape[0])
        return np.asarray(_durations(self.sent_bits, self.step_seconds, starts_seconds, bits))

"""A head that may stop after any of its split points, decided there and then by the channel that the UE sees.

The head runs as segments between split points, each of which ends at its share of the head's target time; just before
that the UE looks at its channel, so that it sees what it would see on the device that is emulated. What comes out is,
bit for bit, what the head of the cut that it stopped at gives, and takes as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from controller.contract import ALL_ON_EDGE, Cut, UeDecision, cut_from_label
from testbed.node.backend import CpuBackend
from testbed.node.sight import Sight

#: A UE looks this long before the end of a segment. The answer takes 0.2-1 ms, and up to 10 ms on a busy host; asked at
#: the end, that came out of the time of the encoding that follows, and 4 % of the heads ended late.
LOOK_AHEAD_SECONDS = 10e-3


@dataclass(frozen=True)
class Stopped:
    """Where a head stopped, with the tensors of that cut."""

    cut: Cut
    values: tuple[Tensor, ...]
    compute_seconds: float  # real, without waiting


class OnlineHead:
    """Used by the stage thread, but for :meth:`prepare`. ``wait_until`` sleeps to a CLOCK_MONOTONIC time."""

    def __init__(self, backend: CpuBackend, sight: Sight, wait_until: Callable[[float], None]) -> None:
        self._backend = backend
        self._sight = sight
        self._wait_until = wait_until

    @property
    def blind(self) -> int:
        """Looks that were not answered in time: the task went on to its next point."""
        return self._sight.blind

    def prepare(self, own: UeDecision) -> None:
        """Build the segments of a decision now (3-30 ms each). Raises ValueError for a rule that is no chain."""
        known = self._backend.profile.chain_cuts
        cuts = [cut_from_label(label) for label, _ in own.stop_rule]
        columns = [known.index(cut) for cut in (*cuts, own.cut) if cut in known]
        if len(columns) != len(cuts) + 1 or columns != sorted(set(columns)):
            raise ValueError(f"stop_rule {own.stop_rule} is not in chain order before cut {own.cut}")
        at = ALL_ON_EDGE
        for cut in (*cuts, own.cut):
            if cut != at:
                self._backend.split.segment(at, cut)
            at = cut

    def run(self, task: int, own: UeDecision, image: Tensor, start_seconds: float) -> Stopped:
        """Run until a gate of ``own.stop_rule`` opens, or to ``own.cut``. ``start_seconds``: when the head started.

        At the last cut it does not wait: the caller ends the stage.
        """
        profile = self._backend.profile
        at, spent = ALL_ON_EDGE, 0.0
        values: tuple[Tensor, ...] = (image,)
        for label, gate in own.stop_rule:
            cut = cut_from_label(label)
            values, seconds = self._advance(at, cut, values)
            at, spent = cut, spent + seconds
            column = profile.chain_index(cut)
            self._wait_until(start_seconds + profile.head_seconds[column] / own.device_speed - LOOK_AHEAD_SECONDS)
            state = self._sight.look(task, column)
            if state is not None and state >= gate:
                return Stopped(cut, values, spent)
        values, seconds = self._advance(at, own.cut, values)
        return Stopped(own.cut, values, spent + seconds)

    def close(self) -> None:
        """After the stage thread has ended."""
        self._sight.close()

    def _advance(self, first: Cut, last: Cut, values: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], float]:
        if first == last:
            return values, 0.0
        began = time.monotonic()
        with torch.inference_mode():
            result = self._backend.split.segment(first, last)(*values)
        return result, time.monotonic() - began

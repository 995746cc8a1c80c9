"""A head that may stop after any of its split points, decided there and then by the channel that the UE sees.

The head runs as segments between split points, each of which ends at its share of the head's target time; just before
that the UE looks at its channel, so that it sees what it would see on the device that is emulated. What comes out is,
bit for bit, what the head of the cut that it stopped at gives, and takes as long.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from controller.contract import ALL_ON_EDGE, Cut, UeDecision, cut_from_label
from controller.service import protocol
from testbed.node.ledger import Task
from testbed.node.sight import Tuner
from testbed.node.transport import RateEstimate
from testbed.node.ue_node import Stopped, UeNode, UePart

#: A UE looks this long before the end of a segment. The answer takes 0.2-1 ms, and up to 10 ms on a busy host; asked at
#: the end, that came out of the time of the encoding that follows, and 4 % of the heads ended late.
LOOK_AHEAD_SECONDS = 10e-3


class Stopping(UePart):
    """Computes the heads of decisions with a ``stop_rule``."""

    name = "stopping"

    def __init__(self, node: UeNode) -> None:
        self._backend = node.backend
        self._sight = node.sight()

    def check(self, own: UeDecision) -> None:
        """Build the segments of a decision now (3-30 ms each). Raises ValueError for a rule that is no chain."""
        if not own.stop_rule:
            return
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

    def head(self, task: Task, own: UeDecision, image: Tensor, wait_until: Callable[[float], None]) -> Stopped | None:
        """Run until a gate of ``own.stop_rule`` opens, or to ``own.cut``, where the caller ends the stage."""
        if not own.stop_rule:
            return None
        profile = self._backend.profile
        at, spent = ALL_ON_EDGE, 0.0
        values: tuple[Tensor, ...] = (image,)
        for label, gate in own.stop_rule:
            cut = cut_from_label(label)
            values, seconds = self._advance(at, cut, values)
            at, spent = cut, spent + seconds
            column = profile.chain_index(cut)
            end = task.head_start_seconds + profile.head_seconds[column] / own.device_speed
            wait_until(end - LOOK_AHEAD_SECONDS)
            state = self._sight.look(task.number, column)
            if state is not None and state >= gate:
                return Stopped(cut, values, spent)
        values, seconds = self._advance(at, own.cut, values)
        return Stopped(own.cut, values, spent + seconds)

    def report(self) -> protocol.StoppingReport:
        return protocol.StoppingReport(self._sight.blind)

    def close(self) -> None:
        self._sight.close()

    def _advance(self, first: Cut, last: Cut, values: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], float]:
        if first == last:
            return values, 0.0
        began = time.monotonic()
        with torch.inference_mode():
            result = self._backend.split.segment(first, last)(*values)
        return result, time.monotonic() - began


class TunedRate(UePart):
    """Where each task has a channel of its own: it is sent once the wire has its gain, at the rate of that."""

    def __init__(self, node: UeNode, rate: RateEstimate) -> None:
        self._tuner = Tuner(node.sight())
        self._chain = node.backend.profile.chain_cuts
        self._rate = rate
        self.sockets = (self._tuner.socket,)

    def turn(self, now_seconds: float) -> None:
        self._tuner.collect()

    def admit(self, task: Task, wire_is_free: bool) -> bool:
        """Whether the wire has the gain of the task that is to be sent next."""
        column = self._chain.index(task.cut) if task.cut in self._chain else -1
        rate = self._tuner.admit(task.number, column, wire_is_free)
        if rate is None:
            return False
        self._rate.command(rate)
        return True

    def close(self) -> None:
        self._tuner.close()

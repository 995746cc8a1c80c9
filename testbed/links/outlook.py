"""What the channels of all links will be, and so their rates: as far ahead as anybody looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from controller.model.radio import LinkRates
from testbed.traces.trace import AtEnd, State, Trace

#: Rates of all links from the channel states of those that differ from what is in force.
RatesOf = Callable[[Mapping[str, State]], Mapping[str, LinkRates]]


class Channel(NamedTuple):
    """A link's channel trace, and which of its steps is the next."""

    ue: str
    trace: Trace
    at_end: AtEnd
    next_step: int


class Outlook:
    """Epochs: times between two steps of any channel. Epoch 0 is now; later ones are worked out when asked for."""

    def __init__(self, channels: Sequence[Channel], origin_seconds: float, rates_of: RatesOf) -> None:
        self._channels = list(channels)
        self._origin_seconds = origin_seconds
        self._rates_of = rates_of
        self._states: dict[str, State] = {}
        self._epochs: list[tuple[float, Mapping[str, LinkRates]]] = [(-math.inf, rates_of({}))]

    def __call__(self, index: int) -> tuple[float, Mapping[str, LinkRates]]:
        """When an epoch begins (inf: never) and the rates of all links in it."""
        while index >= len(self._epochs):
            self._look_further()
        return self._epochs[index]

    def index_at(self, time_seconds: float) -> int:
        """Of the epoch that a time is in."""
        index = 0
        while self(index + 1)[0] <= time_seconds:
            index += 1
        return index

    def forget(self, count: int) -> None:
        """The first epochs are over."""
        del self._epochs[:count]

    def _look_further(self) -> None:
        due = [self._origin_seconds + each.trace.step_time(each.next_step, each.at_end) for each in self._channels]
        begin = min(due, default=math.inf)
        if math.isinf(begin):
            self._epochs.append((begin, self._epochs[-1][1]))
            return
        for position, (each, time) in enumerate(zip(self._channels, due, strict=True)):
            if time == begin:
                self._states[each.ue] = each.trace.step_state(each.next_step, each.at_end)
                self._channels[position] = each._replace(next_step=each.next_step + 1)
        self._epochs.append((begin, self._rates_of(self._states)))

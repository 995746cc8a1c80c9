"""What the channels of all links will be, and so their rates: as far ahead as anybody looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from controller.model.radio import LinkRates
from testbed.traces.trace import AtEnd, State, Trace

#: Rates of a UE's link, or of all at once, from the channel states of all links.
RatesOf = Callable[[Mapping[str, State], str], Mapping[str, LinkRates]]


class Channel(NamedTuple):
    """A link's channel trace, which of its steps is the next, and the state that is in force until then."""

    ue: str
    trace: Trace
    at_end: AtEnd
    next_step: int
    state: State


@dataclass
class _Epoch:
    begin_seconds: float
    states: Mapping[str, State]
    rates: dict[str, LinkRates] = field(default_factory=dict)  # of those that were asked for


class Outlook:
    """Epochs: times between two steps of any channel. Epoch 0 is now; later ones are worked out when asked for.

    Rates, too: a decision changes all of them, and of most nobody wants to know what they are in seconds from now.
    """

    def __init__(self, channels: Sequence[Channel], origin_seconds: float, rates_of: RatesOf) -> None:
        self._channels = list(channels)
        self._origin_seconds = origin_seconds
        self._rates_of = rates_of
        self._epochs = [_Epoch(-math.inf, {each.ue: each.state for each in channels})]

    def begin_seconds(self, index: int) -> float:
        """When an epoch begins; inf: never."""
        return self._epoch(index).begin_seconds

    def rates(self, index: int, ue: str) -> LinkRates:
        """Of a UE's link in an epoch."""
        epoch = self._epoch(index)
        if ue not in epoch.rates:
            epoch.rates.update(self._rates_of(epoch.states, ue))
        return epoch.rates[ue]

    def index_at(self, time_seconds: float) -> int:
        """Of the epoch that a time is in."""
        index = 0
        while self.begin_seconds(index + 1) <= time_seconds:
            index += 1
        return index

    def forget(self, count: int) -> None:
        """The first epochs are over."""
        del self._epochs[:count]

    def reconsider(self) -> None:
        """The same states have other rates from now on."""
        for epoch in self._epochs:
            epoch.rates.clear()

    def _epoch(self, index: int) -> _Epoch:
        while index >= len(self._epochs):
            self._epochs.append(self._following())
        return self._epochs[index]

    def _following(self) -> _Epoch:
        states = self._epochs[-1].states
        due = [self._origin_seconds + each.trace.step_time(each.next_step, each.at_end) for each in self._channels]
        begin = min(due, default=math.inf)
        if math.isinf(begin):
            return _Epoch(begin, states)
        changed: dict[str, State] = {}
        for position, (each, time) in enumerate(zip(self._channels, due, strict=True)):
            if time == begin:
                changed[each.ue] = each.trace.step_state(each.next_step, each.at_end)
                self._channels[position] = each._replace(next_step=each.next_step + 1, state=changed[each.ue])
        return _Epoch(begin, {**states, **changed})

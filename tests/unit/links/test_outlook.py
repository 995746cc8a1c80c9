"""The rates to come, of links whose traces step at times of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from controller.model.radio import LinkRates
from testbed.programs.player.outlook import Channel, Outlook
from testbed.traces import AtEnd, State, Trace

IN_FORCE = State(0.0, 0.0)


def rates_of(states: Mapping[str, State], ue: str) -> dict[str, LinkRates]:
    """As if a rate were its state."""
    return {ue: LinkRates(states[ue].up, states[ue].down)}


def channel(ue: str, step: float, values: list[float], at_end: AtEnd = "hold", next_step: int = 0) -> Channel:
    times = step * np.arange(len(values), dtype=np.float64)
    trace = Trace(times, np.array(values), np.array(values), "rate", step * len(values))
    return Channel(ue, trace, at_end, next_step, IN_FORCE)


def seen(outlook: Outlook, count: int, *ues: str) -> list[tuple[float, ...]]:
    """When each epoch begins, and the rates of UEs in it."""
    return [
        (outlook.begin_seconds(index), *(outlook.rates(index, ue).up_bits_per_second for ue in ues))
        for index in range(count)
    ]


def test_epochs_are_those_of_all_traces_and_end_with_them() -> None:
    outlook = Outlook([channel("a", 1.0, [1, 2]), channel("b", 0.75, [5, 6, 7])], 100.0, rates_of)
    assert seen(outlook, 7, "a", "b") == [
        (-math.inf, 0, 0),
        (100.0, 1, 5),
        (100.75, 1, 6),
        (101.0, 2, 6),
        (101.5, 2, 7),
        (math.inf, 2, 7),
        (math.inf, 2, 7),
    ]


def test_what_is_over_is_forgotten_and_the_rest_stays() -> None:
    outlook = Outlook([channel("a", 1.0, [1, 2], "loop"), channel("b", 1.0, [5])], 0.0, rates_of)
    assert outlook.index_at(1.5) == 2
    outlook.forget(2)
    assert seen(outlook, 2, "a", "b") == [(1.0, 2, 5), (2.0, 1, 5)]
    assert outlook.index_at(1.999) == 0


def test_a_trace_under_way_goes_on_from_its_next_step() -> None:
    outlook = Outlook([channel("a", 1.0, [1, 2, 3], "clear", next_step=2)], 10.0, rates_of)
    assert seen(outlook, 4, "a") == [(-math.inf, 0), (12.0, 3), (13.0, 10e9), (math.inf, 10e9)]


def test_before_the_start_nothing_is_to_come() -> None:
    outlook = Outlook([channel("a", 1.0, [1, 2])], math.inf, rates_of)
    assert outlook.begin_seconds(1) == math.inf
    assert outlook.index_at(1e9) == 0


def test_a_decision_gives_the_same_states_other_rates() -> None:
    factor = 1.0

    def decided(states: Mapping[str, State], ue: str) -> dict[str, LinkRates]:
        return {ue: LinkRates(factor * states[ue].up, factor * states[ue].down)}

    outlook = Outlook([channel("a", 1.0, [1, 2])], 0.0, decided)
    assert seen(outlook, 3, "a") == [(-math.inf, 0), (0.0, 1), (1.0, 2)]
    factor = 3.0
    assert outlook.rates(2, "a").up_bits_per_second == 2
    outlook.reconsider()
    assert seen(outlook, 3, "a") == [(-math.inf, 0), (0.0, 3), (1.0, 6)]

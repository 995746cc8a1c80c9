"""Dead links, idle users and loads that nothing can carry: costs are finite or inf, never NaN."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.policies.examples import example_scenario
from controller.solvers.allocation.chain import ChainTables, SlotState
from controller.solvers.allocation.cuts import coordinate_descent, project
from controller.solvers.allocation.evaluation import equal_shares, evaluate
from controller.solvers.allocation.newton import device_speed
from controller.solvers.allocation.problem import Allocation, AllocationModel, Demands, Limits, UeConstants
from controller.solvers.allocation.shares import allocate
from controller.solvers.dag.envelope import Line
from controller.solvers.dag.game import Device, Market, Signal, best_response, settle

UES = 3
NUMBERS = st.sampled_from([0.0, 1e-12, 1.0, 1e3, 1e12])


def rows(values: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    return st.lists(values, min_size=UES, max_size=UES).map(lambda found: np.array([found]))


@st.composite
def slots(draw: st.DrawFn) -> tuple[Demands, UeConstants]:
    local = draw(rows(st.booleans()))
    work = draw(rows(st.sampled_from([1e-6, 0.05, 1e3])))
    bits = draw(rows(st.sampled_from([1.0, 1e5, 1e12])))
    demands = Demands(
        arrival_rate_per_second=draw(rows(st.sampled_from([0.0, 1e-9, 1.0, 1e6]))),
        weight=draw(rows(st.sampled_from([0.0, 1.0]))),
        head_seconds=np.where(draw(rows(st.booleans())), work, 0.0),
        wire_bits=np.where(local, 0.0, bits),
        tail_seconds=np.where(local, 0.0, work),
        link_quality=draw(rows(NUMBERS)),
        queue_joules=draw(rows(NUMBERS)),
        constant_seconds=np.zeros((1, UES)),
        download_seconds=np.where(local, 0.0, draw(rows(st.sampled_from([0.0, 1e-3, 1e6])))),
    )
    linear = draw(rows(st.booleans()))[0]
    one = np.ones(UES)
    variability = draw(rows(st.sampled_from([0.01, 1.0])))[0]
    return demands, UeConstants(0.5 * one, 10 * one, 0.3 * one, one, linear, variability, np.zeros(UES, dtype=np.int64))


def is_sound(found: Allocation) -> bool:
    return not any(np.isnan(field).any() for field in found) and bool(np.isfinite(found.device_speed).all())


@pytest.mark.parametrize("model", ["indep", "exact"])
@given(slot=slots())
@settings(deadline=None, max_examples=60)
def test_allocations(model: AllocationModel, slot: tuple[Demands, UeConstants]) -> None:
    demands, constants = slot
    limits = Limits(1e6, 1.0, 2.0, 0.3)
    found = allocate(demands, constants, limits, model)
    assert is_sound(found)
    spectrum, edge = equal_shares(demands, constants, limits)
    assert is_sound(evaluate(found._replace(spectrum_hz=spectrum, edge_share=edge), demands, constants, limits, model))


@given(rows(st.sampled_from([0.0, 1.0, 1e6])), rows(st.sampled_from([0.0, 1e-20, 1e8, 1e20])), rows(NUMBERS))
@settings(deadline=None, max_examples=40)
def test_cuts(rate: np.ndarray, quality: np.ndarray, queue: np.ndarray) -> None:
    tables = ChainTables.of(example_scenario(UES))
    state = SlotState(rate[0], quality[0], quality[0], queue[0])
    cuts = project(tables, tables.local[np.newaxis], state)
    assert ((cuts >= 0) & (cuts < tables.counts)).all()
    _, cost = coordinate_descent(tables, tables.local[np.newaxis], state, tables.limits(0.3))
    assert not np.isnan(cost).any()


@given(
    st.sampled_from(["linear", "barrier", "proportional"]),
    st.lists(
        st.tuples(NUMBERS, st.sampled_from([1e-9, 1.0, 1e9]), st.sampled_from([0.0, 1e-3, 1e6])),
        min_size=1,
        max_size=4,
    ),
)
@settings(deadline=None, max_examples=60)
def test_markets(form: str, numbers: list[tuple[float, float, float]]) -> None:
    devices = [
        Device((Line(("input",), constant, work),), local, 1.0) for constant, work, local in numbers
    ]  # fmt: skip
    market = Market(1.0, 0.002, 0.02, form)  # type: ignore[arg-type]

    def ask(device: int, signal: Signal) -> float:
        answer = best_response(devices[device], signal)
        assert not np.isnan(answer.cost)
        return answer.demand

    found = settle(market, len(devices), ask, list(range(len(devices))), None, lambda: True)
    assert np.isfinite(found.demands).all()
    assert np.isfinite(found.base)


@pytest.mark.parametrize("variability", [0.01, 1.0])
@pytest.mark.parametrize("queue", [1e12, 1e40, 1e100])
def test_a_queue_without_end_leaves_a_speed(queue: float, variability: float) -> None:
    speed = device_speed(0.5, 0.05, 0.5, 10.0, 2.0, queue, 1e-12, variability)
    assert 0.5 * 0.05 <= speed <= 0.5

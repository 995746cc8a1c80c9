"""The event simulator against queueing theory: M/D/1 at the device, and behind it a queue that never waits or does."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from controller.contract import Arrivals, Scenario
from controller.policies.examples import example_scenario
from controller.policies.static import Fixed
from controller.simulator.channels import ChannelStates
from controller.simulator.simulate import simulate

TASKS = 40_000
RATE = 2.0


def lab(head_load: float, rate_bits_per_second: float = 1e9) -> Scenario:
    """One UE whose whole model takes ``head_load`` of the time between two tasks."""
    scenario = example_scenario(1, slot_seconds=TASKS / RATE / 10)
    ue = scenario.ues[0]
    ue = msgspec.structs.replace(
        ue,
        arrivals=Arrivals("poisson", (RATE,)),
        max_speed=ue.profile.head_seconds[-1] * RATE / head_load,
        channel_kind="rate",
        mean_gain=rate_bits_per_second,
    )
    return msgspec.structs.replace(scenario, ues=(ue,))


def stages(scenario: Scenario, cut: str) -> np.ndarray:
    """(tasks, 7) of a run of ten long slots."""
    states = np.full((1, 1), scenario.ues[0].mean_gain)
    result = simulate(scenario, Fixed(cut), 10, 11, channel=ChannelStates(1e6, states, states.copy()))
    assert result.tasks is not None
    return np.diff(result.tasks.stamps[result.completed()], axis=1)


@pytest.mark.parametrize("load", [0.2, 0.5, 0.8])
def test_a_local_task_waits_as_pollaczek_and_khinchine_say(load: float) -> None:
    waits = stages(lab(load), "local")[:, 0]
    service = load / RATE
    assert waits.mean() == pytest.approx(load * service / (2 * (1 - load)), rel=0.08)
    assert (waits == 0).mean() == pytest.approx(1 - load, abs=0.02)  # a Poisson arrival sees the time average
    # Erlang's distribution function of the wait in M/D/1, within one service: P(W <= t) = (1 - load) exp(rate t)
    for part in (0.3, 0.9):
        expected = (1 - load) * np.exp(RATE * part * service)
        assert (waits <= part * service).mean() == pytest.approx(expected, abs=0.02)


def test_the_raw_input_waits_for_the_wire_as_an_md1_queue_and_not_behind_a_slower_stage() -> None:
    scenario = lab(0.3)
    payload = scenario.ues[0].profile.boundary_bytes(("input",), scenario.ues[0].input_codec)
    bits = 8 * scenario.framing_ratio * (payload + scenario.header_bytes)
    load = 0.6
    slow = lab(0.3, rate_bits_per_second=bits * RATE / load)
    sent = stages(slow, "input")
    service = load / RATE
    assert sent[:, 2].mean() == pytest.approx(load * service / (2 * (1 - load)), rel=0.08)
    assert np.all(sent[:, 0] == 0)  # the device has nothing to compute
    tail = slow.ues[0].profile.tail_seconds[0] / slow.edge.cpus
    assert tail < service
    # departures of a deterministic server are never nearer than its service: a faster one behind it is always free
    assert np.all(sent[:, 4] < 1e-9)

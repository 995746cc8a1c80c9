"""What becomes of a frame that finds its device busy: hand-made cases, and nothing is lost."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from controller.contract import Arrivals, Scenario
from controller.contract.scenario import OnBusy
from controller.policies.examples import example_scenario
from controller.policies.static import DeviceOnly, Fixed
from controller.simulator.simulate import SimulationResult, simulate

#: A head of example_scenario's on the device alone, at full speed, is a bit longer than this.
EVERY_SECONDS = 0.02


def scenario(on_busy: OnBusy, ues: int = 1) -> Scenario:
    found = example_scenario(ues, slot_seconds=0.25)
    arrivals = Arrivals("file", (1 / EVERY_SECONDS,), on_busy=on_busy)
    return msgspec.structs.replace(found, ues=tuple(msgspec.structs.replace(ue, arrivals=arrivals) for ue in found.ues))


def run(on_busy: OnBusy, times: list[float], slots: int = 8) -> SimulationResult:
    return simulate(scenario(on_busy), DeviceOnly(), slots, 1, arrival_files={"ue0": times}, drain_seconds=60.0)


def head_seconds() -> float:
    result = run("queue", [0.0])
    assert result.tasks is not None
    return float(result.tasks.stamps[0, 2])


@pytest.mark.parametrize(
    ("on_busy", "served", "dropped_at"),
    [
        ("queue", {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}, {}),
        ("drop", {0: 0.0, 3: 1.5}, {1: 0.2, 2: 0.6}),
        ("latest", {0: 0.0, 2: 1.0, 3: 2.0}, {1: 0.6}),
    ],
)
def test_by_hand(on_busy: OnBusy, served: dict[int, float], dropped_at: dict[int, float]) -> None:
    """Times in heads of a task: they arrive at 0, 0.2, 0.6 and 1.5."""
    head = head_seconds()
    assert head > EVERY_SECONDS
    result = run(on_busy, [0.0, 0.2 * head, 0.6 * head, 1.5 * head])
    tasks = result.tasks
    assert tasks is not None
    assert tasks.dropped_seconds is not None
    for number in range(4):
        start, dropped = tasks.stamps[number, 1], tasks.dropped_seconds[number]
        if number in served:
            assert start == pytest.approx(served[number] * head)
            assert np.isnan(dropped)
        else:
            assert dropped == pytest.approx(dropped_at[number] * head)
            assert np.isnan(start)
    summary = result.summary()["tasks"]
    assert summary == {"arrived": 4, "completed": len(served), "failed": 0, "in_flight": 0, "dropped": len(dropped_at)}


@pytest.mark.parametrize("on_busy", ["drop", "latest"])
def test_every_task_has_one_end_and_no_queue_is_longer_than_the_rule_lets_it_be(on_busy: OnBusy) -> None:
    rng = np.random.default_rng(3)
    times = np.sort(rng.uniform(0.0, 2.0, 300)).tolist()
    lab = scenario(on_busy)
    cut = lab.ues[0].profile.chain_cuts[2][0]
    result = simulate(lab, Fixed(cut), 8, 1, arrival_files={"ue0": times}, drain_seconds=60.0)
    tasks = result.tasks
    assert tasks is not None
    ends = np.stack([result.completed(), result.failed(), result.dropped()])
    assert (ends.sum(axis=0) == 1).all()
    assert 0 < result.dropped().sum() < 300
    taken = ~result.dropped()
    waits = tasks.stamps[taken, 1] - tasks.stamps[taken, 0]
    longest_head = float((tasks.stamps[taken, 2] - tasks.stamps[taken, 1]).max())
    assert waits.max() == 0.0 if on_busy == "drop" else 0.0 < waits.max() <= longest_head
    assert (np.diff(tasks.stamps[taken, 1]) > 0).all()


def test_what_is_not_followed_task_by_task_is_refused() -> None:
    with pytest.raises(ValueError, match="task by task"):
        simulate(scenario("drop"), DeviceOnly(), 2, 1, "slot")

"""Models that move in the simulator, against what can be worked out by hand of the lab's rules."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from controller.contract import Decision, Observation, Scenario
from controller.model.cuts import device_set
from controller.model.delay import wire_bits
from controller.policies.base import BasicPolicy
from controller.policies.examples import example_scenario
from controller.simulator.channels import ChannelStates
from controller.simulator.result import SimulationResult
from controller.simulator.simulate import simulate

DOWNLINK_BITS_PER_SECOND = 4e6
INTERVAL = 5.0


class Cuts(BasicPolicy):
    """The deep cut until a slot, another from then on; remembers what it saw."""

    def __init__(self, first: str, then: str, change: int) -> None:
        self.cuts = (() if first == "local" else (first,), () if then == "local" else (then,))
        self.change = change

    def reset(self, scenario: Scenario, seed: int) -> None:
        super().reset(scenario, seed)
        self.seen: list[tuple[int, int]] = []

    def decide(self, observation: Observation) -> Decision:
        ue = observation.ues[0]
        self.seen.append((ue.model_version, ue.placed_nodes))
        return self.with_cuts(observation, [self.cuts[observation.slot >= self.change]])


def lab(**fields: object) -> Scenario:
    """One UE whose downlink carries 4 Mbit/s."""
    scenario = example_scenario(1, slot_seconds=1.0)
    changes = {"channel_kind": "rate", "mean_gain": DOWNLINK_BITS_PER_SECOND, "receive_watts": 0.2, **fields}
    ue = msgspec.structs.replace(scenario.ues[0], **changes)  # type: ignore[arg-type]
    return msgspec.structs.replace(scenario, ues=(ue,), retraining_interval_seconds=INTERVAL)


def walked(policy: Cuts, slots: int = 24, **fields: object) -> SimulationResult:
    scenario = lab(**fields)
    states = np.full((1, 1), DOWNLINK_BITS_PER_SECOND)
    return simulate(scenario, policy, slots, 3, channel=ChannelStates(1.0, states, states.copy()))


def bytes_up_to(scenario: Scenario, label: str) -> int:
    nodes = scenario.ues[0].profile.nodes
    inside = device_set(nodes, () if label == "local" else (label,))
    return sum(node.parameter_bytes for node in nodes if node.name in inside)


def test_every_version_is_fetched_over_the_downlink_and_is_in_force_with_the_next_head() -> None:
    result = walked(Cuts("block2_add", "block2_add", 0))
    ue = result.scenario.ues[0]
    size = bytes_up_to(result.scenario, "block2_add")
    seconds = 8 * result.scenario.framing_ratio * size / DOWNLINK_BITS_PER_SECOND
    delay = ue.uplink_delay_seconds + ue.downlink_delay_seconds
    assert [move.version for move in result.updates] == [1, 2, 3, 4]
    assert result.tasks is not None
    starts, versions = result.tasks.stamps[:, 1], result.tasks.model_version
    assert versions is not None
    pieces = min(1.0, 20e-3 / (delay + 10e-3))
    answer = float(wire_bits(result.scenario, ue.profile.result_bytes)) / DOWNLINK_BITS_PER_SECOND
    for move in result.updates:
        assert move.payload_bytes == size
        assert move.started_seconds == pytest.approx(move.version * INTERVAL + delay)
        took = move.received_seconds - move.started_seconds
        tails = result.tasks.stamps[:, 6]
        answers = np.count_nonzero((tails >= move.started_seconds) & (tails < move.received_seconds)) * answer
        assert took == pytest.approx(seconds / pieces + answers / pieces, abs=answer)
        assert move.receive_joules == pytest.approx(0.2 * took)
        first = min(starts[starts >= move.received_seconds], default=math.nan)
        assert move.status == "placed"
        assert move.swapped_seconds == pytest.approx(first, nan_ok=True)
    whole = np.array([move.received_seconds for move in result.updates])
    np.testing.assert_array_equal(versions, np.searchsorted(whole, starts, side="right"))


def test_no_task_is_cut_deeper_than_what_its_device_holds() -> None:
    policy = Cuts("block1", "local", 8)
    result = walked(policy)
    assert result.tasks is not None
    starts, cuts = result.tasks.stamps[:, 1], np.array(result.cut_labels)[result.tasks.cut]
    held = [move for move in result.updates if move.cut == "local"]
    (first, *_) = held
    # version 1 came with block1 only; all layers are fetched from slot 8 on, and used from the slot after they came
    assert first.started_seconds == pytest.approx(8.0, abs=0.1)
    used = math.ceil(first.received_seconds)
    assert set(cuts[(starts >= 8.0) & (starts < used)]) == {"block1"}
    assert set(cuts[starts >= used]) == {"local"}
    versions = [version for version, _ in policy.seen]
    assert versions == sorted(versions)
    nodes = len(result.scenario.ues[0].profile.nodes)
    assert policy.seen[0] == (0, nodes)
    assert policy.seen[7][1] < nodes == policy.seen[-1][1]


def test_answers_wait_for_pieces_of_a_model_and_a_version_that_no_task_used_is_thrown_away() -> None:
    slow = {"arrivals": msgspec.structs.replace(lab().ues[0].arrivals, rates_per_second=(0.05,))}
    result = walked(Cuts("block2_add", "block2_add", 0), slots=60, **slow)
    assert "discarded" in {move.status for move in result.updates}
    assert {move.reason for move in result.updates if move.status == "discarded"} == {"a newer version came first"}
    busy = walked(Cuts("block3", "block3", 0), slots=24)
    scenario = msgspec.structs.replace(lab(), retraining_interval_seconds=None)
    states = np.full((1, 1), DOWNLINK_BITS_PER_SECOND)
    still = simulate(scenario, Cuts("block3", "block3", 0), 24, 3, channel=ChannelStates(1.0, states, states.copy()))
    assert busy.tasks is not None
    assert still.tasks is not None
    longer = busy.tasks.stamps[:, 7] - still.tasks.stamps[:, 7]
    ends = still.tasks.stamps[:, 6]
    during = np.zeros(ends.size, dtype=bool)
    for move in busy.updates:
        during |= (ends > move.started_seconds + 0.02) & (ends < move.received_seconds - 0.02)
    assert during.any()
    assert longer[during] == pytest.approx(15e-3, abs=1e-6)
    assert np.nanmax(np.abs(longer[ends < INTERVAL])) == 0


def test_a_run_may_end_before_any_version_is_whole() -> None:
    result = walked(Cuts("block2_add", "block2_add", 0), slots=3)
    assert result.updates == ()
    assert result.tasks is not None
    assert result.tasks.model_version is not None
    assert not result.tasks.model_version.any()

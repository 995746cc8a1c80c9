"""DDS through its UEs, over real sockets, against the same rounds in one process."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from consulted import Consulting

from controller.contract import Decision, Scenario, UeDecision, UeName, UeObservation
from controller.policies.dds import Dds
from controller.policies.examples import example_observation, example_scenario

pytestmark = pytest.mark.quiet  # an answer that does not come in time counts as none

#: A market that binds: three slow devices and little of an edge.
OPTIONS: dict[str, object] = {"base": 0.01}


def lab(ues: int = 4) -> Scenario:
    """A long slot: nothing here ends for want of time."""
    return example_scenario(ues, slot_seconds=20.0)


def centralised(scenario: Scenario, gone: frozenset[str] = frozenset()) -> Dds:
    """The same rounds in this process; ``gone`` UEs do not answer."""
    policy = Dds(**OPTIONS)  # type: ignore[arg-type]
    if gone:
        local = {}
        for ue in scenario.ues:
            local[ue.name] = policy.local_policy()
            local[ue.name].reset(msgspec.structs.replace(scenario, ues=(ue,)))

        def ask(ue: UeName, signal: dict[str, float], state: UeObservation) -> UeDecision | None:
            return None if ue in gone else local[ue].respond(signal, state)

        policy.ask_through(ask)
    policy.reset(scenario, 7)
    return policy


def through_ues(scenario: Scenario, consulting: Consulting) -> Dds:
    policy = Dds(**OPTIONS)  # type: ignore[arg-type]
    policy.ask_through(consulting.consultation.ask)
    policy.reset(scenario, 7)
    return policy


def assert_same(first: Decision, second: Decision, capacity: float) -> None:
    assert [ue.cut for ue in first.ues] == [ue.cut for ue in second.ues]
    ours, theirs = ([ue.edge_share for ue in one.ues] for one in (first, second))
    assert ours == pytest.approx(theirs, abs=1e-6 * capacity)


def test_asking_the_ues_gives_what_one_process_does(tmp_path: Path) -> None:
    scenario = lab()
    alone = centralised(scenario)
    with Consulting(tmp_path / "lab", scenario, "dds", OPTIONS) as consulting:
        policy = through_ues(scenario, consulting)
        for ue in scenario.ues:
            consulting.join(ue.name)
        bound = 0
        for slot in range(12):
            observation = example_observation(scenario, slot)
            decision = policy.decide(observation)
            assert_same(decision, alone.decide(observation), scenario.edge.cpus)
            bound += policy.state()["base_price"] > 0.01
            assert policy.state()["settled"] == 1.0
            assert policy.state()["messages"] == alone.state()["messages"]
            assert policy.state()["settle_seconds"] > 0
        assert bound > 3  # prices had to rise
        counters = consulting.consultation.counters
        assert counters.questions == counters.answers
        assert counters.sent_again == 0


def test_the_ues_tell_which_equilibrium_is_best(tmp_path: Path) -> None:
    scenario = lab()
    options: dict[str, object] = {**OPTIONS, "order": "best"}
    alone = Dds(**options)  # type: ignore[arg-type]
    alone.reset(scenario, 7)
    with Consulting(tmp_path / "lab", scenario, "dds", options) as consulting:
        policy = Dds(**options)  # type: ignore[arg-type]
        policy.ask_through(consulting.consultation.ask)
        policy.reset(scenario, 7)
        for ue in scenario.ues:
            consulting.join(ue.name)
        for slot in range(4):
            observation = example_observation(scenario, slot)
            assert_same(policy.decide(observation), alone.decide(observation), scenario.edge.cpus)
            assert policy.state()["messages"] == alone.state()["messages"]


def test_lost_messages_change_nothing(tmp_path: Path) -> None:
    scenario = lab()
    alone = centralised(scenario)
    with Consulting(tmp_path / "lab", scenario, "dds", OPTIONS) as consulting:
        policy = through_ues(scenario, consulting)
        for index, ue in enumerate(scenario.ues):
            consulting.join(ue.name, lambda number, index=index: number % (17 + index) == 5)
        for slot in range(4):
            observation = example_observation(scenario, slot)
            assert_same(policy.decide(observation), alone.decide(observation), scenario.edge.cpus)
        assert consulting.consultation.counters.sent_again > 5
        assert sum(ue.lost for ue in consulting.ues.values()) > 5


def test_who_leaves_computes_alone_and_may_come_back(tmp_path: Path) -> None:
    scenario = lab()
    names = [str(ue.name) for ue in scenario.ues]
    observation = example_observation(scenario, 3)
    with Consulting(tmp_path / "lab", scenario, "dds", OPTIONS) as consulting:
        policy = through_ues(scenario, consulting)
        for name in names[:-1]:  # the last has not joined yet
            consulting.join(name)
        first = policy.decide(observation)
        assert policy.state()["unanswered"] == 1.0
        assert first.ues[-1].cut == ()
        assert_same(first, centralised(scenario, frozenset(names[-1:])).decide(observation), scenario.edge.cpus)

        def again(gone: frozenset[str] = frozenset()) -> None:
            alone = centralised(scenario, gone)
            fresh = through_ues(scenario, consulting)  # no price to begin with, like the other
            assert_same(fresh.decide(observation), alone.decide(observation), scenario.edge.cpus)
            assert fresh.state()["unanswered"] == len(gone)

        consulting.join(names[-1])
        again()
        consulting.ues[names[0]].leave()
        again(frozenset(names[:1]))
        consulting.join(names[0])  # a new process: it has to be told everything
        again()


def test_a_policy_that_a_ue_cannot_make_is_told(tmp_path: Path) -> None:
    scenario = lab(2)
    with Consulting(tmp_path / "lab", scenario, "neurosurgeon", {}) as consulting:
        policy = through_ues(scenario, consulting)
        for ue in scenario.ues:
            consulting.join(ue.name)
        decision = policy.decide(example_observation(scenario, 0))
        assert all(ue.cut == () for ue in decision.ues)
        assert "has no part for a UE" in consulting.consultation.last_error
        assert consulting.consultation.counters.refused > 0

"""The controller's program asks UEs over its sockets when the policy is one whose UEs decide for themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_lab import FakeLab

from controller.policies.examples import example_scenario
from controller.service.protocol import Delegation, Question

pytestmark = pytest.mark.quiet  # UEs have part of a slot to answer in


def test_dds_asks_its_ues(tmp_path: Path) -> None:
    scenario = example_scenario(3, slot_seconds=0.2)
    with FakeLab(tmp_path / "lab", policy="dds", scenario=scenario, deadline_seconds=0.15) as lab:
        lab.wait(lambda status: status.state == "ready")
        lab.client.begin(1.0, 2.0)
        lab.wait(lambda status: status.state == "stopped")
        assert lab.wait_end() == 0
    rows = [row for row in lab.slots() if row.policy_state]
    assert {row.policy_state["settled"] for row in rows} == {1.0}
    assert all(row.policy_state["unanswered"] == 0 for row in rows)
    questions = [message for message in lab.received["ue1"] if isinstance(message, Question)]
    assert len(questions) >= 3
    (delegation,) = (message for message in lab.received["ue1"] if isinstance(message, Delegation))
    assert [ue.name for ue in delegation.scenario.ues] == ["ue1"]  # nothing of the others
    assert all(question.state.name == "ue1" for question in questions)
    asked = sum(isinstance(message, Question) for ue in lab.ues for message in lab.received[ue])
    assert asked * 2 == sum(row.policy_state["messages"] for row in rows if row.ue == "ue0")

"""Placement with online splitting and its baselines keep the contract, on channels drawn per stage and in time."""

from __future__ import annotations

import msgspec
import pytest

from controller.contract import Scenario, cut_label
from controller.policies import registry
from controller.policies.check import check_policy
from controller.policies.examples import example_observation, example_scenario


def lab(refresh: str) -> Scenario:
    """Three devices slow enough that the edge is worth a transfer at times."""
    scenario = example_scenario(3)
    ues = tuple(
        msgspec.structs.replace(
            ue,
            channel_refresh=refresh,
            gain_floor_ratio=0.05,
            doppler_hz=1.0,
            max_speed=0.1,
            mean_gain=3e-12,
            inferences_per_version=200.0,
        )
        for ue in scenario.ues
    )
    return msgspec.structs.replace(scenario, ues=ues)


@pytest.mark.parametrize("refresh", ["per_task_stage", pytest.param("time", marks=pytest.mark.thorough)])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("placement", {}),
        ("placement", {"rule": "look-ahead"}),
        ("placement", {"placed": "all"}),
        ("placement", {"placed": "half"}),
        ("static-split", {}),
        ("greedy-split", {}),
    ],
)
def test_keeps_the_contract(name: str, options: dict[str, object], refresh: str) -> None:
    check_policy(registry.create(name, options), lab(refresh), slots=6)


def test_fixed_placements_split_online_within_what_is_placed() -> None:
    scenario = lab("per_task_stage")
    rules = {}
    for placed in ("search", "half", "all"):
        policy = registry.create("placement", {"placed": placed})
        policy.reset(scenario, 0)
        rules[placed] = policy.decide(example_observation(scenario, 0)).ues[0]
        assert policy.state()["expected_cost.ue0"] > 0
    assert cut_label(rules["all"].cut) == "local"
    assert 0 < len(rules["half"].stop_rule) < len(rules["all"].stop_rule)
    before = [label for label, _ in rules["all"].stop_rule]
    assert [label for label, _ in rules["half"].stop_rule] == before[: len(rules["half"].stop_rule)]
    assert cut_label(rules["half"].cut) == before[len(rules["half"].stop_rule)]

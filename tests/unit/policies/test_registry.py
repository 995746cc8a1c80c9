from __future__ import annotations

import pytest

from controller import registry
from controller.check import check_policy
from controller.contract import Policy

BASIC = ("device-only", "edge-only", "fixed", "neurosurgeon", "random")


def test_the_basic_policies_are_installed() -> None:
    assert set(BASIC) <= set(registry.available())
    assert registry.available() == tuple(sorted(registry.available()))


@pytest.mark.parametrize("name", BASIC)
def test_a_basic_policy_keeps_the_contract(name: str) -> None:
    policy = registry.create(name)
    assert isinstance(policy, Policy)
    check_policy(policy)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown policy 'neurosurgon'; allowed: .*neurosurgeon"):
        registry.create("neurosurgon")


def test_an_unknown_option_lists_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match="'fixed' has no option 'kut'; allowed options: cut, speed"):
        registry.create("fixed", {"kut": "input"})
    with pytest.raises(ValueError, match="allowed options: none"):
        registry.create("edge-only", {"cut": "input"})


def test_a_refused_value_is_an_input_error() -> None:
    with pytest.raises(ValueError, match="speed must be above 0 reference cores, got -1"):
        registry.create("fixed", {"speed": -1})


def test_options_and_defaults() -> None:
    assert registry.options("fixed") == {"cut": "local", "speed": None}
    assert registry.options("edge-only") == {}

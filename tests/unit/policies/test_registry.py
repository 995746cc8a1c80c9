from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from controller.contract import Policy
from controller.policies import registry
from controller.policies.check import check_policy

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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class Mine(:\n", "SyntaxError.*strange_policy.py:1"),
        ("import sys\nsys.exit(2)\n", r"SystemExit: 2 \(.*strange_policy.py:2"),
        ("raise OSError('no disk')\n", r"OSError: no disk \(.*strange_policy.py:1"),
        ("Other = 1\n", "has no attribute 'Mine'"),
        ("Mine = 3\n", "3 is not a callable object"),
        ("class Mine:\n    def __init__(self): raise KeyError('gone')\n", r"KeyError: 'gone' \(.*strange_policy.py:2"),
        ("class Mine: pass\n", "is not a Policy: it lacks reset"),
    ],
)
def test_whatever_a_users_policy_raises_is_a_value_error(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strange_policy.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "strange_policy", raising=False)
    point = EntryPoint("mine", "strange_policy:Mine", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    with pytest.raises(ValueError, match=words):
        registry.create("mine")

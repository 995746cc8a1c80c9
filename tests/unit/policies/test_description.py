"""What policies say of themselves: ``testbed policy list`` and ``policy show``."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest
from click.testing import CliRunner

from controller.policies.description import FAMILIES, FOREIGN, by_family, describe
from controller.policies.registry import ENTRY_POINT_GROUP
from testbed.cli.policy import command
from testbed.errors import InputError

SHIPPED = sorted(
    point.name for point in entry_points(group=ENTRY_POINT_GROUP) if point.value.startswith("controller.policies.")
)


@pytest.mark.parametrize("name", SHIPPED)
def test_each_shipped_policy_has_a_family_a_sentence_and_a_meaning_for_every_option(name: str) -> None:
    policy = describe(name)
    assert policy.family is not FOREIGN
    assert policy.sentence.endswith(".")
    assert [option.name for option in policy.options if not option.meaning] == []
    for text in (policy.sentence, policy.text, *(option.meaning for option in policy.options)):
        assert "``" not in text
        assert ":class:" not in text


def test_each_family_has_members_and_a_page() -> None:
    assert [family for family in by_family() if family is not FOREIGN] == list(FAMILIES)
    docs = Path(__file__).parents[3] / "docs"
    assert [family.page for family in FAMILIES if not (docs / family.page).is_file()] == []


def test_the_nearest_classs_word_on_an_option_counts() -> None:
    assert _meaning("lymdo-cd", "initial_queue").startswith("virtual queues at reset")
    assert _meaning("lymdo", "initial_queue").startswith("None starts where the virtual queues settle")
    assert _meaning("ppo-all", "initial_queue").startswith("None starts at the mean queues")
    assert _meaning("placement", "energy_weight") == _meaning("placement", "time_weight") != ""


def _meaning(name: str, key: str) -> str:
    return next(option.meaning for option in describe(name).options if option.name == key)


def test_list_groups_and_show_explains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = CliRunner().invoke(command, ["list"], catch_exceptions=False).output
    assert all(f"  {name} " in listed for name in SHIPPED)
    assert "after LyMDO: cut, speed, spectrum and edge share under an energy budget (docs/lymdo.md)" in listed
    shown = CliRunner().invoke(command, ["show", "fixed"], catch_exceptions=False).output
    assert "cut = 'local'" in shown
    assert "speed = None\n      of the devices, in reference cores" in shown
    assert "Options" not in shown
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("shown_policy.py").write_text(
        "from controller.policies.base import BasicPolicy\n"
        "class Mine(BasicPolicy):\n"
        '    """Mine alone.\n\n    ratio : of what.\n    """\n'
        "    def __init__(self, ratio=1.0):\n        pass\n"
    )
    own = CliRunner().invoke(command, ["show", "shown_policy:Mine"], catch_exceptions=False).output
    assert "Mine alone." in own
    assert "ratio = 1.0\n      of what." in own
    with pytest.raises(InputError, match="unknown policy 'nonsense'"):
        CliRunner().invoke(command, ["show", "nonsense"], catch_exceptions=False)

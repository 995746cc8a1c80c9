"""A policy in a file beside the lab file, named MODULE:CLASS; and one that has no more than it needs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.contract import Observation, Policy, checkpoint_info, watched_state
from controller.policies.base import BasicPolicy
from controller.policies.check import check_policy
from controller.policies.examples import example_scenario
from controller.policies.registry import create
from controller.simulator.simulate import simulate
from testbed.errors import InputError
from testbed.lab.simulate import SimulationOrder, simulate_lab
from testbed.labfile.load import load

TOPOLOGIES = Path(__file__).parents[3] / "topologies"
#: What `testbed init --example policy` writes, and something that is no class.
CODE = (TOPOLOGIES.parent / "examples/policy/my_policy.py").read_text() + "\n\nNUMBER = 3\n"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A lab file, and a module beside it of a name that no other test has imported."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    module = f"policy_of_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(CODE)
    shutil.copy(TOPOLOGIES / "quickstart.yaml", tmp_path / "lab.yaml")
    shutil.copytree(TOPOLOGIES / "profiles", tmp_path / "profiles")
    yield tmp_path / "lab.yaml", module
    sys.modules.pop(module, None)


def test_a_policy_beside_the_lab_file_decides(lab: tuple[Path, str], tmp_path: Path) -> None:
    path, module = lab
    topology = load(path, [f"policy={{name: '{module}:Threshold', ratio: 0.5}}"])
    assert (topology.policy.name, topology.policy.options) == (f"{module}:Threshold", {"ratio": 0.5})
    order = SimulationOrder(topology, str(path), path.parent, tmp_path / "run", 6, "event")
    summary = simulate_lab(order, lambda _: None)
    assert summary.policy == f"{module}:Threshold"
    assert set(summary.cuts) <= {"input", "local"}


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("{module}x:Threshold", "No module named"),
        ("{module}:Missing", "has no attribute 'Missing'"),
        ("{module}:NUMBER", "is not a callable object"),
        ("{{name: '{module}:'}}", "cannot be loaded"),
        ("{module}:Threshold:more", "cannot be loaded"),
        ("{{name: '{module}:Threshold', ration: 1}}", "no option 'ration'; allowed options: ratio"),
        ("mobilenet", "MODULE:CLASS"),
    ],
)
def test_what_cannot_be_made_is_said(lab: tuple[Path, str], policy: str, says: str) -> None:
    path, module = lab
    with pytest.raises(InputError, match=says) as told:
        load(path, [f"policy={policy.format(module=module)}"])
    assert "\n" not in str(told.value)


def test_nothing_is_imported_where_that_is_not_wanted(lab: tuple[Path, str]) -> None:
    path, module = lab
    assert load(path, [f"policy={module}:Threshold"], imports=False).policy.name == f"{module}:Threshold"
    assert module not in sys.modules


class Bare:
    """Three methods, and no base class."""

    def __init__(self) -> None:
        self._inner = BasicPolicy()
        self._inner.cuts = lambda observation: [()] * len(observation.ues)  # type: ignore[method-assign]
        self.reset, self.feedback = self._inner.reset, self._inner.feedback

    def decide(self, observation: Observation) -> object:
        return self._inner.decide(observation)


def test_three_methods_make_a_policy() -> None:
    policy = Bare()
    assert isinstance(policy, Policy)
    assert (watched_state(policy), checkpoint_info(policy)) == ({}, {})
    check_policy(policy, example_scenario(2), slots=3)
    assert simulate(example_scenario(2), policy, 3, 1).delay_seconds.shape[0] == 3


def test_what_lacks_one_of_them_is_told(lab: tuple[Path, str]) -> None:
    _, module = lab
    sys.path.append(str(lab[0].parent))
    (lab[0].parent / f"{module}.py").write_text("class Half:\n    def reset(self, scenario, seed): ...\n")
    with pytest.raises(ValueError, match="it lacks decide, feedback"):
        create(f"{module}:Half")

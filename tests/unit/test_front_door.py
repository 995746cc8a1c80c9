"""``import testbed`` as a library: the examples that need no lab, what a run is, and what is refused how."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from gymnasium.utils.env_checker import check_env

import testbed
from controller.policies.base import BasicPolicy
from testbed.errors import InputError, TestbedError
from testbed.front import commands
from testbed.front.results import Run
from tests.python_page import ROOT, go_through, makes_a_lab

QUICKSTART = ROOT / "topologies" / "quickstart.yaml"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return go_through(folder, lambda code: not makes_a_lab(code))


def test_the_examples_without_a_lab_do_what_they_say(page: dict[str, object]) -> None:
    sim, mine, same = page["sim"], page["mine"], page["same"]
    assert isinstance(sim, Run)
    assert isinstance(mine, Run)
    assert isinstance(same, Run)
    assert sim.valid
    assert sim.summary == same.summary
    assert sim.summary.tasks.arrived == mine.summary.tasks.arrived == sim.tasks.num_rows
    assert set(mine.summary.cuts) == {"input", "local"}
    assert mine.manifest.policy.endswith(":Alternating")
    assert "quickstart" in repr(sim)
    assert "<table>" in sim._repr_html_()


def test_a_table_that_is_not_there(page: dict[str, object]) -> None:
    sim = page["sim"]
    assert isinstance(sim, Run)
    with pytest.raises(InputError, match=r"no such table.*tasks"):
        sim.table("task")


def test_no_run_there(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=str(tmp_path)):
            testbed.open_run(directory)


class Local(BasicPolicy):
    """Found by its module."""


@pytest.mark.parametrize("policy", [Local(), type("Nameless", (Local,), {"__module__": "__main__"})])
def test_a_lab_cannot_have_an_object_of_this_process(policy: Local) -> None:
    with pytest.raises(InputError, match="a process of its own"):
        testbed.run(QUICKSTART, policy=policy)


def test_bad_input_is_refused_before_anything_starts(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with pytest.raises(InputError, match="duration"):
        testbed.run(QUICKSTART, duration="-3 s", directory=directory)
    with pytest.raises(InputError, match="no such lab file"):
        testbed.run(tmp_path / "none.yaml", directory=directory)
    with pytest.raises(InputError, match=r"radio\.uplink"):
        testbed.simulate(QUICKSTART, set={"radio.uplink": "much"}, directory=directory)
    assert not directory.exists()


def test_an_error_of_a_command_is_raised_with_its_paragraph() -> None:
    with pytest.raises(InputError, match=r"no\.yaml: no such lab file"):
        commands.command(["validate", "no.yaml"], lambda _: None)
    with pytest.raises(TestbedError, match="No such command"):
        commands.command(["nonsense"], lambda _: None)


def test_progress_of_a_command_moves_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with commands.Bar("run x", 10.0, shown=True) as bar:
        for line in ("connecting 3 wires", "5 s of 10 s: slot 9, 3 arrived"):
            bar(line)
        assert bar._progress.tasks[0].completed == 5.0
        assert bar._progress.tasks[0].description == "run x: running"


def test_the_environment_passes_gymnasium_s_checker(page: dict[str, object]) -> None:
    env = page["env"]
    check_env(env.unwrapped)  # type: ignore[attr-defined]
    assert page["reward"] != 0


@pytest.mark.parametrize("order", ["gymnasium, testbed", "testbed, gymnasium"])
def test_gymnasium_knows_the_environment_whichever_comes_first(order: str) -> None:
    code = f"import {order}; print('testbed/SplitInference-v0' in gymnasium.registry)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "True"


def test_the_import_alone_is_light() -> None:
    code = "import sys, testbed; print(sorted({'torch', 'numpy', 'gymnasium', 'pydantic'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
    assert set(testbed.__all__) <= set(dir(testbed))

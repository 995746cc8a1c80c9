"""Every command line of README.md and docs/ is one that the program takes; those that are quick are run.

Those of a lab that stays are run by tests/emulation/test_readme.py, in both runtimes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from testbed.cli.main import group
from tests.command_lines import ROOT, Line, all_lines, lines

#: What looks like a command line and is none.
NO_COMMANDS = {"trace 1": "the first line of a trace file"}
#: Verbs whose command lines of the pages are only parsed here, and why.
ONLY_PARSED = {
    "run": "makes a lab for up to two minutes: tests/emulation and tests/docker run labs",
    "verify": "15 s of judging the clock: tests/emulation/test_verify.py",
    "doctor": "what it says is the host's; with --calibrate it times it: tests/emulation/test_calibrate.py",
    "images": "changes what the engine holds: tests/docker",
    "train": "a minute of CPU: tests/unit/runs/test_train.py",
    "campaign": "many simulations or runs: tests/unit/campaign and tests/emulation",
    "sweep": "several runs: tests/unit/runs/test_sweep.py",
    "profile": "a minute, on models of the reader's own: tests/unit/inference",
    "report": "of a run that the page has not: tests/unit/runs/test_run_report.py",
    **dict.fromkeys(
        ("up", "down", "ps", "logs", "exec", "link", "policy"),
        "of a lab that is up: tests/emulation/test_readme.py, and its sibling in tests/docker, run README's",
    ),
}
#: Of verbs that are run here: lines that need what the page does not have, or long.
TOO_MUCH = {
    "compare": "of runs that the page has not (README's are run)",
    "simulate": "seconds to a minute each: every shipped lab is simulated in tests/golden (README's is run)",
    "trace": "imports of the reader's own files: tests/unit/traces (those that make and show one are run)",
}
COMMANDS = [line for line in all_lines() if str(line) not in NO_COMMANDS]


def leaf(words: tuple[str, ...]) -> tuple[click.Command, list[str]]:
    command: click.Command | None = group
    rest = list(words)
    while isinstance(command, click.Group):
        command = command.get_command(click.Context(command), rest[0])
        assert command is not None, f"there is no verb {rest[0]!r}"
        rest = rest[1:]
    assert command is not None
    return command, rest


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: f"{line.page}:{line.number}")
def test_the_program_takes_every_command_line_of_the_pages(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command, words = leaf(line.words)
    command.make_context("testbed", words)  # raises UsageError for what it does not take


def test_every_command_line_is_run_or_listed_with_its_reason() -> None:
    assert len(COMMANDS) > 60
    assert {line.words[0] for line in COMMANDS} - set(ONLY_PARSED) - set(TOO_MUCH) <= {"validate", "init"}


def run(words: tuple[str, ...]) -> str:
    expanded = [path for word in words for path in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    done = CliRunner().invoke(group, expanded, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.thorough
def test_readmes_lines_without_a_lab_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "topologies" / "profiles", "profiles")
    shutil.copy(ROOT / "topologies" / "quickstart.yaml", "lab.yaml")
    wanted = [line for line in lines(ROOT / "README.md") if line.words[0] in ("validate", "simulate", "compare")]
    assert [line.words[0] for line in wanted] == ["validate", "compare", "simulate"]
    validate, compare, simulate = (line.words for line in wanted)
    run(validate)
    assert "simulated for 250 s" in run(simulate)
    assert "neurosurgeon" in run(compare)


@pytest.mark.thorough
def test_a_trace_is_made_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = [line.words for line in lines(ROOT / "docs" / "trace.md") if line.words[1] in ("generate", "show")]
    assert len(wanted) == 2
    for words in wanted:
        run(words)
    assert Path("ue.png").read_bytes().startswith(b"\x89PNG")

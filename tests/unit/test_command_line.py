"""The command line as a whole: verbs by what they are for, errors with their page, completion."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from testbed.cli.groups import GROUPS, page_of
from testbed.cli.main import VERBS, group, main
from testbed.errors import HostError, InputError, InvalidRunError, TestbedError

ROOT = Path(__file__).parents[2]


def test_every_verb_is_in_one_group_and_its_page_exists() -> None:
    grouped = [verb for verbs in GROUPS.values() for verb in verbs]
    assert sorted(grouped) == sorted(VERBS)
    pages = {page for verbs in GROUPS.values() for page in verbs.values() if page}
    assert [page for page in sorted(pages) if not (ROOT / "docs" / page).is_file()] == []


def test_help_shows_all_verbs_under_their_headings() -> None:
    text = CliRunner().invoke(group, ["--help"]).output
    assert [line.rstrip(":") for line in text.splitlines() if line.rstrip(":") in GROUPS] == list(GROUPS)
    assert [verb for verb in VERBS if f"\n  {verb} " not in text] == []


@pytest.mark.parametrize(
    ("error", "arguments", "page"),
    [
        (InputError("no such key", where="lab.yaml: uess"), ["run", "lab.yaml"], "lab-file.md"),
        (InputError("too long", where="--slots"), ["simulate", "lab.yaml"], "simulate.md"),
        (InputError("no such UE"), ["--debug", "link", "show", "ue9"], "links.md"),
        (HostError("no ip"), ["up", "lab.yaml"], "doctor.md"),
        (InvalidRunError("late"), ["run", "lab.yaml"], "fidelity.md"),
        (InvalidRunError("late"), ["verify", "lab.yaml"], "verify.md"),
        (TestbedError("it ended"), ["train", "lab.yaml"], "train.md"),
        (TestbedError("it ended"), ["completion", "bash"], ""),
    ],
)
def test_the_page_of_an_error(error: TestbedError, arguments: list[str], page: str) -> None:
    assert page_of(error, arguments) == page


def test_an_error_ends_with_the_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["validate", str(tmp_path / "missing.yaml")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(" See docs/lab-file.md.\n")


def test_a_shell_completes_verbs_and_policies() -> None:
    shell = BashComplete(group, {}, "testbed", "_TESTBED_COMPLETE")

    def completed(arguments: list[str], begun: str) -> set[str]:
        return {item.value for item in shell.get_completions(arguments, begun)}

    assert completed([], "val") == {"validate"}
    assert completed(["run", "--policy"], "edge-") == {"edge-only", "edge-only+convex"}
    assert completed(["policy", "show"], "neuro") > {"neurosurgeon"}
    assert completed(["run"], "--du") == {"--duration"}
    script = CliRunner().invoke(group, ["completion", "bash"], prog_name="testbed").output
    assert "-F _testbed_completion testbed" in script

"""The tests that want another kernel than this host's: netem, cgroup v2. One User-Mode Linux guest runs them all.

``make test-netem`` runs this file alone. The guest's output comes as it is made, also where pytest captures.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.netem import uml

pytestmark = pytest.mark.guest

LIMIT_SECONDS = 800.0
OWN = "tests/netem/guest_tests"
#: Of the tests that run on the host, too, those of what another kernel and cgroup v2 change: how wires are made,
#: changed, found broken and repaired; where processes are put; what is found of a lab, and goes with it. The guest's
#: own tests have a player and a whole lab.
SHARED = (
    "tests/emulation/test_links.py",
    *(
        f"tests/emulation/test_netns_runtime.py::test_{name}"
        for name in (
            "forked_and_launched_processes_are_in_their_place",
            "exec_runs_inside_the_node",
            "up_is_idempotent",
        )
    ),
    *(
        f"tests/emulation/test_netns_removal.py::test_{name}"
        for name in (
            "labs_with_a_common_prefix_stand_side_by_side",
            "removal_twice_and_of_nothing",
            "after_programs_and_records_were_lost",
            "a_process_without_the_marker_goes_with_its_lab",
        )
    ),
)


@pytest.fixture
def guest() -> None:
    reason = uml.missing()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uml")


def test_the_answer_of_a_command_comes_back(guest: None, folder: Path) -> None:
    marker = uml.REPOSITORY / "written-in-the-guest"
    script = f"uname -r; stat -fc %T /sys/fs/cgroup; echo x > {marker}; cat {marker}; exit 7"
    lines: list[str] = []
    answer = uml.run_in_guest(["sh", "-c", script], folder, timeout_seconds=60, echo=lines.append)
    assert answer.exit_code == 7
    assert lines[-5:-2][1:] == ["cgroup2fs", "x"]
    assert not marker.exists(), "what the guest writes stays in it"


def test_a_guest_that_hangs_is_ended_and_said_so(guest: None, folder: Path) -> None:
    script = "echo before the hang; sleep 3600"
    with pytest.raises(uml.GuestError, match=r"ended after 5 s; (.|\n)*before the hang"):
        uml.run_in_guest(["sh", "-c", script], folder, timeout_seconds=5, echo=lambda line: None)
    assert not _processes_with(str(folder))


def test_a_guest_that_crashes_is_a_failure(guest: None, folder: Path) -> None:
    script = "echo c > /proc/sysrq-trigger"
    with pytest.raises(uml.GuestError, match="without an answer"):
        uml.run_in_guest(["sh", "-c", script], folder, timeout_seconds=60, echo=lambda line: None)
    assert not _processes_with(str(folder))


def run_suite(folder: Path, capsys: pytest.CaptureFixture[str], which: str, *suite: str) -> None:
    """Run those of ``suite`` that ``which`` chooses by their marks, in one boot of the guest."""
    report = folder / "report.xml"
    command = [
        *(sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", "--durations=15"),
        # the host is watched from outside: in here nobody sees what it does
        *("--require", "root,netem", "--unwatched", "-m", which, f"--junitxml={report}", *suite),
    ]

    def echo(line: str) -> None:
        with capsys.disabled():
            print(f"guest | {line}", flush=True)

    answer = uml.run_in_guest(command, folder, timeout_seconds=LIMIT_SECONDS, echo=echo)
    assert answer.exit_code == 0, answer.output
    cases = list(ElementTree.parse(report).iter("testcase"))
    own = [case for case in cases if "guest_tests" in case.get("classname", "")]
    assert own, "no test of the guest's own was run"
    assert not [case.get("name") for case in own if case.find("skipped") is not None]


@pytest.mark.timeout(LIMIT_SECONDS + 30)
def test_the_suite_passes_on_a_kernel_with_netem_and_cgroup_v2(
    guest: None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_suite(folder, capsys, "not quiet", OWN, *SHARED)


@pytest.mark.quiet
@pytest.mark.timeout(LIMIT_SECONDS + 30)
def test_what_judges_the_clock_passes_on_a_kernel_with_netem(
    guest: None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_suite(folder, capsys, "quiet", OWN)


def _processes_with(text: str) -> list[str]:
    """Command lines on this host that have ``text`` in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found

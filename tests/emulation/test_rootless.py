"""Labs without root: run by an ordinary user, each in a user namespace of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks._as_user import USER, command_as_user, environment
from testbed.runtime.host import facts as host
from testbed.runtime.netns import rootless
from testbed.runtime.processes import discovery
from tests.signals import heard

# both files' labs are one user's, who sees all of them
pytestmark = [pytest.mark.root, pytest.mark.xdist_group("rootless")]

STATE = Path(f"/tmp/testbed-{USER.pw_uid}")
LAB = "rootless-a"

#: A command line in small: `up` starts a lab and ends, the others look at it.
VERB = """
import json, os, sys, time
from pathlib import Path
from testbed.runtime.host import facts as host
from testbed.runtime.netns import rootless
from testbed.runtime.processes import discovery
from testbed.runtime.base import NodeSpec
verb, lab_name = sys.argv[1:3]
if rootless.needed():
    again = [sys.executable, "-P", sys.argv[0], *sys.argv[1:]]
    if verb == "holders":
        print(json.dumps([holder.lab for holder in rootless.holders()]))
        sys.exit(0)
    if verb == "down":
        sys.exit(rootless.remove(lab_name))
    if verb in ("up", "fail", "serve", "look"):
        sys.exit(rootless.run_in_new(lab_name, again))
    sys.exit(rootless.run_in_lab(rootless.holders(lab_name)[0], again))
from tests.emulation.netns_lab import bring_up, facts, process, runtime
lab = runtime(lab_name)
if verb in ("up", "serve"):
    lab.prewarm()
    bring_up(lab, [NodeSpec("ue1", "ue", quota_host_cores=0.3), NodeSpec("edge", "edge")], needs_torch=True)
    said = facts(lab, "ue1")
    print(json.dumps({
        "features": lab.features, "facts": said, "fifo": lab.make_realtime("ue1", said["tid"], 5),
        "owned": [[owned.kind, owned.name] for owned in discovery.list_owned()],
    }), flush=True)
    if verb == "serve":
        time.sleep(3600)
elif verb == "look":
    print(json.dumps([[path, os.access(path, os.R_OK), os.access(path, os.W_OK)] for path in sys.argv[3:]]))
elif verb == "fail":
    sys.exit(2)
elif verb == "exec":
    sys.exit(lab.exec("ue1", sys.argv[3:]))
elif verb == "ps":
    print(json.dumps([[status.node, status.running] for status in lab.processes()]))
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def verb(tmp_path: Path) -> Iterator[Run]:
    """Runs a verb as the user."""
    error = host.user_namespace_error()
    if error:
        pytest.skip(f"needs user namespaces: {error}")
    # pytest's own directories are closed to others
    script = Path(f"/tmp/testbed-rootless-{os.getpid()}.py")
    script.write_text(VERB)
    script.chmod(0o644)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command_as_user(sys.executable, "-P", str(script), *arguments),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    run.script = script  # type: ignore[attr-defined]
    yield run
    run("down", LAB)
    run("down", f"{LAB}-b")
    script.unlink()
    shutil.rmtree(STATE, ignore_errors=True)


def answer(result: subprocess.CompletedProcess[str]) -> Any:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_run_is_covered_only_where_the_lab_needs_it(verb: Run) -> None:
    """A lab file may lie on a medium under /run/media."""
    medium = Path(f"/run/testbed-test-media-{os.getpid()}")
    (medium / "disk").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", medium / "disk"], check=True)
    try:
        (medium / "disk" / "lab.yaml").write_text("name: x")
        (medium / "link").symlink_to("disk")
        seen = answer(
            verb("look", LAB, f"{medium}/disk/lab.yaml", f"{medium}/link/lab.yaml", "/run/testbed", "/run/netns")
        )
    finally:
        subprocess.run(["umount", medium / "disk"], check=True)
        shutil.rmtree(medium)
    assert [readable for _, readable, _ in seen] == [True, True, True, False]
    assert seen[2][2]


def test_a_lab_comes_up_is_looked_at_and_goes(verb: Run) -> None:
    up = answer(verb("up", LAB))
    assert up["features"] == {"cgroup": "none", "realtime": False, "rootless": True}
    assert up["fifo"] is False
    assert up["facts"]["interfaces"] == ["lo"]
    kinds = {kind for kind, _ in up["owned"]}
    assert kinds == {"namespace", "process", "directory"}
    # the command has ended, the lab goes on, and is found from outside
    assert answer(verb("holders", "")) == [LAB]
    assert answer(verb("ps", LAB)) == [["ue1", True], ["edge", True]]
    shown = verb("exec", LAB, "ip", "-o", "link")
    assert "1: lo: <LOOPBACK,UP,LOWER_UP>" in shown.stdout
    assert verb("exec", LAB, "sh", "-c", "exit 9").returncode == 9
    assert (STATE / LAB / "logs" / "ue1.log").read_text() == "up\n"
    # root sees none of it as its own, and its removal of that name does not touch it
    assert discovery.list_owned(LAB) == []
    discovery.remove(LAB)
    assert answer(verb("ps", LAB)) == [["ue1", True], ["edge", True]]
    assert verb("down", LAB).returncode == 0
    assert answer(verb("holders", "")) == []
    assert not (STATE / LAB).exists()
    assert verb("down", LAB).returncode == 0


def test_two_labs_side_by_side(verb: Run) -> None:
    answer(verb("up", LAB))
    answer(verb("up", f"{LAB}-b"))
    assert sorted(answer(verb("holders", ""))) == [LAB, f"{LAB}-b"]
    again = verb("up", LAB)
    assert "is up" in again.stderr
    verb("down", LAB)
    assert answer(verb("holders", "")) == [f"{LAB}-b"]
    assert answer(verb("ps", f"{LAB}-b")) == [["ue1", True], ["edge", True]]


def test_the_exit_code_of_the_command_comes_out_and_no_holder_stays(verb: Run) -> None:
    assert verb("fail", LAB).returncode == 2
    deadline = time.monotonic() + 10
    while answer(verb("holders", "")):
        assert time.monotonic() < deadline


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_command_inside(verb: Run, number: signal.Signals) -> None:
    script = str(verb.script)  # type: ignore[attr-defined]
    with subprocess.Popen(
        command_as_user(sys.executable, "-P", script, "serve", LAB),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heard,
    ) as command:
        assert command.stdout is not None
        assert command.stdout.readline().startswith("{")
        # unshare and setpriv have become the command: the pid is the same
        command.send_signal(number)
        expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}[number]
        assert command.wait(timeout=30) == expected


def test_kill_of_the_command_line_then_down(verb: Run) -> None:
    script = str(verb.script)  # type: ignore[attr-defined]
    with subprocess.Popen(
        command_as_user(sys.executable, "-P", script, "serve", LAB),
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heard,
    ) as command:
        assert command.stdout is not None
        assert command.stdout.readline().startswith("{")
        command.kill()
        command.wait()
        assert answer(verb("holders", "")) == [LAB]
        assert verb("down", LAB).returncode == 0
    assert answer(verb("holders", "")) == []
    assert not (STATE / LAB).exists()


def test_somebody_elses_state_directory_is_refused(verb: Run) -> None:
    STATE.mkdir()
    result = verb("up", LAB)
    assert result.returncode == 1
    assert "is not a directory of ours" in result.stderr


def test_root_needs_no_holder() -> None:
    assert not rootless.needed()
    assert rootless.holders(LAB) == []

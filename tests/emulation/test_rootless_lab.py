"""The whole command line as an ordinary user: a run, and a lab that stays, inside a user namespace."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks._as_user import USER, command_as_user, environment
from testbed.runtime.host import facts as host
from tests.emulation.conftest import LABS
from tests.emulation.test_rootless import STATE
from tests.signals import heard

# both files' labs are one user's, who sees all of them
pytestmark = [pytest.mark.root, pytest.mark.xdist_group("rootless")]

NAME = "rootless-lab"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the user's: pytest's own are closed to others."""
    error = host.user_namespace_error()
    if error:
        pytest.skip(f"needs user namespaces: {error}")
    folder = Path(f"/tmp/testbed-rootless-lab-{os.getpid()}")
    folder.mkdir()
    os.chown(folder, USER.pw_uid, USER.pw_gid)
    yield folder
    verb_as_user(folder, "down", NAME)
    shutil.rmtree(folder)
    shutil.rmtree(STATE, ignore_errors=True)


def start_as_user(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command_as_user(sys.executable, "-P", "-m", "testbed", *arguments),
        env={**environment(), "XDG_CACHE_HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heard,
    )


def verb_as_user(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    with start_as_user(folder, *arguments) as process:
        out, error = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, error)


def test_run_without_root(folder: Path) -> None:
    out = folder / "run"
    result = verb_as_user(
        folder,
        *("run", str(LABS / "tiny.yaml"), "--name", NAME, "--duration", "5 s", "--runtime", "netns", "--json"),
        *("--out", str(out)),
    )
    assert result.returncode in (0, 4), result.stderr  # ordinary scheduling may miss even the wider limits
    tasks = json.loads(result.stdout)["tasks"]
    assert tasks["completed"] > 20
    assert tasks["arrived"] == tasks["completed"] + tasks["failed"] + tasks["in_flight"]
    features = json.loads((out / "manifest.json").read_text())["runtime_features"]
    assert features["rootless"] is True
    assert features["realtime"] is False


def test_up_ps_exec_and_down_without_root(folder: Path) -> None:
    up = verb_as_user(
        folder, "up", str(LABS / "tiny.yaml"), "--name", NAME, "--runtime", "netns", "--out", str(folder / "up")
    )
    assert up.returncode == 0, up.stderr
    rows = json.loads(verb_as_user(folder, "ps", "--json").stdout)
    assert [(row["lab"], row["state"]) for row in rows] == [(NAME, "running")]
    inside = verb_as_user(folder, "exec", "ue1", "--", "ip", "-br", "address")
    assert "eth1" in inside.stdout, inside.stderr
    assert verb_as_user(folder, "down", "--all").returncode == 0
    assert json.loads(verb_as_user(folder, "ps", "--json").stdout) == []
    report = verb_as_user(folder, "report", str(folder / "up"))
    assert report.returncode == 0, report.stderr


@pytest.mark.quiet
def test_verify_without_root_tries_every_wire_and_node_and_leaves_nothing(folder: Path) -> None:
    result = verb_as_user(
        folder,
        *("verify", str(LABS / "tiny.yaml"), "--name", NAME, "--duration", "5 s", "--runtime", "netns", "--json"),
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["limits"] == "ordinary"
    tried = {(check["subject"], check["what"]) for check in found["checks"] if check["ok"]}
    ways = {f"ue{number} {way}" for number in (1, 2) for way in ("uplink", "downlink")}
    assert tried >= {(way, what) for way in ways for what in ("delay", "loss", "rate")}
    assert tried >= {(node, what) for node in ("edge", "ue1", "ue2") for what in ("stage", "stage_p90", "overruns")}
    assert json.loads(verb_as_user(folder, "ps", "--json").stdout) == []
    assert not (STATE / NAME).exists()


def _zygotes() -> list[int]:
    """Processes that fork the lab's agents."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"testbed.runtime.processes.zygote" in words and any(
                Path(os.fsdecode(word)).name == NAME for word in words
            ):
                found.append(int(path.parent.name))
    return found


def test_a_signal_takes_down_what_comes_up_and_others_wait(folder: Path) -> None:
    up = ("up", str(LABS / "tiny.yaml"), "--name", NAME, "--runtime", "netns", "--out", str(folder / "up"))
    with start_as_user(folder, *up) as first:
        while not (zygotes := _zygotes()):
            assert first.poll() is None, first.communicate()[1]
            time.sleep(0.01)
        os.kill(zygotes[0], signal.SIGSTOP)  # it comes up for as long as the other command takes to begin
        other = verb_as_user(folder, "down", NAME)
        assert other.returncode == 1
        # setpriv has become the command: the pid is the same
        assert f"another command is bringing this lab up, pid {first.pid}. " in other.stderr
        first.send_signal(signal.SIGTERM)
        _, error = first.communicate(timeout=60)
        assert first.returncode == 143, error
    assert not (STATE / NAME).exists(), (error, sorted((STATE / NAME).rglob("*")))
    deadline = time.monotonic() + 10
    while json.loads(verb_as_user(folder, "ps", "--json").stdout):  # the holder looks a few times a second
        assert time.monotonic() < deadline

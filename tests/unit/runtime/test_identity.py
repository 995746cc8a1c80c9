"""Whose a lab is: other containers' and other people's labs are left alone."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from testbed.cli import down
from testbed.runtime.docker import docker_nodes
from testbed.runtime.host import state as host_state
from testbed.runtime.host.state import system_lock
from testbed.runtime.processes import discovery, identity

LAB = f"id{os.getpid()}"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (discovery, host_state):
        monkeypatch.setattr(module, "state_root", lambda: tmp_path)
    return tmp_path


def lab_of(root: Path, name: str, maker_uid: int | None = None) -> identity.Identity:
    (root / name).mkdir()
    made = identity.identity_of(root / name)
    if maker_uid is not None:
        text = (root / name / "owner.json").read_text().replace(f":{made.maker_uid}", f":{maker_uid}")
        (root / name / "owner.json").write_text(text)
    return made


def test_an_identity_is_random_and_stays(tmp_path: Path) -> None:
    first, second = lab_of(tmp_path, "a"), lab_of(tmp_path, "b")
    assert first.id != second.id
    assert identity.identity_of(tmp_path / "a") == identity.read_identity(tmp_path / "a") == first
    (tmp_path / "a" / "owner.json").write_text("{")
    assert identity.read_identity(tmp_path / "a") is None
    assert identity.identity_of(tmp_path / "a").id != first.id


def test_behind_sudo_the_person_is_who_called_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert identity.person() == 1234
    monkeypatch.setenv("SUDO_UID", "")
    assert identity.person() == 0
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("SUDO_UID", "1234")
    assert identity.person() == 1000


@pytest.mark.root
def test_in_a_lab_without_root_the_person_is_its_user() -> None:
    """Who is root in there, and may have been called by somebody else's sudo -u."""
    code = "from testbed.runtime.processes.identity import person; print(person())"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", code],
        env={**os.environ, "SUDO_UID": "1234"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr:
        pytest.skip(f"needs user namespaces: {done.stderr}")
    assert done.stdout.split() == ["1234"]  # root of the host is behind it here, and called by 1234


@pytest.mark.parametrize(
    ("uid_map", "inside", "outside"),
    [("0 0 4294967295", 0, 0), ("0 1000 1", 0, 1000), ("0 100000 65536\n", 33, 100033), ("0 1000 1", 7, 7)],
)
def test_a_uid_of_a_user_namespace_is_another_outside(
    uid_map: str, inside: int, outside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: uid_map)
    assert identity._outer(inside) == outside


def test_labs_that_somebody_else_made(tmp_path: Path) -> None:
    lab_of(tmp_path, "mine")
    lab_of(tmp_path, "theirs", 54321)
    assert identity.made_by_others(["mine", "theirs", "in-pieces"], tmp_path) == {"theirs": "uid 54321"}


@pytest.mark.parametrize(
    ("arguments", "removed"),
    [([], ["mine"]), (["--all"], ["mine"]), (["theirs"], ["theirs"]), (["mine"], ["mine"])],
)
def test_down_takes_others_labs_only_by_name(
    arguments: list[str], removed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab_of(tmp_path, "mine")
    lab_of(tmp_path, "theirs", 54321)
    taken: list[str] = []
    monkeypatch.setattr(down, "existing", lambda: ["mine", "theirs"])
    monkeypatch.setattr(down, "state_root", lambda: tmp_path)
    monkeypatch.setattr(down, "remove_labs", lambda names: taken.extend(names) or iter(()))
    assert isinstance(down.command, click.Command)
    said = CliRunner().invoke(down.command, arguments, catch_exceptions=False)
    assert taken == removed
    assert ("uid 54321 made it" in said.output) == (arguments in ([], ["--all"]))


@pytest.fixture
def elsewhere() -> Iterator[list[subprocess.Popen[bytes]]]:
    """What another container on this host runs: the same uid, the same names, other namespaces."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def in_a_container(variables: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["unshare", "--pid", "--mount", "--fork", "--kill-child", "sleep", "60"], env={**os.environ, **variables}
    )


def wait_until_found(lab: str, count: int) -> None:
    deadline = time.monotonic() + 5
    while len(discovery.processes(lab)) < count and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.root
def test_labs_of_other_containers_are_not_ours(state: Path, elsewhere: list[subprocess.Popen[bytes]]) -> None:
    ours = lab_of(state, LAB)
    elsewhere.append(in_a_container({discovery.LAB_VARIABLE: LAB, identity.ID_VARIABLE: "0" * 16}))
    elsewhere.append(in_a_container({discovery.LAB_VARIABLE: LAB}))
    elsewhere.append(in_a_container(discovery.markers(LAB)))  # of this very lab, wherever it runs
    mine = subprocess.Popen(["sleep", "60"], env={**os.environ, discovery.LAB_VARIABLE: LAB})
    elsewhere.append(mine)
    wait_until_found(LAB, 3)
    time.sleep(0.2)  # for the two that must not be found
    found = discovery.processes(LAB)
    assert mine.pid in found
    assert {elsewhere[2].pid} <= set(found)
    assert not {elsewhere[0].pid, elsewhere[1].pid} & set(found)
    assert all(Path(f"/proc/{pid}/environ").read_bytes().find(b"0" * 16) < 0 for pid in found)
    assert len(found) == 3
    discovery.kill_processes(LAB, 5.0)
    assert [process.poll() for process in elsewhere[:2]] == [None, None]
    assert ours.id


@pytest.mark.root
def test_what_runs_as_the_unprivileged_user_is_found_and_ended(state: Path) -> None:
    lab_of(state, LAB)
    with subprocess.Popen(
        ["sleep", "60"], user=identity.CONTAINER_UID, env={**os.environ, **discovery.markers(LAB)}
    ) as process:
        assert process.pid in discovery.processes(LAB)
        discovery.kill_processes(LAB, 5.0)
        assert process.wait(5) == -9


def test_containers_are_labelled_with_lab_host_and_user(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_nodes, "state_root", lambda: state)
    made = lab_of(state, LAB)
    labels = docker_nodes.labels(LAB, "run", "ue1", "ue")
    assert labels[docker_nodes.LABEL_ID] == made.id
    assert labels[docker_nodes.LABEL_OWNER] == f"{os.geteuid()}@{identity.host_id()}"
    assert len(identity.host_id()) == 16


def test_the_system_lock_says_whom_it_waits_for(
    state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host_state, "QUIET_SECONDS", 0.05)
    with system_lock():
        pass
    assert not caplog.records
    assert (state / ".lock").stat().st_mode & 0o777 == 0o600
    holder = subprocess.Popen(["flock", str(state / ".lock"), "sleep", "0.5"])
    try:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and is_free(state / ".lock"):
            time.sleep(0.005)
        with caplog.at_level(logging.WARNING, "testbed"), system_lock():
            pass
    finally:
        holder.wait()
    assert caplog.messages == [f"waiting for the system lock of the labs, held by process {holder.pid} (flock)"]


def is_free(path: Path) -> bool:
    with path.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

"""Labs that are broken in every way that a crash, a full disk or an upgrade leaves them: told, and removed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from testbed.cli import down, ps
from testbed.errors import HostError, TestbedError
from testbed.lab import lab as labs
from testbed.lab import removal, runtimes, state
from testbed.lab.state import LabState
from testbed.runtime.netns import rootless
from testbed.runtime.processes import discovery, lab_lock

STATE = LabState("x", "r", "netns", "edge-only", "/tmp/none", "", {"edge": {"gpu": "off"}}, ())
#: What lab.json holds, and what `ps` calls the lab.
BROKEN: dict[str, tuple[bytes | None, str]] = {
    "gone": (None, "in pieces"),
    "empty": (b"", "unreadable"),
    "torn": (msgspec.json.encode(STATE)[:40], "unreadable"),
    "binary": (b'{"name": "\xff\xfe"}', "unreadable"),
    "list": (b"[]", "unreadable"),
    "older": (b'{"name": "older"}', "unreadable"),
    "other-edge": (msgspec.json.encode(msgspec.structs.replace(STATE, resolved_lab={"edge": []})), "unreadable"),
    "other-runtime": (b'{"name": "x", "runtime": "podman"}', "unreadable"),
    "well": (msgspec.json.encode(STATE), "no controller"),
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of the test's own, on a host that has nothing else of ours and no engine."""
    for module in (discovery, labs, runtimes, state, lab_lock):
        monkeypatch.setattr(module, "state_root", lambda: tmp_path)
    monkeypatch.setattr(discovery, "_namespaces", lambda _: [])
    monkeypatch.setattr(discovery, "processes", lambda _=None: {})
    monkeypatch.setattr(rootless, "needed", lambda: False)
    monkeypatch.setattr(removal, "may_answer", lambda: False)
    monkeypatch.setattr(removal, "remove_containers", lambda *_: [])
    for module in (removal, state):
        monkeypatch.setattr(module, "list_containers", lambda *_: [])
    monkeypatch.setattr(down, "list_containers", lambda: [])
    return tmp_path


def make(root: Path, name: str, state: bytes | None) -> Path:
    folder = root / name
    folder.mkdir()
    if state is not None:
        (folder / "lab.json").write_bytes(state)
    return folder


@pytest.mark.parametrize("name", BROKEN)
def test_ps_tells_of_a_broken_lab_and_down_removes_it(root: Path, name: str) -> None:
    text, called = BROKEN[name]
    make(root, name, text)
    if name == "torn":
        (root / name / "processes.jsonl").write_bytes(b'{"kind":"sta')
    shown = CliRunner().invoke(ps.command, ["--json"], catch_exceptions=False)
    rows = [row for row in json.loads(shown.stdout) if row["lab"] == name]
    assert [row["state"] for row in rows] == [called]
    assert rows[0]["note"]
    result = CliRunner().invoke(down.command, [name], catch_exceptions=False)
    assert result.exit_code == 0
    assert not (root / name).exists()


def test_one_that_cannot_be_removed_does_not_stop_the_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c", "d"):
        make(root, name, BROKEN["well"][0] if name != "d" else b"torn")
    real: Callable[[str], None] = discovery.remove

    def fail_for_b(name: str) -> None:
        if name == "b":
            raise PermissionError("the cgroup of b is busy")
        real(name)

    monkeypatch.setattr(discovery, "remove", fail_for_b)
    monkeypatch.setattr(removal, "remove", fail_for_b)
    with lab_lock.lab_lock("c", "running this lab"):
        found = {one.lab: one for one in removal.remove_labs(["a", "b", "c", "d"])}
    assert (found["a"].left, found["d"].left) == ("", "")
    assert "the cgroup of b is busy; still there: directory" in found["b"].left
    assert "another command is running this lab" in found["c"].left
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == ["b", "c"]
    with pytest.raises(TestbedError, match=r"not everything could be removed: lab b: .*busy") as error:
        CliRunner().invoke(down.command, ["b"], catch_exceptions=False, standalone_mode=False)
    assert error.value.exit_code == 1


@pytest.mark.parametrize("whole", [True, False])
def test_a_docker_lab_without_its_engine_goes_from_this_host_and_says_what_is_left(
    root: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    text = msgspec.json.encode(msgspec.structs.replace(STATE, runtime="docker"))
    make(root, "d", text if whole else text.replace(b'"nodes":[]', b'"nodes":7'))

    def no_engine(*_: object, **__: object) -> None:
        raise HostError("no Docker Engine answers")

    monkeypatch.setattr(labs, "runtime_of", no_engine)
    (first,) = removal.remove_labs(["d"])
    assert "containers that it may have: no Docker Engine answers" in first.left
    assert not (root / "d").exists()
    (again,) = removal.remove_labs(["d"])
    assert (again.done, again.left) == ("there is no such lab; nothing was removed", "")


def test_what_was_never_there_is_not_said_to_be_removed(root: Path) -> None:
    make(root, "pieces", None)
    pieces, none = removal.remove_labs(["pieces", "none"])
    assert pieces.done == "its pieces were removed"
    assert none.done == "there is no such lab; nothing was removed"

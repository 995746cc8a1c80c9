"""Programs are found where an ordinary user's PATH does not look, and only what is missing is named."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from testbed.errors import HostError
from testbed.runtime.host import executables as programs
from testbed.runtime.netns import launch
from testbed.wires import capabilities

#: What Debian's /etc/profile gives a user who is not root.
USER_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"


def executable(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    return path


def test_the_sbin_folders_are_searched_behind_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only, both = executable(tmp_path / "sbin", "tc"), executable(tmp_path / "bin", "ip")
    executable(tmp_path / "sbin", "ip")
    monkeypatch.setattr(programs, "SBIN_FOLDERS", (str(tmp_path / "sbin"),))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert programs.find("tc") == str(only)
    assert programs.find("ip") == str(both)
    assert programs.require("making wires", "ip", "tc") == [str(both), str(only)]
    assert programs.search_path().split(os.pathsep) == [str(tmp_path / "bin"), str(tmp_path / "sbin")]


@pytest.mark.parametrize("folder", ["/usr/local/sbin", "/usr/sbin", "/sbin"])
def test_every_sbin_folder_is_behind_the_path_of_an_ordinary_user(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", USER_PATH)
    assert programs.search_path().split(os.pathsep).count(folder) == 1


def test_only_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "SBIN_FOLDERS", (str(tmp_path),))
    monkeypatch.setenv("PATH", str(tmp_path))
    executable(tmp_path, "ip")
    with pytest.raises(HostError, match=r"^making wires: the program tc is missing .*apt install iproute2\.$"):
        programs.require("making wires", "ip", "tc")
    with pytest.raises(HostError, match=r"the programs unshare, nsenter and tc are missing .*iproute2 util-linux"):
        programs.require("this", "ip", "unshare", "nsenter", "tc", fix="x")


def test_wires_are_tried_with_an_ordinary_users_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ip` in PATH and `tc` in sbin: what is named is what neither has."""
    monkeypatch.setattr(programs, "SBIN_FOLDERS", (str(tmp_path / "sbin"),))
    monkeypatch.setenv("PATH", str(tmp_path))
    executable(tmp_path, "ip")
    with pytest.raises(HostError, match="the program tc is missing"):
        capabilities.probe.__wrapped__()


def test_a_command_in_a_node_is_found_in_sbin_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "where-am-i"
    program.write_text(f"#!{sys.executable}\nimport json, os\nprint(json.dumps(os.environ['PATH']))\n")
    program.chmod(0o755)
    monkeypatch.setattr(programs, "SBIN_FOLDERS", (str(tmp_path),))
    monkeypatch.setenv("PATH", USER_PATH)
    pid = os.fork()
    if pid == 0:
        os._exit(launch.execute(launch.Place("", ()), ["where-am-i"]))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert json.loads(capfd.readouterr().out).endswith(str(tmp_path))

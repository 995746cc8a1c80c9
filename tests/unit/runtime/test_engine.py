"""Which engine is asked, and which are refused: the same for `doctor`, `--runtime auto` and a run."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.credentials.errors import StoreError
from docker.errors import APIError, DockerException

from testbed.errors import HostError, InputError, TestbedError
from testbed.lab import doctor
from testbed.lab import runtimes as select
from testbed.runtime.docker import client, docker_nodes, docker_services, engine, presence, user_files
from testbed.runtime.docker.client import connect, engine_errors
from testbed.runtime.docker.docker_build import build


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for variable in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()
    return tmp_path / "docker"


def context(settings: Path, name: str, host: str) -> None:
    folder = settings / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    folder.mkdir(parents=True)
    meta = {"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}}}
    (folder / "meta.json").write_text(json.dumps(meta))


def test_the_engine_is_that_of_the_docker_command(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.host() == "unix:///var/run/docker.sock"
    context(settings, "mine", "unix:///mine.sock")
    context(settings, "other", "unix:///other.sock")
    (settings / "config.json").write_text(json.dumps({"currentContext": "mine"}))
    assert engine.host() == "unix:///mine.sock"
    monkeypatch.setenv("DOCKER_CONTEXT", "other")
    assert engine.host() == "unix:///other.sock"
    monkeypatch.setenv("DOCKER_CONTEXT", "default")
    assert engine.host() == "unix:///var/run/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "unix:///named.sock")
    assert engine.host() == "unix:///named.sock"


@pytest.mark.parametrize("content", ["", "[]", "{", "{}"])
def test_settings_that_cannot_be_read_are_none(settings: Path, content: str) -> None:
    (settings / "config.json").write_text(content)
    assert engine.host() == "unix:///var/run/docker.sock"


def test_a_context_that_is_not_there_is_named(settings: Path) -> None:
    (settings / "config.json").write_text(json.dumps({"currentContext": "gone"}))
    with pytest.raises(HostError, match="docker context 'gone' names no engine"):
        engine.host()


@pytest.mark.parametrize("address", ["ssh://me@far", "tcp://10.0.0.1:2375", "http://x", "npipe:////./pipe/docker"])
def test_an_engine_of_another_machine_is_refused_by_everybody(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(HostError, match=f"The Docker Engine at {address} is reached over a network") as caught:
        connect()
    assert caught.value.exit_code == 3
    assert presence.client_if_any() is None
    assert presence.list_containers() == []
    runtime, reason = select._choose()
    found, _ = doctor._docker()
    assert (runtime, reason) == ("netns", found)
    assert "is reached over a network" in found


def test_an_engine_that_does_not_answer_is_the_same_for_doctor_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert select._choose() == ("netns", doctor._docker()[0])
    assert "No Docker Engine answers" in doctor._docker()[0]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert select._choose() == ("netns", doctor._docker()[0])
    assert "root is missing" in doctor._docker()[0]


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Path]:
    """Something that listens and hangs up."""
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(5)

        def hang_up() -> None:
            try:
                while True:
                    server.accept()[0].close()
            except OSError:
                return

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        yield path
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.thorough
def test_what_listens_and_is_no_engine(listener: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{listener}")
    assert engine.require_local() == f"unix://{listener}"
    with pytest.raises(HostError, match="No Docker Engine answers"):
        connect(timeout_seconds=2)


@pytest.mark.root
def test_an_engine_outside_of_this_container_is_refused(listener: Path) -> None:
    """Its process has no number in a process namespace of our own."""
    code = "from testbed.runtime.docker.engine import require_local; require_local()"
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", code],
        env={**os.environ, "DOCKER_HOST": f"unix://{listener}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "runs outside of this container: its process ids mean nothing in here" in done.stderr


def test_the_names_of_security_options() -> None:
    said = {"SecurityOptions": ["name=seccomp,profile=default", "name=selinux", "name=userns", "name=rootless"]}
    assert engine.options_of(said) == {"seccomp", "selinux", "userns", "rootless"}
    assert engine.options_of({"SecurityOptions": None}) == frozenset()


class Recording:
    """An engine that takes every container and remembers how it was asked for."""

    def __init__(self, *options: str) -> None:
        self.options = options
        self.asked: dict[str, Any] = {}
        self.containers = SimpleNamespace(run=lambda image, command, **rest: self.asked.update(rest))

    def info(self) -> dict[str, Any]:
        return {"SecurityOptions": [f"name={option}" for option in self.options]}

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("options", "security", "users"),
    [
        (("seccomp",), ["no-new-privileges"], None),
        (("seccomp", "userns"), ["no-new-privileges"], "host"),
        (("selinux",), ["no-new-privileges", "label=disable"], None),
    ],
)
def test_containers_on_engines_that_remap_users_or_label_files(
    options: tuple[str, ...], security: list[str], users: str | None
) -> None:
    client: Any = Recording(*options)
    docker_services.run_container(client, lab="x", run_id="x", node="x", role="ue", image="x", command=[])
    assert client.asked["security_opt"] == security
    assert client.asked.get("userns_mode") == users


def test_a_rootless_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("testbed.runtime.docker.client.connect", lambda: Recording("seccomp", "rootless"))
    with pytest.raises(HostError, match="a rootless one"):
        client.require()


def container(pid: int, identity: str, role: str = "ue") -> Any:
    attributes = {"State": {"Pid": pid}}
    labels = {docker_nodes.LABEL_ROLE: role, docker_nodes.LABEL_NODE: "ue1"}
    return SimpleNamespace(attrs=attributes, id=identity, labels=labels, reload=lambda: None)


def test_a_process_id_of_another_machine_is_never_used(tmp_path: Path) -> None:
    """Here it is this very process's, or nobody's."""
    for pid in (os.getpid(), 2**22 - 1):
        with pytest.raises(HostError, match="its process ids mean nothing here"):
            docker_nodes.check_here(container(pid, "f" * 64), tmp_path)
    assert not docker_nodes.check_here(container(0, "f" * 64), tmp_path)


def test_a_credentials_helper_that_is_not_installed(settings: Path, tmp_path: Path) -> None:
    (settings / "config.json").write_text(json.dumps({"auths": {}, "credsStore": "desktop"}))
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM scratch\n")
    import docker

    client: Any = SimpleNamespace(api=docker.APIClient(version="1.41", base_url=f"unix://{tmp_path}/none"))
    with pytest.raises(
        HostError, match=r"building x: docker's credentials helper fails .*docker-credential-desktop"
    ) as e:
        build(client, tag="x", dockerfile=dockerfile, base="y", labels={}, progress=lambda _: None)
    assert str(settings / "config.json") in str(e.value)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StoreError("x"), HostError),
        (DockerException("Credentials store error: StoreError('x')"), HostError),
        (APIError("x"), TestbedError),
        (ConnectionResetError("x"), TestbedError),
    ],
)
def test_what_an_engine_raises_is_an_error_of_ours(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^doing this: "), engine_errors("doing this"):
        raise error


# ---------------------------------------------------------------------------------------- folders that containers get


def test_containers_get_the_folders_that_hold_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    with_modules, empty, package = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    for folder in (with_modules, empty, package / "mine"):
        folder.mkdir(parents=True)
    (with_modules / "model.py").touch()
    (package / "mine" / "__init__.py").touch()
    paths = ["/", str(with_modules), str(empty), str(package), str(with_modules), str(tmp_path / "missing"), sys.prefix]
    monkeypatch.setattr(sys, "path", paths)
    assert user_files.user_paths() == [str(with_modules), str(package)]


def test_a_folder_that_is_closed_to_containers_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.py").touch()
    tmp_path.chmod(0o700)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(InputError, match=f"may not read this folder.*{tmp_path}.*chmod"):
        user_files.user_paths()


def test_a_folder_that_would_cover_a_containers_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/tmp", "/"])
    monkeypatch.setattr(user_files, "_has_modules", lambda _: True)
    with pytest.raises(InputError, match="it would cover their own; got '/tmp'"):
        user_files.user_paths()


def test_python_m_testbed_imports_nothing_from_the_present_directory(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise SystemExit('imported from the present directory')")
    done = subprocess.run(
        [sys.executable, "-m", "testbed", "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

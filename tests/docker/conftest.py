"""Containers of a lab that runs small programs of the test instead of agents."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import docker
import pytest

from testbed.runtime.base import NodeSpec, ProcessSpec
from testbed.runtime.docker import docker_runtime
from testbed.runtime.docker.client import connect
from testbed.runtime.docker.docker_runtime import DockerRuntime
from testbed.runtime.host.state import state_root
from tests.emulation.conftest import Bench

#: Programs by the name of their module; they are found because a user's folders on sys.path are mounted.
PROGRAMS = {
    "tb_test_sleeper": """
import time
def main(config):
    print("hello from", config, flush=True)
    time.sleep(300)
""",
    "tb_test_filler": """
def main(config):
    filled = []
    while True:
        filled.append(bytearray(b"x" * (1 << 20)))
""",
    "tb_test_failer": """
import sys
def main(config):
    print("about to fail", flush=True)
    sys.exit(7)
""",
    "tb_test_threads": """
import pathlib, threading, time
def main(config):
    thread = threading.Thread(target=time.sleep, args=(300,))
    thread.start()
    pathlib.Path("/tmp/tid").write_text(str(thread.native_id))
    thread.join()
""",
    "tb_test_unix_server": """
import pathlib, socket
def main(config):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(pathlib.Path(config).parent.parent / "ipc" / "ue0" / "records"))
        server.listen()
        while True:
            connection, _ = server.accept()
            connection.sendall(b"served")
            connection.close()
""",
    "tb_test_server": """
import socket
def main(config):
    with socket.create_server(("0.0.0.0", 5555)) as server:
        while True:
            connection, _ = server.accept()
            connection.sendall(b"served")
            connection.close()
""",
}

UE = NodeSpec("ue0", "ue", cpus=0.25, quota_host_cores=0.25, memory_bytes=1 << 29)
EDGE = NodeSpec("edge", "edge", cpus=0.8, quota_host_cores=0.8, cpu_list="0")
RADIO = NodeSpec("radio", "radio")
RECORDER = NodeSpec("recorder", "recorder", network=False)

Start = Callable[[Sequence[NodeSpec], dict[str, str]], DockerRuntime]


@pytest.fixture(scope="session")
def client() -> Iterator[docker.DockerClient]:
    client = connect()
    yield client
    client.close()


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, text in PROGRAMS.items():
        (folder / f"{name}.py").write_text(text)
    # pytest's folders are private; a user's own are readable
    for parent in (folder, *folder.parents):
        if parent == Path("/tmp"):
            break
        parent.chmod(parent.stat().st_mode | 0o055)
    monkeypatch.syspath_prepend(str(folder))
    # torch would take seconds per container and is not what is tested here
    monkeypatch.setattr(docker_runtime, "IMPORTS", {"ue": (), "edge": (), "controller": ()})


@pytest.fixture
def lab_name(request: pytest.FixtureRequest) -> str:
    return f"dt{os.getpid()}-{abs(hash(request.node.nodeid)) % 10_000}"


@pytest.fixture
def start(programs: None, lab_name: str) -> Iterator[Start]:
    """Create nodes and start a program in each; everything is removed at the end."""
    made: list[DockerRuntime] = []

    def begin(nodes: Sequence[NodeSpec], modules: dict[str, str]) -> DockerRuntime:
        lab = lab_name if not made else f"{lab_name}-{len(made)}"
        runtime = DockerRuntime(lab, state_root() / lab, f"run-of-{lab}")
        made.append(runtime)
        runtime.create(nodes)
        configs = runtime.lab_directory / "config"
        runtime.start([ProcessSpec(node, module, configs / f"{node}.json") for node, module in modules.items()])
        return runtime

    yield begin
    for runtime in made:
        runtime.remove()


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def docker_bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path, "docker") as bench:
        yield bench

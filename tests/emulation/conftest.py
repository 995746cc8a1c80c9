"""Labs for tests: the real command line on a tiny model; every lab has its own name and is removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.signals import heard
from tests.warm import Command

LABS = Path(__file__).parent / "labs"


class Bench:
    """Runs ``testbed`` for one test, in its own folder, with lab names nobody else has.

    As a context, it ends what it started and removes its labs, whatever the test found.
    """

    def __init__(self, folder: Path, runtime: str = "netns") -> None:
        self.folder = folder
        self.runtime = runtime
        self.names: list[str] = []
        self._processes: list[subprocess.Popen[str]] = []
        # what is known by content is known to all tests: a run need not trace its model anew
        shared = Path(tempfile.gettempdir()) / f"testbed-tests-{os.getuid()}" / "traced"
        shared.mkdir(parents=True, exist_ok=True)
        own = self.folder / "cache" / "testbed"
        own.mkdir(parents=True, exist_ok=True)
        if not (own / "traced").exists():
            (own / "traced").symlink_to(shared)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
        for name in self.names:
            self.call("down", name)

    def name(self) -> str:
        name = f"t{uuid.uuid4().hex[:8]}"
        self.names.append(name)
        return name

    def start(self, *arguments: str, afresh: bool = False) -> subprocess.Popen[str]:
        """A command; ``afresh``: by an interpreter of its own, as users start it, not by a fork of a warm one."""
        environment = {  # nor does what the user's host has measured decide what happens here
            **os.environ,
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "XDG_STATE_HOME": str(self.folder / "state"),
        }
        process = (
            subprocess.Popen(
                [sys.executable, "-m", "testbed", *arguments],
                cwd=self.folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=heard,
                env=environment,
            )
            if afresh
            else Command(arguments, self.folder, environment)
        )
        self._processes.append(process)
        return process

    def call(self, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=240)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert code is None or process.returncode == code, f"{arguments} ended with {process.returncode}:\n{err}\n{out}"
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def run(self, name: str, *arguments: str, code: int | None = 0, lab: str = "tiny.yaml") -> dict[str, Any]:
        """``testbed run`` of one of the small labs; its summary."""
        options = ("--name", name, "--runtime", self.runtime, "--json", *arguments)
        answer = self.call("run", str(LABS / lab), *options, code=code)
        summary: dict[str, Any] = json.loads(answer.stdout)
        return summary

    def up(self, name: str, *arguments: str) -> dict[str, Any]:
        lab = str(LABS / "tiny.yaml")
        answer = self.call("up", lab, "--name", name, "--runtime", self.runtime, "--json", *arguments)
        result: dict[str, Any] = json.loads(answer.stdout)
        return result

    def processes(self, name: str) -> dict[str, int]:
        """Pid of the running process of each node."""
        rows = json.loads(self.call("ps", name, "--json").stdout)
        return {process["node"]: process["pid"] for process in rows[0]["processes"] if process["status"] == "running"}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as bench:
        yield bench

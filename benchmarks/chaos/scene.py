"""One lab under a real command line, with everything of it in one folder and under one name."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks._labs import ROOT
from benchmarks.chaos.relay import Relay
from testbed.lab.expected import expected_tasks
from testbed.labfile.load import load
from testbed.runtime.host.state import state_root
from testbed.runtime.processes import discovery
from testbed.runtime.processes.child import stat_fields

LAB = ROOT / "tests" / "emulation" / "labs" / "tiny.yaml"
#: In the environment of all that a scene's commands start, whatever else they carry.
TOKEN = "TESTBED_CHAOS"
#: No command about a small lab takes so long, unless it hangs.
PATIENCE_SECONDS = 240.0


@dataclass
class Said:
    """How a command ended."""

    verb: str
    code: int | None  # None: it had to be killed
    text: str  # standard error
    lab_was_busy: bool = False  # the run was still at work when this had ended


@dataclass
class Scene:
    """A ``testbed run`` of a small lab, which something happens to."""

    name: str
    folder: Path
    runtime: str
    seconds: float  # of arrivals
    random: random.Random
    variables: dict[str, str] = field(default_factory=dict)
    said: list[Said] = field(default_factory=list)  # by other commands, meanwhile
    undo: list[Callable[[], None]] = field(default_factory=list)  # before the lab is taken down
    command: subprocess.Popen[str] | None = None
    victims: set[str] = field(default_factory=set)
    relay: Relay | None = None  # before the engine, if something is to happen to that

    def __post_init__(self) -> None:
        for name in ("tmp", "cache/testbed", "state"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def run_directory(self) -> Path:
        return self.folder / "out" / "run"

    def options(self) -> list[str]:
        # random: tasks are on the device, on the wire and at the edge whenever something happens
        return [str(LAB), "--name", self.name, "--runtime", self.runtime, "--policy", "random"]

    def start(self, verb: str, *arguments: str) -> subprocess.Popen[str]:
        errors = (self.folder / f"{verb}.err").open("w")
        with errors:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "testbed", verb, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,  # a file: a pipe that nobody reads would hold the command up
                text=True,
                cwd=self.folder,
                env=self.environment(),
                preexec_fn=_heard,
            )

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.folder / "tmp"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "XDG_STATE_HOME": str(self.folder / "state"),
            TOKEN: self.name,
            **self.variables,
        }

    def say(self, verb: str, *arguments: str) -> Said:
        """Another command, to its end."""
        process = self.start(verb, *arguments)
        code = end_of(process, PATIENCE_SECONDS)
        busy = self.command is not None and self.command.poll() is None
        return Said(verb, code, (self.folder / f"{verb}.err").read_text(errors="replace"), busy)

    def run(self) -> subprocess.Popen[str]:
        arguments = ("--duration", f"{self.seconds:g} s", "--out", str(self.run_directory))
        self.command = self.start("run", *self.options(), *arguments)
        return self.command

    def at_work(self) -> bool:
        return self.command is not None and self.command.poll() is None

    # ----------------------------------------------------------------------------------------------- what there is

    def phase(self) -> str:
        """Of the run: coming up, running, ending, over."""
        if not self.at_work():
            return "over"
        try:
            manifest = json.loads((self.run_directory / "manifest.json").read_bytes())
        except (OSError, ValueError):
            return "coming up"
        return "ending" if manifest.get("ended_utc") else "running"

    def processes(self) -> dict[str, int]:
        """Programs of the lab by name; helpers under the name of what they help, and a number."""
        found: dict[str, int] = {}
        for pid in sorted(discovery.processes(self.name)):
            with suppress(OSError):
                comm = Path(f"/proc/{pid}/comm").read_text().strip()
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                name = _name(pid, comm, words)
                found[name if name not in found else f"{name}-{pid}"] = pid
        return found

    def state_directory(self) -> Path:
        return state_root() / self.name

    def expected_arrivals(self) -> dict[str, int]:
        """Tasks of each UE, from the law of its arrivals alone."""
        return expected_tasks(load(LAB), self.seconds)


def _name(pid: int, comm: str, words: list[bytes]) -> str:
    if comm.startswith("tb-"):
        return comm.removeprefix("tb-")
    module = next((word.decode(errors="replace") for word in words[1:] if word and word[:1] != b"-"), "")
    module = Path(module).stem if "/" in module else module
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    node = next((one.partition(b"=")[2].decode() for one in variables if one.startswith(b"TESTBED_NODE=")), "")
    return f"{node} ({module.rpartition('.')[2] or comm})".strip()


def _heard() -> None:
    """The command hears what ends it, though nohup or a shell may have had this process ignore it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def end_of(process: subprocess.Popen[str], patience_seconds: float) -> int | None:
    """Exit code of a command; None if it had to be killed."""
    try:
        return process.wait(patience_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def is_alive(pid: int) -> bool:
    return stat_fields(pid)[:1] not in ([], ["Z"], ["X"])

"""Tiny programs and helpers for the tests of the embedded runtime (imported by them, and by the labs' processes)."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from testbed.runtime.base import NodeSpec, ProcessSpec
from testbed.runtime.host.state import state_root
from testbed.runtime.netns.netns_runtime import NetnsRuntime

_FILLED: list[bytearray] = []
PROGRAM = "tests.emulation.netns_lab"


def main(config: Path) -> None:
    """Do what the configuration says: say where we are, then sleep, exit, raise or compute."""
    settings = json.loads(config.read_text())
    if settings["action"] == "raise":
        raise RuntimeError("the program's own error")
    if settings["action"] == "talk":
        for _ in range(10):
            print("talk " * 200_000, flush=True)
    if settings["action"] == "fill":
        while _FILLED.append(bytearray(os.urandom(1 << 20))) is None:
            pass
    if settings["action"] == "exit":
        raise SystemExit(settings["code"])
    thread = threading.Thread(target=_stage, args=(settings["action"] == "spin",), daemon=True)
    thread.start()
    facts = {
        "pid": os.getpid(),
        "tid": thread.native_id,
        "namespace": os.stat("/proc/thread-self/ns/net").st_ino,  # noqa: PTH116
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "cgroups": Path("/proc/self/cgroup").read_text(),
        "node": os.environ["TESTBED_NODE"],
        "run_id": os.environ["TESTBED_RUN_ID"],
        "omp": os.environ["OMP_NUM_THREADS"],
        "first_output": _convolve() if settings.get("convolve") else 0.0,
    }
    path = config.with_name(f"{os.environ['TESTBED_NODE']}.facts")
    path.with_suffix(".part").write_text(json.dumps(facts))
    path.with_suffix(".part").rename(path)
    print("up", flush=True)
    time.sleep(3600)


def _stage(spin: bool) -> None:
    while spin:
        pass
    time.sleep(3600)


def _convolve() -> float:
    import torch

    return float(torch.nn.functional.conv2d(torch.ones(1, 3, 64, 64), torch.ones(8, 3, 3, 3)).mean())


def of_this_process(name: str) -> str:
    """A lab name that no other test process has."""
    return f"{name}-{os.getpid()}"


def runtime(lab: str) -> NetnsRuntime:
    return NetnsRuntime(lab, state_root() / lab, "run-1")


def process(
    lab: NetnsRuntime, node: str, action: str = "sleep", *, needs_torch: bool = False, **more: object
) -> ProcessSpec:
    """A process that does ``action``; writes its configuration."""
    lab.lab_directory.joinpath("config").mkdir(parents=True, exist_ok=True)
    config = lab.lab_directory / "config" / f"{node}.json"
    config.write_text(json.dumps({"action": action, **more}))
    return ProcessSpec(node, PROGRAM, config, needs_torch)


def bring_up(lab: NetnsRuntime, nodes: Sequence[NodeSpec], *, needs_torch: bool = False, action: str = "sleep") -> None:
    """Create the nodes, start one process in each and wait until all have said where they are."""
    lab.create(nodes)
    lab.start([process(lab, node.name, action, needs_torch=needs_torch) for node in nodes])
    for node in nodes:
        facts(lab, node.name)


def facts(lab: NetnsRuntime, node: str) -> dict[str, object]:
    """What a node's process said about itself, waiting for it."""
    path = lab.lab_directory / "config" / f"{node}.facts"
    wait_for(path.exists, f"{node} says where it is: {lab.processes()}")
    result: dict[str, object] = json.loads(path.read_text())
    return result


def wait_for(condition: Callable[[], bool], what: str, timeout_seconds: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(0.01)


def number(value: object) -> int:
    assert isinstance(value, int)
    return value

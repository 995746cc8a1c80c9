"""Repair of a lab that is up: programs that died are started again from the configs that are there."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

import msgspec

from testbed.errors import TestbedError
from testbed.lab.lab import Lab, send
from testbed.lab.plan import Plan, Program
from testbed.protocol.configs import RecorderConfig, read_config, write_config

RESTART_SECONDS = 30.0


def dead_programs(lab: Lab, plan: Plan) -> list[Program]:
    """Programs of the plan of which no process runs; one that waits to be told its program does not."""
    running = {process.node for process in lab.runtime.processes() if process.running and process.program}
    return [program for program in plan.programs if program.node not in running]


def restart(lab: Lab, programs: Sequence[Program], priority: int) -> None:
    """Start programs again from the configs that are there, and wait until they are ready. Raises TestbedError."""
    before = _instances(lab)
    lab.runtime.start([lab.process_spec(program) for program in programs])
    path = lab.config_path("recorder")
    write_config(msgspec.structs.replace(read_config(path, RecorderConfig), cpu_groups=lab.cpu_groups()), path)
    staged = [program.node for program in programs if program.role in ("ue", "edge")]
    greeting = [program.node for program in programs if program.role in ("ue", "edge", "player")]
    deadline = time.monotonic() + RESTART_SECONDS
    while time.monotonic() < deadline:
        now = _instances(lab)
        if all(now.get(node) not in (None, before.get(node)) for node in greeting):
            if lab.state.realtime:
                lab.make_realtime(staged, priority)
            return
        time.sleep(0.05)
    raise TestbedError(f"not ready {RESTART_SECONDS:g} s after their restart: {', '.join(greeting)}")


def _instances(lab: Lab) -> dict[str, tuple[int, float]]:
    """Which process of each node has said Hello last."""
    return {hello.node: (hello.pid, hello.began_seconds) for hello in lab.client.status().hellos}


def end(lab: Lab, node: str, timeout_seconds: float = 3.0) -> None:
    """End a node's program, by force if it does not by itself. Raises TestbedError if that does not help either."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            process = lab.process_of(node)
            if process is None or not process.running:
                return
            send(process.pid, number)
            time.sleep(0.02)
    raise TestbedError(f"the program of {node} does not end although it was killed")

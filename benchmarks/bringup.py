"""How long a lab takes to come up and to go: 50 nodes of the embedded runtime, with a tiny program that needs torch.

``python -m benchmarks.bringup [--nodes N] [--json]``. Needs root. Prints the time of each step, in seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from testbed.runtime.base import NodeSpec, ProcessSpec
from testbed.runtime.host.state import state_root
from testbed.runtime.netns.netns_runtime import NetnsRuntime
from testbed.runtime.processes import discovery

LAB = "bench-bringup"
TARGETS_SECONDS = {"create": 0.3, "forks": 1.5, "up": 8.0, "down": 2.0}


def main(config: Path) -> None:
    """The program in each node: one convolution, as the first inference would start, then say so and wait."""
    import torch

    torch.nn.functional.conv2d(torch.ones(1, 3, 64, 64), torch.ones(8, 3, 3, 3))
    print("serving", flush=True)
    time.sleep(3600)


def measure(nodes: int) -> dict[str, float]:
    """Seconds per step; ``up`` is all of them but ``down``."""
    sys.path.insert(0, str(Path(__file__).parent))
    discovery.remove(LAB)
    runtime = NetnsRuntime(LAB, state_root() / LAB, "bench")
    names = [f"ue{index}" for index in range(nodes)]
    seconds: dict[str, float] = {}
    start = begin = time.monotonic()

    def lap(step: str) -> None:
        nonlocal begin
        now = time.monotonic()
        seconds[step] = now - begin
        begin = now

    try:
        runtime.prewarm()
        runtime.create([NodeSpec(name, "ue", quota_host_cores=0.2) for name in names])
        lap("create")
        # an empty request returns when the imports are done
        runtime.wait_until_warm()
        lap("rest of the torch import")
        config = runtime.lab_directory / "config" / "none.json"
        runtime.start([ProcessSpec(name, "bringup", config, needs_torch=True) for name in names])
        lap("forks")
        logs = [runtime.logs(name) for name in names]
        while not all(log.exists() and log.read_text() == "serving\n" for log in logs):
            time.sleep(0.005)
        lap("first convolution in all")
        seconds["up"] = time.monotonic() - start
    finally:
        begin = time.monotonic()
        runtime.remove()
        lap("down")
    return seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    measured = measure(arguments.nodes)
    if arguments.json:
        print(json.dumps({"nodes": arguments.nodes, "seconds": measured, "targets_seconds": TARGETS_SECONDS}))
    else:
        for step, value in measured.items():
            target = f"  (target {TARGETS_SECONDS[step]} s)" if step in TARGETS_SECONDS else ""
            print(f"{step:28s} {value:7.3f} s{target}")

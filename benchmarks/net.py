"""A safety net for moves of code: ``python -m benchmarks.net OUT.json`` before and after, then ``diff`` of the two.

Of every shipped lab: its scenario, its plan in each runtime, and what the simulator brings under every policy that
takes the lab, at two seeds - delays and energy to the last bit. What a policy refuses, and why, is part of it. About
four minutes on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from controller.policies import registry
from controller.simulator.result import SimulatedTasks, SimulationResult
from controller.simulator.simulate import simulate
from testbed.lab.plan import RuntimeName, make_plan
from testbed.lab.simulate import channel_states
from testbed.labfile.load import load
from testbed.labfile.resolve import ResolvedLab, resolve
from testbed.labfile.schema import Topology
from testbed.report.fidelity.limits import DRAIN_SECONDS

LABS = Path(__file__).parent.parent / "topologies"
SEEDS = (1, 2)
SLOTS = 12
#: Minutes for a decision where there are many UEs or blocks.
SLOW = {"exhaustive", "upload-exhaustive", "li-gd-exhaustive", "myopic", "dds-optimum", "iao"}
RUNTIMES: tuple[RuntimeName, ...] = ("netns", "docker")


def net_of(path: Path) -> dict[str, Any]:
    """All that is compared of one lab."""
    topology = load(path)
    duration = SLOTS * topology.slot
    resolved = resolve(topology, path.name, path.parent, duration, lambda _text: None)
    peaks = resolved.peak_states()
    return {
        "scenario": msgspec.to_builtins(resolved.scenario),
        "plans": {kind: make_plan(topology, kind, peaks).to_json() for kind in RUNTIMES},
        "simulated": {
            f"{name}, seed {seed}": simulated(topology, resolved, name, seed)
            for name in sorted(set(registry.available()) - (SLOW if len(topology.expand()) > 4 else set()))
            for seed in SEEDS
        },
    }


def simulated(topology: Topology, resolved: ResolvedLab, name: str, seed: int) -> dict[str, Any]:
    """One simulation, or why there is none."""
    own = name == topology.policy.name
    try:
        result = simulate(
            resolved.scenario,
            registry.create(name, topology.policy.options if own else {}),
            SLOTS,
            seed,
            "event",
            channel_states(topology, resolved.traces, SLOTS * topology.slot + DRAIN_SECONDS),
            arrival_files=resolved.arrival_times(),
            task_timeout_seconds=topology.task_timeout,
            drain_seconds=DRAIN_SECONDS,
        )
    except ValueError as error:
        return {"refused": str(error)}
    assert result.tasks is not None
    return digests(result) | {"tasks": digests(result.tasks)}


def digests(of: SimulationResult | SimulatedTasks) -> dict[str, Any]:
    """Sum and hash of each array; the sum says how far two differ."""
    arrays = {field.name: getattr(of, field.name) for field in dataclasses.fields(of)}
    return {
        name: f"{np.nansum(value):.12g} {hashlib.sha256(value.tobytes()).hexdigest()[:16]}"
        for name, value in arrays.items()
        if isinstance(value, np.ndarray) and name != "decide_seconds"
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.net", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("labs", nargs="*", metavar="LAB", help="names of shipped labs; default: all")
    asked = parser.parse_args()
    paths = [path for path in sorted(LABS.glob("*.yaml")) if not asked.labs or path.stem in asked.labs]
    with ProcessPoolExecutor() as pool:
        found = dict(zip((path.stem for path in paths), pool.map(net_of, paths), strict=True))
    asked.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

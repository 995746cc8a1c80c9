"""How long a lab of containers takes to come up beside plain containers, and which part of that is ours.

    python -m benchmarks.docker_bringup [--ues 10] [--repeat 3]

Interleaved on the same host, engine and image: ``docker-compose up -d`` of N plain containers (without a network, as
nodes have none, and with compose's own), and ``testbed up`` of the quickstart lab with N UEs, cut where its progress
says so. The engine's part is *nodes* (N UEs, the edge and the controller as containers with limits, labels and named
namespaces); ours are *wires*, *programs* (each container imports torch and loads its model) and *ready* (every agent
has said hello, stages are real-time). Root, an engine and ``docker-compose`` are needed.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from testbed.errors import TestbedError
from testbed.runtime.docker.client import connect
from testbed.runtime.docker.images import ensure_node_image

QUICKSTART = Path(__file__).parents[1] / "topologies" / "quickstart.yaml"
#: What ``testbed up`` says when a phase begins, and the phase.
PHASES = {"creating": "nodes", "connecting": "wires", "starting": "programs", "waiting": "ready"}
COMPOSE = ("docker-compose",), ("docker", "compose")


def compose_command() -> tuple[str, ...]:
    """The first form of compose that answers here."""
    for command in COMPOSE:
        try:
            if subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
                return command
        except FileNotFoundError:
            continue
    click.echo("error: neither docker-compose nor docker compose answers; apt-get install docker-compose", err=True)
    sys.exit(3)


def compose(command: Sequence[str], image: str, count: int, *, network: bool) -> float:
    """Seconds until ``count`` plain containers of the image run."""
    service = {"image": image, "command": ["sleep", "600"], **({} if network else {"network_mode": "none"})}
    services = {f"plain{index}": service for index in range(count)}
    with tempfile.TemporaryDirectory(prefix="tb-bench-") as folder:
        (Path(folder) / "docker-compose.json").write_text(json.dumps({"version": "3.7", "services": services}))
        base = [*command, "-f", f"{folder}/docker-compose.json", "-p", f"tbbench{os.getpid()}"]
        begin = time.monotonic()
        try:
            subprocess.run([*base, "up", "-d"], check=True, capture_output=True)
            return time.monotonic() - begin
        finally:
            subprocess.run([*base, "down", "-t", "0"], check=True, capture_output=True)


def lab(count: int) -> dict[str, float]:
    """Seconds of each phase of ``testbed up``, of all from the first container on, and of ``testbed down``."""
    name = f"dbench{os.getpid()}"
    settings = {
        "ues.0.count": count,
        "ues.0.speed": 0.1,
        "edge.cpus": 0.5,
        "monitoring.prometheus": "off",
        "monitoring.grafana": "off",
    }
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    testbed = [sys.executable, "-m", "testbed"]
    with tempfile.TemporaryDirectory(prefix="tb-bench-") as folder:
        up = [*testbed, "up", str(QUICKSTART), "--name", name, "--runtime", "docker", "--out", f"{folder}/run"]
        stamps: list[tuple[str, float]] = []
        said: list[str] = []
        try:
            with subprocess.Popen(
                [*up, *overrides], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            ) as process:
                assert process.stderr is not None
                for line in process.stderr:
                    said.append(line)
                    phase = PHASES.get(line.removeprefix("- ").split(" ")[0])
                    if phase:
                        stamps.append((phase, time.monotonic()))
            stamps.append(("", time.monotonic()))
            if process.returncode != 0 or [phase for phase, _ in stamps] != [*PHASES.values(), ""]:
                raise TestbedError(f"testbed up ended with {process.returncode}: {''.join(said)}")
        finally:
            begin = time.monotonic()
            subprocess.run([*testbed, "down", name], check=True, capture_output=True)
            down = time.monotonic() - begin
    phases = {f"{phase}_seconds": end - start for (phase, start), (_, end) in itertools.pairwise(stamps)}
    return {**phases, "up_seconds": stamps[-1][1] - stamps[0][1], "down_seconds": down}


@click.command()
@click.option("--ues", default=10, show_default=True)
@click.option("--repeat", default=3, show_default=True)
def main(ues: int, repeat: int) -> None:
    """Print medians and ranges as JSON."""
    command = compose_command()
    client = connect()
    image = ensure_node_image(client, "cpu", lambda line: click.echo(line, err=True))
    client.close()
    runs: list[dict[str, float]] = []
    for _ in range(repeat):
        plain = {
            "compose_seconds": compose(command, image, ues, network=False),
            "compose_with_network_seconds": compose(command, image, ues, network=True),
        }
        runs.append({**plain, **lab(ues)})
    figures = {
        name: {
            "median": round(statistics.median(run[name] for run in runs), 2),
            "least": round(min(run[name] for run in runs), 2),
            "most": round(max(run[name] for run in runs), 2),
        }
        for name in runs[0]
    }
    click.echo(json.dumps({"plain_containers": ues, "lab_containers": ues + 2, "runs": repeat, **figures}, indent=1))


if __name__ == "__main__":
    main()

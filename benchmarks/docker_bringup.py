"""How long containers take to come up, and which part of that is ours.

    python benchmarks/docker_bringup.py [--ues 10] [--repeat 3]

Three figures, on the same host and image: plain containers, started eight at a time as `docker compose up` would; the
same number of UE nodes created by the docker runtime (limits, labels, named namespaces); and those nodes until each has
imported torch and waits for its program. Root and an engine are needed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import click

from testbed.runtime import discovery
from testbed.runtime.base import NodeSpec
from testbed.runtime.docker import DockerRuntime
from testbed.runtime.docker_build import connect
from testbed.runtime.docker_entry import warm_path
from testbed.runtime.images import ensure_node_image


def plain(image: str, count: int) -> float:
    """Seconds until ``count`` plain containers of the image run; eight requests at a time, as compose does."""
    names = [f"tb-bench-plain-{os.getpid()}-{index}" for index in range(count)]

    def start(name: str) -> None:
        command = ["docker", "run", "--detach", "--network", "none", "--name", name, image, "sleep", "600"]
        subprocess.run(command, check=True, capture_output=True)

    begin = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(start, names))
    taken = time.monotonic() - begin
    subprocess.run(["docker", "rm", "--force", *names], check=True, capture_output=True)
    return taken


def ours(count: int) -> tuple[float, float, float]:
    """Seconds until ``count`` UE nodes are created, until all are warm, and for the removal."""
    lab = f"dbench{os.getpid()}"
    runtime = DockerRuntime(lab, discovery.state_root() / lab, "bench")
    names = [f"ue{index}" for index in range(count)]
    try:
        begin = time.monotonic()
        runtime.create([NodeSpec(name, "ue", cpus=0.25, quota_host_cores=0.25) for name in names])
        created = time.monotonic() - begin
        while not all(warm_path(runtime.lab_directory, name).exists() for name in names):
            time.sleep(0.02)
        warm = time.monotonic() - begin
    finally:
        end = time.monotonic()
        runtime.remove()
    return created, warm, time.monotonic() - end


@click.command()
@click.option("--ues", default=10, show_default=True)
@click.option("--repeat", default=3, show_default=True)
def main(ues: int, repeat: int) -> None:
    """Print medians as JSON."""
    image = ensure_node_image(connect(), "cpu", lambda line: click.echo(line, err=True))
    engine = [plain(image, ues) for _ in range(repeat)]
    nodes = [ours(ues) for _ in range(repeat)]
    created, warm, removed = (statistics.median(column) for column in zip(*nodes, strict=True))
    plain_seconds = statistics.median(engine)
    figures = {
        "containers": ues,
        "plain_seconds": plain_seconds,
        "created_seconds": created,
        "created_over_plain_seconds": created - plain_seconds,
        "warm_seconds": warm,
        "removed_seconds": removed,
    }
    click.echo(json.dumps({key: round(value, 3) for key, value in figures.items()}, indent=1))


if __name__ == "__main__":
    main()

"""A real run seen through Prometheus: every panel has data, what is kept agrees with the run's own tables."""

from __future__ import annotations

import bisect
import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from testbed.monitoring.bringup import free_port
from testbed.programs.exporter.task_metrics import DELAY_BUCKETS
from tests.emulation.conftest import Bench

# five containers that import PyTorch, and half a minute to be watched: not beside others
pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.alone]

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / "topologies" / "quickstart.yaml")
WATCH_SECONDS = 30.0


def ask(url: str, query: str) -> list[dict[str, Any]]:
    address = f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(address, timeout=5) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def panel_queries(run: str) -> Iterator[tuple[str, str]]:
    """(where, query) of every target of the three dashboards, the run filled in."""
    for path in sorted((ROOT / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']} {target['refId']}", target["expr"].replace("$run", run)


@contextmanager
def kept_data(run_directory: Path) -> Iterator[str]:
    """A Prometheus over what a run has left."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("needs Prometheus: apt-get install prometheus")
    port = free_port()
    data = run_directory / "prometheus"
    process = subprocess.Popen(
        [
            program,
            "--config.file=/dev/null",
            f"--storage.tsdb.path={data}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                ask(url, "vector(1)")
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """The run directory of half a minute of the quickstart lab in containers, and the panels that were empty."""
    with Bench(tmp_path_factory.mktemp("watched"), "docker") as bench:
        name = bench.name()
        answer = bench.call("up", QUICKSTART, "--name", name, "--runtime", "docker", "--policy", "lymdo", "--json")
        lab = json.loads(answer.stdout)
        assert lab["urls"]["prometheus"].startswith("http://127.0.0.1:")
        [row] = json.loads(bench.call("ps", name, "--json").stdout)
        assert row["urls"] == lab["urls"]
        time.sleep(WATCH_SECONDS)
        waiting = dict(panel_queries(lab["run_id"]))
        deadline = time.monotonic() + 10
        while waiting and time.monotonic() < deadline:
            waiting = {at: query for at, query in waiting.items() if not ask(lab["urls"]["prometheus"], query)}
        bench.call("down", name)
        run_directory = Path(lab["run_dir"])
        bench.call("report", str(run_directory), code=None)
        yield run_directory, sorted(waiting)


def test_every_panel_has_data(watched: tuple[Path, list[str]]) -> None:
    _, empty = watched
    assert empty == []


def test_prometheus_has_counted_every_task_and_agrees_on_the_95th_percentile(watched: tuple[Path, list[str]]) -> None:
    run_directory, _ = watched
    tasks = pq.read_table(run_directory / "tasks.parquet")
    done = tasks.filter(np.array(tasks["status"].to_pylist()) == "completed")
    delays = np.asarray(done["result_received_seconds"]) - np.asarray(done["arrival_seconds"])
    with kept_data(run_directory) as url:
        buckets = "sum by (le) (last_over_time(testbed_e2e_delay_seconds_bucket[30m]))"
        (counted,) = ask(url, "sum(last_over_time(testbed_e2e_delay_seconds_count[30m]))")
        (quantile,) = ask(url, f"histogram_quantile(0.95, {buckets})")
    assert int(counted["value"][1]) == len(delays)
    p95 = float(quantile["value"][1])
    edges = (0.0, *DELAY_BUCKETS)
    upper = bisect.bisect_left(edges, p95)
    assert abs(p95 - float(np.quantile(delays, 0.95))) <= edges[upper] - edges[upper - 1]


def test_nodes_report_their_cpu(watched: tuple[Path, list[str]]) -> None:
    run_directory, _ = watched
    figures = {one["name"]: one for one in json.loads((run_directory / "fidelity.json").read_text())["figures"]}
    assert figures["throttled_ratio"]["value"] != "not_measured"
    with kept_data(run_directory) as url:
        nodes = {one["metric"]["node"] for one in ask(url, "last_over_time(testbed_node_cpu_seconds_total[30m]) > 0")}
    assert {"ue1", "ue2", "ue3", "edge", "controller"} <= nodes


def test_the_manifest_says_what_the_edge_computed_on(watched: tuple[Path, list[str]]) -> None:
    run_directory, _ = watched
    features = json.loads((run_directory / "manifest.json").read_text())["runtime_features"]
    assert features["edge_gpu"] is False
    assert (features["edge_device"], features["edge_device_reason"]) == ("cpu", "the lab says `gpu: off`")


@pytest.mark.quiet
def test_both_runtimes_give_the_same_mean_delay(tmp_path: Path) -> None:
    """Same lab, same seed: within 10 %, both runs valid."""
    means = {}
    with Bench(tmp_path) as bench:
        for runtime in ("netns", "docker"):
            name = bench.name()
            monitoring = ("--set", "monitoring.prometheus=off", "--set", "monitoring.grafana=off")
            answer = bench.call(
                *("run", QUICKSTART, "--name", name, "--runtime", runtime, "--duration", "15 s", "--json", *monitoring)
            )
            means[runtime] = json.loads(answer.stdout)["e2e_delay_seconds"]["mean"]
    assert means["docker"] == pytest.approx(means["netns"], rel=0.1)

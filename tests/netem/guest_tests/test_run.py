"""A whole lab on wires with delay and loss: the same command line, agents and records as everywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from testbed.runtime.processes.discovery import list_owned
from tests.emulation.conftest import LABS, Bench, bench

__all__ = ["bench"]

pytestmark = [pytest.mark.root, pytest.mark.netem]

DELAY_SECONDS = 20e-3


@pytest.fixture
def delayed(tmp_path: Path) -> Path:
    """The tiny lab with ``link: {delay: 20 ms, loss: 1 %}``."""
    folder = tmp_path / "labs"
    shutil.copytree(LABS, folder)
    lab = yaml.safe_load((folder / "tiny.yaml").read_text())
    lab["ues"][0]["link"] = {"delay": "20 ms", "loss": "1 %"}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(lab))
    return path


def test_a_run_with_delay_and_loss(bench: Bench, delayed: Path) -> None:
    name = bench.name()
    # a core that is emulated, too, may break a limit of timing; what was counted holds all the same
    answer = bench.call(
        *("run", str(delayed), "--name", name, "--runtime", "netns", "--json", "--duration", "8 s"),
        *("--policy", "edge-only"),
        code=None,
    )
    assert answer.returncode in (0, 4), answer.stderr
    summary = json.loads(answer.stdout)
    tasks = summary["tasks"]
    assert tasks["completed"] > 30
    assert tasks["failed"] == 0
    assert tasks["arrived"] == tasks["completed"] + tasks["failed"] + tasks["in_flight"]
    assert summary["stages_seconds"]["uplink"] >= DELAY_SECONDS
    assert summary["stages_seconds"]["downlink"] >= DELAY_SECONDS
    assert summary["e2e_delay_seconds"]["mean"] >= 2 * DELAY_SECONDS
    rows = pq.read_table(Path(summary["run_dir"]) / "tasks.parquet").to_pylist()
    assert len({(row["ue"], row["task"]) for row in rows}) == len(rows)
    manifest = json.loads((Path(summary["run_dir"]) / "manifest.json").read_text())
    assert manifest["link_backend"] == "htb+netem"
    assert manifest["cgroup_version"] == 2
    fidelity = json.loads((Path(summary["run_dir"]) / "fidelity.json").read_text())
    figures = {figure["name"]: figure["value"] for figure in fidelity["figures"]}
    assert figures["unordered_drops"] == 0, "what was lost was lost by order"
    assert figures["processes_died"] == 0
    assert not list_owned(name)

"""A user's own model in containers: files beside the lab, and sides that do not agree."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

from testbed.inference.layer_times import LayerTimes, profile_of_device
from testbed.inference.partition import load_split_model
from testbed.inference.profiles import write_profile
from tests.emulation.conftest import Bench

pytestmark = [pytest.mark.docker, pytest.mark.root]

ODD = Path(__file__).parents[1] / "unit" / "inference" / "odd.py"
LAB = """
name: own
seed: 3
slot: 0.25 s
model: own_odd:{factory}
profile: profile.json
edge: {{cpus: 0.4, gpu: off}}
radio: {{uplink: 4 MHz, downlink: 4 MHz}}
ues:
  - name: ue
    speed: 0.4
    arrivals: {{process: periodic, rate: 8 /s}}
    channel: {{fading: static, distance: 100 m}}
policy: {{name: fixed, cut: _1}}
monitoring: {{prometheus: off, grafana: off}}
"""


def write_lab(folder: Path, factory: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a profile that nobody had to measure: 5 ms a node."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "own_odd", raising=False)
    folder.mkdir()
    folder.parent.chmod(0o755)  # containers have a user of their own
    shutil.copy(ODD, folder / "own_odd.py")
    torch.save(load_split_model("own_odd:plain", 9, (folder,)).model.module.state_dict(), folder / "beside.pt")
    split = load_split_model(f"own_odd:{factory}", 3, (folder,))
    times = LayerTimes("none", "none", {node.name: 5e-3 for node in split.graph.nodes})
    write_profile(profile_of_device(split, times, "here"), folder / "profile.json")
    (folder / "lab.yaml").write_text(LAB.format(factory=factory))
    return folder / "lab.yaml"


def test_files_beside_the_lab_are_in_every_container_and_weights_that_differ_are_refused(
    docker_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The factory fails without the file; that labs whose weights agree begin, every other test of containers shows."""
    lab = write_lab(tmp_path / "own", "beside_and_entropy", monkeypatch)
    arguments = ("--name", docker_bench.name(), "--runtime", "docker", "--duration", "2 s")
    answer = docker_bench.call("run", str(lab), *arguments, code=1)
    assert "different weights for the model of ue" in answer.stderr
    assert "Traceback" not in answer.stderr

"""A lab with weights from a file and a video: what was computed is what the frames and the weights say."""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from testbed.inference.codec import raw
from testbed.inference.partition import SplitModel, load_split_model
from testbed.inference.published_weights import weights_of
from testbed.inference.resizing import resize
from testbed.inputs.decode import frames_of
from testbed.inputs.source import Source
from tests import made_inputs as made
from tests.emulation.conftest import LABS, Bench

pytestmark = pytest.mark.root

SEED, FRAMES, RATE = 3, 7, 20
LAB = """
name: fed
seed: 3
slot: 0.25 s
model: {name: tiny_model:make, weights: weights.safetensors}
profile: tiny_profile.json
input: {video: clip.mp4, labels: labels.csv}
edge: {cpus: 0.5, gpu: off}
radio: {uplink: 4 MHz, downlink: 4 MHz, noise: -165 dBm/Hz}
ues:
  - name: dropping
    speed: 0.007
    arrivals: {process: video, on_busy: drop}
    channel: {fading: static, distance: 100 m}
  - name: latest
    speed: 0.007
    arrivals: {process: video, on_busy: latest}
    channel: {fading: static, distance: 100 m}
policy: {name: fixed, cut: CUT}
monitoring: {prometheus: off, grafana: off}
"""


def write_lab(folder: Path) -> Path:
    """Beside its model, profile, weights of another seed, clip and labels."""
    folder.mkdir()
    for name in ("tiny_model.py", "tiny_profile.json"):
        shutil.copy(LABS / name, folder / name)
    save_file(
        load_split_model("tiny_model:make", 9, (folder,)).model.module.state_dict(), folder / "weights.safetensors"
    )
    made.clip(folder / "clip.mp4", frames=FRAMES, rate=RATE, side=48)
    (folder / "labels.csv").write_text("".join(f"{number}\n" for number in range(FRAMES)))
    cut = json.loads((folder / "tiny_profile.json").read_text())["chain_cuts"][3][0]
    (folder / "lab.yaml").write_text(LAB.replace("CUT", cut))
    return folder / "lab.yaml"


def answers(lab: Path) -> list[int]:
    """Checksum of the unsplit model's answer to each frame, its weights being those of the file."""
    weights = weights_of("tiny_model:make", str(lab.parent / "weights.safetensors"), lab.parent)
    split: SplitModel = load_split_model("tiny_model:make", SEED, (lab.parent,), weights)
    frames = frames_of(Source("video", str(lab.parent / "clip.mp4")), 3)
    with torch.inference_mode():
        images = [resize(torch.from_numpy(frame)[None], 32, 32) for frame in frames]
        return [zlib.crc32(raw(split.partition(()).head(image)[0])) for image in images]


def check(lab: Path, run_directory: Path) -> None:
    """A run of the lab, whatever its runtime."""
    tasks: list[dict[str, Any]] = pq.read_table(run_directory / "tasks.parquet").to_pylist()
    expected = answers(lab)
    assert len(set(expected)) == FRAMES
    done = [task for task in tasks if task["status"] == "completed"]
    assert {task["ue"] for task in done} == {"dropping", "latest"}
    for task in tasks:
        assert task["status"] == "in_flight" or task["input"] == task["task"] % FRAMES
    for task in done:
        assert task["answer_checksum"] == expected[task["input"]], task
    manifest = json.loads((run_directory / "manifest.json").read_text())
    facts = manifest["ues"]["latest"]
    assert facts["weights_sha256"] == hashlib.sha256((lab.parent / "weights.safetensors").read_bytes()).hexdigest()
    assert facts["input"]["shape"] == [FRAMES, 3, 48, 48]
    assert json.loads((run_directory / facts["input"]["labels"]).read_text())["classes"] == list(range(FRAMES))


def test_frames_are_computed_with_the_files_weights_and_those_that_find_the_device_busy_are_counted(
    bench: Bench, tmp_path: Path
) -> None:
    lab = write_lab(tmp_path / "fed")
    options = ("--name", bench.name(), "--runtime", "netns", "--duration", "3 s", "--json")
    summary = json.loads(bench.call("run", str(lab), *options, code=None).stdout)
    counts = summary["tasks"]
    assert counts["arrived"] == 2 * 3 * RATE
    assert counts["dropped"] > 0
    assert sum(counts.values()) == 2 * counts["arrived"]
    directory = Path(summary["run_dir"])
    check(lab, directory)
    figures = {row["name"]: row["value"] for row in json.loads((directory / "fidelity.json").read_text())["figures"]}
    assert figures["tasks_unrecorded"] == figures["arrivals_missing"] == figures["failed_ratio"] == 0
    tasks = pq.read_table(directory / "tasks.parquet")
    for ue, longest in (("dropping", 1), ("latest", 2)):  # at most one waits, while one is computed
        of_ue = tasks.filter(np.asarray(tasks["ue"]) == ue).to_pylist()
        taken = [task for task in of_ue if task["status"] == "completed"]
        assert any(task["status"] == "dropped" for task in of_ue)
        inside = [
            sum(b["arrival_seconds"] <= a["arrival_seconds"] < b["head_end_seconds"] for b in taken) for a in taken
        ]
        assert max(inside) <= longest

    simulated = json.loads(bench.call("simulate", str(lab), "--slots", "12", "--json", code=None).stdout)
    assert simulated["tasks"]["arrived"] == counts["arrived"]
    assert simulated["tasks"]["dropped"] > 0
    same = pq.read_table(Path(simulated["run_dir"]) / "tasks.parquet").to_pylist()
    assert all(task["input"] == task["task"] % FRAMES for task in same)

"""An edge in a container that starts without the model gets it from its UEs, over the same agents as elsewhere."""

from __future__ import annotations

import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from testbed.inference.partition import load_split_model
from testbed.inference.weights import bytes_of
from testbed.node.backend import task_input
from tests.emulation.conftest import Bench

pytestmark = [pytest.mark.docker, pytest.mark.root]


def answer_checksum(ue_index: int, task: int) -> int:
    """Of the whole model on one side; the seed is that of tiny.yaml."""
    split = load_split_model("tests.emulation.labs.tiny_model:make", 3)
    answer = split.partition(()).head(task_input(split.model.signature, 3, ue_index, task))[0]
    return zlib.crc32(bytes_of(answer.contiguous()))


def test_the_model_goes_up_once_and_serves_all_ues(docker_bench: Bench) -> None:
    summary = docker_bench.run(
        docker_bench.name(),
        *("--duration", "3 s", "--policy", "edge-only"),
        *("--set", "uploading={cache: keep, memory: 1 MB}", "--set", "codec.boundary=fp32"),
        code=None,
    )
    tasks = summary["tasks"]
    assert tasks["completed"] == tasks["arrived"] > 3
    run = Path(summary["run_dir"])
    uploads = pq.read_table(run / "uploads.parquet").to_pylist()
    sent = [one for one in uploads if one["kind"] == "parameters" and one["wire_bytes"]]
    assert {one["name"] for one in sent} == {"normalise", "first", "second", "answer"}
    assert all(one["checksum_ok"] for one in uploads)
    assert len({(one["ue"], one["task"]) for one in sent}) <= len({one["ue"] for one in uploads})
    rows = pq.read_table(run / "tasks.parquet").to_pylist()
    decided = {(task["ue"], task["task"]) for task in rows if task["decision_sequence"]}  # 0: before the first one
    segments = pq.read_table(run / "segments.parquet").to_pylist()
    assert {one["site"] for one in segments if (one["ue"], one["task"]) in decided} == {"edge"}
    for task in rows:
        assert task["answer_checksum"] == answer_checksum(int(task["ue"][-1]) - 1, task["task"])

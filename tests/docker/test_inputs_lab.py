"""Weights from a file and a video in containers, which have neither the lab's folder to write to nor a decoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.emulation.conftest import Bench
from tests.emulation.test_inputs_lab import check, write_lab

pytestmark = [pytest.mark.docker, pytest.mark.root]


def test_containers_compute_what_the_frames_and_the_files_weights_say(docker_bench: Bench, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # containers have a user of their own
    lab = write_lab(tmp_path / "fed")
    options = ("--name", docker_bench.name(), "--runtime", "docker", "--duration", "2 s", "--json")
    summary = json.loads(docker_bench.call("run", str(lab), *options, code=None).stdout)
    assert summary["tasks"]["dropped"] > 0
    assert summary["tasks"]["failed"] == 0
    check(lab, Path(summary["run_dir"]))

"""The example of docs/codecs.md, as a reader would keep it: a codec beside a lab, simulated with what it measures."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from testbed.inference import samples
from testbed.inference.profiles import read_profile
from testbed.lab.simulate import SimulationOrder, simulate_lab
from testbed.labfile.load import load
from testbed.labfile.resolve import resolve

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.thorough
def test_the_pages_lab_is_measured_and_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "bottleneck", raising=False)
    page = (ROOT / "docs" / "codecs.md").read_text()
    for name, text in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", page, flags=re.DOTALL):
        (tmp_path / name).write_text(text)
    shutil.copytree(ROOT / "topologies" / "profiles", tmp_path / "profiles")
    lab = tmp_path / "lab.yaml"
    topology = load(lab, ())
    told: list[str] = []
    resolved = resolve(topology, str(lab), tmp_path, 10.0, told.append)
    assert any("measuring jpeg-90, uint8, int4+zstd, bottleneck:Bottleneck" in text for text in told)
    (profile,) = resolved.profiles.values()
    at = profile.chain_index(("features_5",))
    small, raw = profile.sizes["bottleneck:Bottleneck"].mean_bytes[at], profile.boundary_bytes(("features_5",), "fp32")
    assert small == raw / 16, "an eighth of the channels, in half precision"
    assert profile.boundary_bytes(("features_2",), "bottleneck:Bottleneck") == profile.boundary_bytes(
        ("features_2",), "fp32"
    )
    assert set(profile.agreement) == {"jpeg-90", "uint8", "int4+zstd", "bottleneck:Bottleneck"}
    kept = tmp_path / "profiles" / "alexnet.json"
    kept.write_bytes(msgspec.json.encode(profile))  # as `testbed profile --codec --out` would
    monkeypatch.setattr(samples, "sample_inputs", None)  # nothing is measured twice
    order = SimulationOrder(load(lab, ("policy.accuracy=0.5",)), str(lab), tmp_path, tmp_path / "run", 20, "event")
    summary = simulate_lab(order, told.append)
    assert summary.tasks.completed > 10
    tasks = pq.read_table(tmp_path / "run" / "tasks.parquet").to_pylist()
    ended = [row for row in tasks if row["status"] == "completed"]
    assert {row["codec"] for row in ended} <= {"jpeg-90", "fp32", "uint8", "int4+zstd", "bottleneck:Bottleneck"}
    for row in ended:
        if row["cut"] == "input":
            assert row["codec"] == "jpeg-90"
            assert row["boundary_bytes"] == read_profile(kept).boundary_bytes(("input",), "jpeg-90")
        elif row["cut"] != "local":
            assert row["boundary_bytes"] == profile.boundary_bytes((row["cut"],), row["codec"])

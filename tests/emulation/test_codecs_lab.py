"""Codecs in a lab: a user's own, one that goes wrong, and pictures and compressed codes of the project's."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from testbed.inference.profiles import read_profile
from tests.emulation.conftest import Bench

pytestmark = pytest.mark.root


def _tasks(summary: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(Path(summary["run_dir"]) / "tasks.parquet").to_pylist()
    return [row for row in rows if row["status"] != "in_flight"]


def test_a_codec_that_goes_wrong_fails_its_tasks_and_nothing_else(bench: Bench) -> None:
    own = ("codec.boundary=own_codec:Moody", "codec.choices=[own_codec:Bottleneck]", "policy.cut=relu")
    summary = bench.run(
        bench.name(), "--duration", "4 s", "--policy", "fixed", *(f"--set={one}" for one in own), code=None
    )
    tasks = _tasks(summary)
    assert {row["codec"] for row in tasks} == {"own_codec:Moody"}
    reasons = collections.Counter(row["reason"] for row in tasks)
    completed = reasons.pop("")
    assert completed > 2
    for part, side in (
        ("encode of relu failed: not today", "head"),
        ("encode of relu must return bytes or None, not a str", "head"),
        ("encode of relu made 10000000 bytes", "head"),
        ("decode of relu failed: SystemExit: the decoder ends the program", "tail"),
        ("decode of relu must return a tensor of shape (1, 8, 16, 16), not one of (1, 2, 3)", "tail"),
    ):
        found = [count for reason, count in reasons.items() if part in reason]
        assert found, (part, reasons)
        assert all(reason.startswith(side) for reason in reasons if part in reason), reasons
        assert sum(found) > 2, "the thread that met it went on"
    # the profile that stages were paced to knows both, and what the autoencoder makes of its one value
    (profile,) = [read_profile(path) for path in (Path(summary["run_dir"]) / "profiles").iterdir()]
    at = profile.chain_index(("relu",))
    assert profile.sizes["own_codec:Bottleneck"].mean_bytes[at] == 3 * 16 * 16 * 2
    assert profile.sizes["own_codec:Bottleneck"].mean_bytes[at + 1] == profile.boundary_bytes(("second",), "fp32")
    assert profile.agreement["own_codec:Moody"] == (0.0, *(1.0,) * (len(profile.chain_cuts) - 1)), "not for the input"


def test_pictures_and_compressed_codes(bench: Bench) -> None:
    codecs = ("--set=codec.input={jpeg: 90}", "--set=codec.boundary=int4+zstd")
    summary = bench.run(bench.name(), "--duration", "4 s", "--policy", "random", *codecs, code=None)
    tasks = _tasks(summary)
    assert {row["status"] for row in tasks} == {"completed"}, {row["reason"] for row in tasks}
    assert {row["codec"] for row in tasks if row["cut"] == "input"} == {"jpeg-90"}
    assert {row["codec"] for row in tasks if row["cut"] != "input"} == {"int4+zstd"}
    sizes = collections.defaultdict(set)
    for row in tasks:
        sizes[row["cut"]].add(row["boundary_bytes"])
    (profile,) = [read_profile(path) for path in (Path(summary["run_dir"]) / "profiles").iterdir()]
    for cut, seen in sizes.items():
        if cut != "local":
            raw = next(node.output_bytes for node in profile.nodes if node.name == cut)
            assert all(0 < size < raw for size in seen)
    assert len(sizes["input"]) > 1, "what was sent, not what was planned with"
    heads = {row["head_target_seconds"] for row in tasks if row["cut"] == "input"}
    assert min(heads) > 0, "making the JPEG is the device's work"

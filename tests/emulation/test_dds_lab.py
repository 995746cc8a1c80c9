"""In a lab two tensors cross where a cut says so, and UEs decide for themselves where the policy lets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.emulation.conftest import Bench

pytestmark = pytest.mark.root


def _rows(summary: dict[str, Any], table: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(Path(summary["run_dir"]) / f"{table}.parquet").to_pylist()
    return rows


def test_two_tensors_cross(bench: Bench) -> None:
    cut = ("--duration", "4 s", "--policy", "fixed", "--set", "policy.cut=left+right")
    summary = bench.run(bench.name(), *cut, code=None, lab="branches.yaml")
    rows = [row for row in _rows(summary, "tasks") if row["cut"] == "left+right"]
    assert len(rows) > 20
    assert {row["status"] for row in rows} == {"completed"}
    assert {row["boundary_bytes"] for row in rows} == {2 * 4 * 4 * 8 * 8}  # two fp32 tensors of 4 x 8 x 8


def test_ues_answer_for_themselves(bench: Bench) -> None:
    summary = bench.run(bench.name(), "--duration", "4 s", code=None, lab="branches.yaml")
    rows = [row for row in _rows(summary, "slots") if row["policy_state"]]
    states = [dict(row["policy_state"]) for row in rows]
    assert len(states) >= 12
    settled = [state for state in states if state["settled"] == 1.0 and state["unanswered"] == 0.0]
    assert len(settled) >= 0.9 * len(states)
    assert all(state["messages"] >= 4 and state["settle_seconds"] > 0 for state in settled)
    assert all(0 < state["demand_ratio"] <= 1 + 1e-9 for state in settled)
    assert summary["tasks"]["failed"] == 0

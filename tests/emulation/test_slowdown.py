"""Slow CPUs with real models: stages end at their targets, in both runtimes, at the speeds that labs use."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.slowdown import TARGETS, Place, one_lab

pytestmark = [pytest.mark.root, pytest.mark.quiet]

SECONDS = 4.0


@pytest.mark.parametrize("part", ["netns", pytest.param("docker", marks=pytest.mark.docker)])
def test_three_slow_ues_and_an_edge_keep_their_targets(tmp_path: Path, part: str) -> None:
    rows = one_lab(part, "mobilenet_v2", (0.1, 0.2, 0.25), SECONDS, Place(tmp_path, None))
    assert [row["speed"] for row in rows] == [0.1, 0.2, 0.25, 0.8]
    p50, p90, overruns = TARGETS[part]
    for row in rows:
        assert row["stages"] > 10
        assert row["error_p50"] <= p50, row
        assert row["error_p90"] <= p90, row
    late = sum(row["overrun_ratio"] * row["stages"] for row in rows) / sum(row["stages"] for row in rows)
    assert late <= overruns, rows

"""What follows from the declarations of figures: the page, the summary's names, what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from synthetic_run import Lab, manifest, simulate
from test_finalise import write_streams

from benchmarks import pages
from testbed.cli.run import fidelity_line
from testbed.records.manifest import write_manifest
from testbed.report.conclude import conclude
from testbed.report.fidelity import fidelity
from testbed.report.fidelity.figure import Evidence, Figure, Headline, Limit, Wider


def test_each_figure_has_a_name_of_its_own_and_each_headline_a_place() -> None:
    groups = [value for name, value in vars(fidelity).items() if name.endswith("_FIGURES")]
    assert len(fidelity.FIGURES) == sum(len(group) for group in groups)
    places = [figure.headline.place for figure in fidelity.FIGURES.values() if figure.headline]
    assert sorted(places) == list(range(len(places)))


def test_a_row_more_is_all_that_a_figure_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(duration=3)
    tables = write_streams(tmp_path, simulate(lab))
    ues = Figure(
        "many_ues",
        "count",
        "UEs of this lab",
        of=lambda run: float(len(run.manifest.ues)),
        limit=Limit(realtime=1.0, ordinary=9.0),
        wider=Wider(lambda run: 2.0, "two"),
        timed=True,
        headline=Headline(9, "{} UEs"),
        detail=lambda run: f": {min(run.manifest.ues)} first",
    )
    monkeypatch.setitem(fidelity.FIGURES, ues.name, ues)
    found = fidelity.assess(tables, manifest(lab))
    assert found.value("many_ues") == 3.0
    assert found.invalid_reasons[0] == "many_ues is 3, limit 2: UEs of this lab: ue1 first"
    assert found.invalid_reasons[1].startswith("cause: ")
    assert fidelity.assess(tables, manifest(lab, realtime=False)).valid
    assert (
        "| `many_ues` | UEs of this lab | 1, or two if that is more | 9, or two if that is more |  |" in pages.limits()
    )


def test_what_several_figures_use_is_worked_out_once(tmp_path: Path) -> None:
    calls = []

    def count(run: Evidence) -> int:
        calls.append(run)
        return len(run.tables.tasks)

    lab = Lab(duration=3)
    run = Evidence(write_streams(tmp_path, simulate(lab)), manifest(lab))
    assert run.once(count) == run.once(count) > 0
    assert calls == [run]


def test_the_line_at_the_end_says_headlines_in_their_order(tmp_path: Path) -> None:
    lab = Lab(duration=10, rate_per_second=0.5)
    write_streams(tmp_path, simulate(lab))
    write_manifest(manifest(lab), tmp_path)
    line = fidelity_line(conclude(tmp_path))
    assert re.fullmatch(
        r"every limit kept: trace steps \S+ µs late \(p99\), stages \S.* % off \(p50\), \S+ % overruns,"
        r" uplink .* % off, not measured: rate_error, round_trip_error",
        line,
    ), line

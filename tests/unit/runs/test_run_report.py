import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner
from synthetic_run import Lab, manifest

from testbed.cli.compare import command as compare_command
from testbed.cli.report import command as report_command
from testbed.errors import InputError
from testbed.records.manifest import close_manifest, read_manifest, write_manifest
from testbed.records.tables import read_tables
from testbed.report.compare import batch_means_half_width, compare, draw, labels_of
from testbed.report.conclude import conclude
from testbed.report.figures import achieved_rates, link_rates
from testbed.report.html import si_seconds
from testbed.report.summary import Summary


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "run"
    shutil.copytree(finished_run, copy)
    return copy


@pytest.fixture(scope="module")
def concluded(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """To be read only; drawing its figures takes seconds."""
    copy = tmp_path_factory.mktemp("concluded") / "run"
    shutil.copytree(finished_run, copy)
    return copy, conclude(copy)


def test_the_page_is_self_contained(concluded: tuple[Path, Summary]) -> None:
    page = (concluded[0] / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert "url(" not in page
    assert "<script" not in page


def test_the_page_shows_what_was_measured(concluded: tuple[Path, Summary]) -> None:
    run, summary = concluded
    page = (run / "report.html").read_text()
    assert si_seconds(summary.e2e_delay_seconds.mean) in page
    assert "<b>Valid.</b>" in page
    for ue in ("ue1", "ue2", "ue3"):
        assert f"<h3>{ue}</h3>" in page
    for name in ("uplink_integral_error", "features_7", "torch 2.13.0", "testbed run topologies/quickstart.yaml"):
        assert name in page


def test_the_page_shows_planned_and_achieved_rates_of_every_link(concluded: tuple[Path, Summary]) -> None:
    run, _ = concluded
    page = (run / "report.html").read_text()
    for ue in ("ue1", "ue2", "ue3"):
        assert f"planned, applied and achieved rate of the link of {ue} over time" in page
    tables = read_tables(run)
    drops = tables.drops.to_table().filter((pc.field("ue") == "ue1") & (pc.field("direction") == "up")).to_pylist()
    windows = achieved_rates(tables, "ue1", "up")
    assert len(windows) == len(drops) - 1 > 5
    sent_bits = ((windows[:, 1] - windows[:, 0]) * windows[:, 2]).sum()
    assert sent_bits == pytest.approx(8 * sum(row["sent_bytes"] for row in drops[1:]))
    assert link_rates(tables, "nobody") is None


@pytest.mark.thorough
def test_an_invalid_run_says_why_and_escapes_text(run: Path) -> None:
    about = manifest(Lab(duration=20), ended=False)
    write_manifest(msgspec.structs.replace(about, lab="<b>bold</b>"), run)
    conclude(run)
    page = (run / "report.html").read_text()
    assert "<b>Invalid.</b>" in page
    assert "ended_early" in page
    assert "<b>bold</b>" not in page


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.0, "0 s"), (12.34, "12.3 s"), (0.0456, "45.6 ms"), (0.000078, "78 µs")],
)
def test_times_in_the_unit_of_their_size(seconds: float | None, text: str) -> None:
    assert si_seconds(seconds) == text


@pytest.mark.thorough
def test_report_prints_the_page_or_the_summary(run: Path) -> None:
    shown = CliRunner().invoke(report_command, [str(run)], catch_exceptions=False)
    assert shown.stdout.strip() == str(run / "report.html")
    as_json = CliRunner().invoke(report_command, [str(run), "--json"], catch_exceptions=False)
    assert msgspec.json.decode(as_json.stdout) == msgspec.json.decode((run / "summary.json").read_bytes())
    later = CliRunner().invoke(report_command, [str(run), "--json", "--warm-up", "5"], catch_exceptions=False)
    assert (
        msgspec.json.decode(later.stdout)["tasks"]["arrived"] < msgspec.json.decode(as_json.stdout)["tasks"]["arrived"]
    )


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run directory") as error:
        conclude(tmp_path)
    assert error.value.exit_code == 2
    with pytest.raises(InputError, match=r"no summary\.json.*testbed report"):
        compare([tmp_path])


@pytest.mark.thorough
def test_compare_on_a_terminal_that_is_ascii(concluded: tuple[Path, Summary]) -> None:
    shown = subprocess.run(
        [sys.executable, "-P", "-m", "testbed", "compare", str(concluded[0])],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert "+- " in shown.stdout.decode("ascii")


@pytest.mark.thorough
def test_compare_puts_runs_side_by_side(concluded: tuple[Path, Summary], tmp_path: Path) -> None:
    run, first = concluded
    other = tmp_path / "other"
    shutil.copytree(run, other)
    about = read_manifest(run)
    write_manifest(msgspec.structs.replace(about, policy="edge-only"), other)
    conclude(other)
    rows = compare([run, other])
    assert labels_of(rows) == ["neurosurgeon", "edge-only"]
    assert rows[0].mean_seconds == first.e2e_delay_seconds.mean
    assert rows[0].mean_ci95_seconds is not None
    out = tmp_path / "figure.png"
    shown = CliRunner().invoke(compare_command, [str(run), str(other), "--out", str(out)], catch_exceptions=False)
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "edge-only" in shown.stdout
    assert "features_7" in shown.stdout
    as_json = CliRunner().invoke(compare_command, [str(run), "--json"], catch_exceptions=False)
    assert msgspec.json.decode(as_json.stdout)[0]["tasks"] == first.tasks.completed


def test_an_unknown_kind_of_image_is_refused(run: Path) -> None:
    with pytest.raises(InputError, match=r"\.png"):
        CliRunner().invoke(compare_command, [str(run), "--out", "figure.xyz"], catch_exceptions=False)


@pytest.mark.thorough
def test_equal_policies_are_told_apart(concluded: tuple[Path, Summary], tmp_path: Path) -> None:
    run, _ = concluded
    rows = compare([run, run])
    assert len(set(labels_of([rows[0], msgspec.structs.replace(rows[1], seed=2)]))) == 2
    assert len(set(labels_of([rows[0], msgspec.structs.replace(rows[1], run_id="run-2")]))) == 2
    draw(rows, tmp_path / "figure.svg")
    assert "<svg" in (tmp_path / "figure.svg").read_text()


def test_the_interval_covers_a_known_mean() -> None:
    import numpy as np

    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        noise = rng.standard_normal(2000)
        for index in range(1, len(noise)):  # neighbours are alike, as delays in a queue are
            noise[index] += 0.5 * noise[index - 1]
        half = batch_means_half_width(noise)
        assert half is not None
        covered += abs(noise.mean()) <= half
    assert 0.90 <= covered / 300 <= 0.99
    assert batch_means_half_width(np.ones(39)) is None


def test_the_manifest_is_stamped_at_its_end(tmp_path: Path) -> None:
    write_manifest(manifest(Lab(), ended=False), tmp_path)
    assert read_manifest(tmp_path).ended_utc is None
    closed = close_manifest(tmp_path)
    assert closed.ended_utc is not None
    assert read_manifest(tmp_path) == closed

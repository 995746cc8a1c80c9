"""The gap report finds what was put into a run: a simulation that is called a run, changed in known places."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from simulated_lab import simulated

from testbed.cli.compare import command
from testbed.records.manifest import read_manifest, write_manifest
from testbed.records.tables import STAMPS, column, read_tables, with_stages, write_tables
from testbed.report.compare import compare
from testbed.report.gap import find_simulation, gap_of
from testbed.report.summary import read_summary, write_summary

START = 1000.0  # of the measured side's clock


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulation") / "run"
    simulated(folder, "ues.0.count=2", slots=30)
    return folder


def as_run(simulation: Path, folder: Path, change: Any = None) -> Path:
    """The simulation's records as those of a run whose clock started at ``START``; ``change(columns)`` edits tasks."""
    shutil.copytree(simulation, folder)
    write_manifest(msgspec.structs.replace(read_manifest(folder), runtime="netns"), folder)
    write_summary(msgspec.structs.replace(read_summary(folder), runtime="netns"), folder)
    tables = read_tables(folder)
    names = [
        name for name in tables.tasks.schema.names if name != "e2e_delay_seconds" and not name.startswith("stage_")
    ]
    columns: dict[str, NDArray[Any]] = {name: column(tables.tasks, name).copy() for name in names}
    for name in STAMPS:
        columns[name] = columns[name] + START
    for stage, stamp in (("head", 1), ("tail", 5)):
        columns[f"{stage}_target_seconds"] = columns[STAMPS[stamp + 1]] - columns[STAMPS[stamp]]
    if change is not None:
        change(columns)
    fields = [tables.tasks.schema.field(name) for name in names]
    arrays = [pa.array(columns[field.name], type=field.type, from_pandas=True) for field in fields]
    tasks = with_stages(pa.table(arrays, schema=pa.schema(fields)))
    slots = tables.slots.to_table()
    slots = slots.set_column(
        slots.schema.get_field_index("start_seconds"),
        "start_seconds",
        pa.array(column(tables.slots, "start_seconds") + START),
    )
    write_tables(tables.replaced(tasks=tasks, slots=slots), folder)
    return folder


def test_no_gap_between_equal_records(simulation: Path, tmp_path: Path) -> None:
    gap = gap_of(simulation, as_run(simulation, tmp_path / "run"))
    assert gap.arrivals.equal
    assert gap.arrivals.compared == read_summary(simulation).tasks.completed
    assert gap.e2e_seconds.ratio == pytest.approx(1.0)
    assert gap.same_cut_ratio == 1.0
    assert gap.energy_joules_per_slot.ratio == pytest.approx(1.0)
    assert list(gap.causes_seconds.values()) == pytest.approx([0.0] * len(gap.causes_seconds), abs=1e-9)
    # Wires and host of a simulation left no record, which makes an invalid run of it.
    assert [reason for reason in gap.reasons if not reason.startswith("the run is invalid: ")] == []


def test_late_tails_are_named(simulation: Path, tmp_path: Path) -> None:
    def late(columns: dict[str, NDArray[Any]]) -> None:
        for name in ("tail_end_seconds", "result_received_seconds"):
            columns[name] += 0.05

    gap = gap_of(simulation, as_run(simulation, tmp_path / "run", late))
    assert gap.causes_seconds["tail off its target"] == pytest.approx(0.05, abs=1e-6)
    assert gap.e2e_seconds.measured == pytest.approx((gap.e2e_seconds.simulated or 0.0) + 0.05, abs=1e-6)
    assert gap.stages_seconds["tail"].ratio is not None
    assert gap.stages_seconds["tail"].ratio > 1
    assert any("tails ended off their target time: +50.0 ms" in reason for reason in gap.reasons)


def test_a_slower_decision_is_not_a_late_stage(simulation: Path, tmp_path: Path) -> None:
    def slower(columns: dict[str, NDArray[Any]]) -> None:
        columns["head_target_seconds"] += 0.02
        for name in STAMPS[2:]:
            columns[name] += 0.02

    causes = gap_of(simulation, as_run(simulation, tmp_path / "run", slower)).causes_seconds
    assert causes["other speed"] == pytest.approx(0.02, abs=1e-6)
    assert causes["head off its target"] == pytest.approx(0.0, abs=1e-6)


def test_causes_sum_to_the_difference(simulation: Path, tmp_path: Path) -> None:
    def noise(columns: dict[str, NDArray[Any]]) -> None:
        rng = np.random.default_rng(1)
        moved = np.cumsum(rng.uniform(0, 0.01, (len(STAMPS), len(columns["ue"]))), axis=0)
        for row, name in enumerate(STAMPS[1:], start=1):
            columns[name] += moved[row]
        columns["cut"][::3] = "elsewhere"

    gap = gap_of(simulation, as_run(simulation, tmp_path / "run", noise))
    assert gap.e2e_seconds.measured is not None
    assert gap.e2e_seconds.simulated is not None
    assert sum(gap.causes_seconds.values()) == pytest.approx(gap.e2e_seconds.measured - gap.e2e_seconds.simulated)
    assert gap.same_cut_ratio == pytest.approx(2 / 3, abs=0.01)
    assert gap.causes_seconds["other cut"] > 0


def test_a_start_before_the_decision_was_in_force_is_named(simulation: Path, tmp_path: Path) -> None:
    def stale(columns: dict[str, NDArray[Any]]) -> None:
        row = int(np.argmax(columns["head_start_seconds"] > START + 10))
        columns["cut"][row] = "elsewhere"
        columns["decision_sequence"][row] -= 1

    reasons = gap_of(simulation, as_run(simulation, tmp_path / "run", stale)).reasons
    assert any(reason.startswith("of these, 1 started up to") for reason in reasons)


def test_other_arrivals_are_noticed(simulation: Path, tmp_path: Path) -> None:
    def moved(columns: dict[str, NDArray[Any]]) -> None:
        columns["arrival_seconds"][5] -= 0.003

    gap = gap_of(simulation, as_run(simulation, tmp_path / "run", moved))
    assert not gap.arrivals.equal
    assert gap.arrivals.largest_difference_seconds == pytest.approx(0.003, abs=1e-6)
    assert "the tasks are not the same: arrivals differ" in gap.reasons


def test_compare_pairs_a_run_with_its_simulation(simulation: Path, tmp_path: Path) -> None:
    run = as_run(simulation, tmp_path / "run")
    first, second = compare([simulation, run])
    assert first.gap is None
    assert second.gap is not None
    assert second.gap.simulated_run == str(simulation)
    shown = CliRunner().invoke(command, [str(simulation), str(run)], catch_exceptions=False).stdout
    assert "gap of edge-only" in shown
    assert "arrivals equal" in shown
    as_json = CliRunner().invoke(command, [str(simulation), str(run), "--json"], catch_exceptions=False)
    assert msgspec.json.decode(as_json.stdout)[1]["gap"]["e2e_seconds"]["ratio"] == pytest.approx(1.0)


def test_a_simulation_under_another_seed_is_no_partner(simulation: Path, tmp_path: Path) -> None:
    run = as_run(simulation, tmp_path / "run")
    write_manifest(msgspec.structs.replace(read_manifest(run), seed=99), run)
    assert find_simulation(run, [simulation]) is None
    assert compare([simulation, run])[1].gap is None

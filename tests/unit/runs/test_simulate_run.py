"""A lab in the simulator leaves what a run leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from simulated_lab import LAB, simulated

from controller.contract import STAGES, Decision, Observation
from controller.policies.static import EdgeOnly
from testbed.cli.compare import command as compare_command
from testbed.cli.simulate import command
from testbed.cli.validate import command as validate
from testbed.errors import InputError, InvalidRunError
from testbed.lab.simulate import channel_states
from testbed.labfile.load import load
from testbed.records.manifest import read_manifest
from testbed.records.streams import SCHEMAS
from testbed.records.tables import column, read_tables
from testbed.report.compare import compare
from testbed.report.conclude import conclude
from testbed.report.fidelity.limits import NOT_MEASURED
from testbed.report.figures import over_time
from testbed.report.summary import Summary, marks_of, read_summary
from testbed.traces.trace import Trace


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """20 slots of edge-only, to be read only: each report that is drawn takes a second."""
    run = tmp_path_factory.mktemp("finished") / "run"
    return run, simulated(run)


def test_summary_is_that_of_a_run(finished: tuple[Path, Summary]) -> None:
    run, summary = finished
    assert summary == read_summary(run)
    assert (summary.runtime, summary.policy, summary.duration_seconds) == ("simulator", "edge-only", 40.0)
    counts = summary.tasks
    assert counts.arrived == counts.completed + counts.in_flight > 100
    stages = [seconds for seconds in summary.stages_seconds.values() if seconds is not None]
    assert sum(stages) == pytest.approx(summary.e2e_delay_seconds.mean, rel=1e-9)
    assert set(summary.fidelity.values()) == {NOT_MEASURED}
    assert summary.valid
    assert read_manifest(run).runtime_features == {"mode": "event"}


def test_the_report_of_a_simulation_claims_no_emulation_and_draws_the_rates_of_its_slots(
    finished: tuple[Path, Summary],
) -> None:
    page = (finished[0] / "report.html").read_text()
    assert "<b>Simulated.</b>" in page
    assert "keeps its limit" not in page
    assert "Round trips" not in page
    figure = over_time(read_tables(finished[0]), "ue1")
    assert "<!-- uplink -->" in figure


def test_tables_have_the_columns_of_a_run(tmp_path: Path) -> None:
    simulated(tmp_path / "run", "policy=device-only")
    tables = read_tables(tmp_path / "run")
    assert tables.slots.schema.names == SCHEMAS["slots"].names
    wanted = [*SCHEMAS["tasks"].names, "announced", "records", "e2e_delay_seconds"]
    assert tables.tasks.schema.names == [*wanted, *(f"stage_{stage}_seconds" for stage in STAGES)]
    assert len(tables.slots) == 20 * 4
    local = tables.tasks.filter(column(tables.tasks, "status") == "completed")
    assert set(column(local, "cut")) == {"local"}
    assert np.all(column(local, "wire_bytes") == 0)
    assert np.all(column(local, "result_received_seconds") == column(local, "head_end_seconds"))


def test_report_and_compare_read_it(finished: tuple[Path, Summary], tmp_path: Path) -> None:
    run = shutil.copytree(finished[0], tmp_path / "run")
    first = finished[1]
    assert msgspec.structs.replace(conclude(run), run_dir=first.run_dir) == first
    assert "edge-only" in (run / "report.html").read_text(encoding="utf-8")
    (row,) = compare([run])
    assert (row.runtime, row.tasks, row.gap) == ("simulator", first.tasks.completed, None)


@pytest.mark.parametrize(("form", "settles"), [("linear", True), ("proportional", False)])
def test_a_market_that_does_not_settle_is_told(tmp_path: Path, form: str, settles: bool) -> None:
    summary = simulated(tmp_path / "run", f"policy={{name: dds, form: {form}}}")
    assert summary.settled_ratio == read_summary(tmp_path / "run").settled_ratio
    states = column(read_tables(tmp_path / "run").slots, "policy_state")
    assert summary.settled_ratio == np.mean([dict(state)["settled"] for state in states])
    assert (summary.settled_ratio == 1.0) == settles
    assert any(mark.startswith("unsettled: in ") for mark in marks_of(summary)) == (not settles)


def test_a_policy_without_a_market_settles_none(tmp_path: Path) -> None:
    assert simulated(tmp_path / "run").settled_ratio is None


@pytest.mark.thorough
def test_arrivals_depend_on_the_seed_only(tmp_path: Path) -> None:
    """Two policies under one seed meet the same tasks; another seed brings others."""
    for name, overrides in (
        ("edge", ()),
        ("device", ("policy=device-only",)),
        ("other", ("seed=12",)),
    ):
        simulated(tmp_path / name, *overrides)
    edge, device, other = (
        column(read_tables(tmp_path / name).tasks, "arrival_seconds") for name in ("edge", "device", "other")
    )
    assert np.array_equal(edge, device)
    assert not np.array_equal(edge[: len(other)], other[: len(edge)])


def test_slot_mode_has_a_summary_and_no_tasks(tmp_path: Path) -> None:
    summary = simulated(tmp_path / "run", "policy=device-only", mode="slot")
    assert summary.e2e_delay_seconds.mean is not None
    stages = [seconds for seconds in summary.stages_seconds.values() if seconds is not None]
    assert sum(stages) == pytest.approx(summary.e2e_delay_seconds.mean)
    assert summary.cuts == {"local": 1.0}
    assert len(read_tables(tmp_path / "run").tasks) == 0
    with pytest.raises(InputError, match="slot mode has no tasks"):
        conclude(tmp_path / "run")


def test_a_run_is_not_overwritten(finished: tuple[Path, Summary]) -> None:
    with pytest.raises(InputError, match="there is a run already"):
        simulated(finished[0], slots=2)


def test_states_follow_traces_of_different_steps() -> None:
    topology = load(LAB, ["ues.0.count=2"])
    traces = {
        "ue1": Trace(np.array([0.0, 0.2]), np.array([1.0, 2.0]), np.array([1.0, 2.0]), "gain", 0.4),
        "ue2": Trace(np.array([0.0, 0.3]), np.array([3.0, 4.0]), np.array([5.0, 6.0]), "gain", 0.6),
    }
    states = channel_states(topology, traces, 1.0)
    assert states.step_seconds == pytest.approx(0.1)
    assert states.up[:, 0].tolist() == [1, 1, 2, 2, 1, 1, 2, 2, 1, 1]
    assert states.down[:, 1].tolist() == [5, 5, 5, 6, 6, 6, 5, 5, 5, 6]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "policy.checkpoint=checkpoints/none.npz"], "policy.checkpoint"),
        (["--set", "policy.checkpoint=checkpoints/lymdo-resnet18.npz"], "alexnet"),
        (["--policy", "fixed", "--set", "policy.cut=nowhere"], "nowhere"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_before_anything_is_written(
    arguments: list[str], says: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = CliRunner().invoke(command, [str(LAB), "--slots", "2", "--out", str(out), *arguments])
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception)
    assert not out.exists()


@pytest.mark.thorough
def test_a_lab_outside_of_what_the_actor_was_trained_on_runs_and_is_told_so(tmp_path: Path) -> None:
    arguments = [str(LAB), "--slots", "2", "--set", "ues.0.speed=2"]
    result = CliRunner().invoke(command, [*arguments, "--out", str(tmp_path / "run")], catch_exceptions=False)
    told = [line for line in result.stderr.splitlines() if "outside of what the checkpoint of lymdo" in line]
    assert len(told) == 1
    assert "speed, cores 2 (trained on 0.15 to 1.5)" in told[0]
    # validate says it, too
    validated = CliRunner().invoke(validate, [str(LAB), "--set", "ues.0.speed=2", "--json"], catch_exceptions=False)
    assert any("speed, cores 2" in warning for warning in json.loads(validated.stdout)["warnings"])


def test_command_with_the_lab_s_own_checkpoint(tmp_path: Path) -> None:
    """``--policy`` with the lab's own policy keeps its options."""
    out = tmp_path / "run"
    result = CliRunner().invoke(
        command, [str(LAB), "--policy", "lymdo", "--slots", "10", "--out", str(out), "--json"], catch_exceptions=False
    )
    assert msgspec.json.decode(result.stdout, type=Summary) == read_summary(out)
    assert "outside of what" not in result.stderr
    options = read_manifest(out).policy_options
    assert options == {"V": 0.3, "checkpoint": str(LAB.parent / "checkpoints" / "lymdo.npz")}


@pytest.mark.thorough
def test_an_overloaded_simulation_is_invalid_and_says_why(tmp_path: Path) -> None:
    """30 tasks/s of a UE that computes 3/s, and half a slot's patience: what a run of it would say."""
    out = tmp_path / "run"
    overloaded = ["--set", "ues.0.arrivals={process: poisson, rate: 30 /s}", "--set", "task_timeout=15 s"]
    result = CliRunner().invoke(
        command, [str(LAB), "--policy", "device-only", "--slots", "20", "--out", str(out), *overloaded]
    )
    assert isinstance(result.exception, InvalidRunError)
    assert result.exception.exit_code == 4
    assert "timed_out_ratio is " in str(result.exception)
    assert "censored: " in result.stdout
    assert "unstable: " in result.stdout
    summary = read_summary(out)
    assert (summary.valid, summary.censored, summary.unstable) == (False, True, True)
    tasks = summary.tasks
    assert tasks.arrived == tasks.completed + tasks.failed + tasks.in_flight
    assert tasks.failed > 100
    assert summary.e2e_delay_seconds.p99 is not None
    assert summary.e2e_delay_seconds.p99 < 16.0, "none is older than its timeout and a head"
    (row,) = compare([out])
    assert row.marks[0] == "invalid"
    assert row.marks[1].startswith("censored: ")
    assert row.marks[2] == "unstable"
    shown = CliRunner().invoke(compare_command, [str(out)], catch_exceptions=False).stdout
    assert "censored" in shown
    assert "no, unstable" in shown
    page = (out / "report.html").read_text()
    assert "censored: " in page
    assert "timeout: 15 s passed in the device queue" in page


def test_slots_that_the_formula_calls_overloaded_end_no_task(tmp_path: Path) -> None:
    summary = simulated(
        tmp_path / "run", "policy=device-only", "ues.0.arrivals={process: poisson, rate: 30 /s}", slots=5, mode="slot"
    )
    assert (summary.tasks.completed, summary.valid) == (0, False)
    assert any("nothing_completed" in reason for reason in summary.invalid_reasons)


class _Falters(EdgeOnly):
    def decide(self, observation: Observation) -> Decision:
        if observation.slot > 3:
            raise KeyError("no such UE")
        return super().decide(observation)


@pytest.mark.thorough
def test_a_policy_that_raises_leaves_events_and_an_invalid_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testbed.lab.simulate.create", lambda *_: _Falters())
    summary = simulated(tmp_path / "run")
    assert not summary.valid
    events = read_tables(tmp_path / "run").events.to_pylist()
    assert [event["kind"] for event in events] == ["policy-error"] * 16
    assert events[0]["text"] == "slot 4: KeyError: 'no such UE'; the last decision stays"
    assert events[0]["monotonic_seconds"] == pytest.approx(8.0)

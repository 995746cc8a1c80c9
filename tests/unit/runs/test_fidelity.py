from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import Lab, manifest, simulate
from test_finalise import write_streams

from testbed.messages import ChannelDrops, LinkStep, Message, NodeHealth, SlotRecord, TaskRecord
from testbed.runs.fidelity import Fidelity, assess
from testbed.runs.rates import AppliedRate


def assessed(run: Path, lab: Lab, records: list[Message], *, realtime: bool = True) -> Fidelity:
    return assess(write_streams(run, records), manifest(lab, realtime=realtime))


def changed(records: list[Message], kind: type, **fields: object) -> list[Message]:
    return [msgspec.structs.replace(r, **fields) if isinstance(r, kind) else r for r in records]


def test_integral_of_known_steps() -> None:
    rate = AppliedRate([0.0, 1.0, 3.0], [10.0, 20.0, 5.0])
    assert rate.bits_between(0.0, 1.0) == 10.0
    assert rate.bits_between(0.5, 3.0) == 5.0 + 40.0
    assert rate.bits_between(2.0, 5.0) == 20.0 + 10.0
    assert rate.bits_between(-1.0, 0.0) == 10.0  # the first value holds before its step
    assert rate.time_of(45.0) == pytest.approx(2.75)
    assert rate.time_of(50.0) == pytest.approx(3.0)
    assert rate.time_of(60.0) == pytest.approx(5.0)


def test_an_outage_at_the_end_never_delivers() -> None:
    rate = AppliedRate([0.0, 1.0], [10.0, 0.0])
    assert rate.time_of(10.0) == 1.0
    assert rate.time_of(11.0) == np.inf


@given(
    st.lists(st.tuples(st.floats(0.01, 5), st.floats(1e3, 1e8)), min_size=1, max_size=20),
    st.floats(-1, 100),
)
def test_time_of_inverts_the_integral(steps: list[tuple[float, float]], at: float) -> None:
    rate = AppliedRate(np.cumsum([gap for gap, _ in steps]), [value for _, value in steps])
    assert rate.time_of(rate.bits_until(at)) == pytest.approx(at, rel=1e-6, abs=1e-6)


def test_a_faithful_run_is_valid(tmp_path: Path) -> None:
    lab = Lab(duration=10)
    fidelity = assessed(tmp_path, lab, simulate(lab))
    assert fidelity.invalid_reasons == []
    assert fidelity.value("uplink_integral_error") == pytest.approx(0, abs=1e-9)
    assert fidelity.value("uplink_stage_error") == pytest.approx(0, abs=1e-9)
    assert fidelity.value("step_lateness_p99_seconds") == pytest.approx(0.0001, rel=1e-3)
    assert fidelity.ues["ue1"].uplink_integral_ratio == pytest.approx(1)


@pytest.mark.parametrize("truth", [0.9, 1.1])
def test_a_rate_that_is_not_the_applied_one_is_found(tmp_path: Path, truth: float) -> None:
    lab = Lab(duration=20, rate_per_second=10, true_rate_ratio=truth)
    fidelity = assessed(tmp_path, lab, simulate(lab))
    assert fidelity.value("uplink_integral_error") == pytest.approx(abs(1 / truth - 1), rel=1e-6)
    assert fidelity.value("rate_error") == pytest.approx(abs(truth - 1), rel=1e-6)
    assert not fidelity.valid
    assert any("uplink_integral_error" in reason for reason in fidelity.invalid_reasons)


def test_a_link_that_was_never_saturated_has_no_rate_error(tmp_path: Path) -> None:
    lab = Lab(duration=10, rate_per_second=0.5)
    fidelity = assessed(tmp_path, lab, simulate(lab))
    assert fidelity.value("rate_error") == "not_measured"
    assert fidelity.valid


def test_a_transfer_that_counts_its_wait_is_found(tmp_path: Path) -> None:
    lab = Lab(duration=20, rate_per_second=10)
    records = [
        msgspec.structs.replace(r, transfer_start_seconds=r.head_end_seconds) if isinstance(r, TaskRecord) else r
        for r in simulate(lab)
    ]
    assert not assessed(tmp_path, lab, records).valid


@pytest.mark.parametrize(
    ("kind", "fields", "figure"),
    [
        (ChannelDrops, {"dropped_packets": 1}, "unordered_drops"),
        (TaskRecord, {"head_target_seconds": 0.0295}, "stage_time_error_p50"),
        (TaskRecord, {"head_compute_seconds": 0.031}, "overrun_ratio"),
        (SlotRecord, {"tail_overruns": 1}, "overrun_ratio"),
        (SlotRecord, {"decide_late": True}, "late_decision_ratio"),
        (SlotRecord, {"report_age_seconds": 0.6}, "stale_report_ratio"),
    ],
)
def test_each_limit_makes_a_run_invalid(tmp_path: Path, kind: type, fields: dict[str, object], figure: str) -> None:
    lab = Lab(duration=5)
    fidelity = assessed(tmp_path, lab, changed(simulate(lab), kind, **fields))
    assert any(reason.startswith(f"{figure} ") for reason in fidelity.invalid_reasons)


def test_throttling_is_judged_by_the_worst_node(tmp_path: Path) -> None:
    lab = Lab(duration=5)
    records = [
        msgspec.structs.replace(r, throttled_seconds=0.1 * (r.monotonic_seconds - 1000))
        if isinstance(r, NodeHealth) and r.node == "ue2"
        else r
        for r in simulate(lab)
    ]
    fidelity = assessed(tmp_path, lab, records)
    assert fidelity.value("throttled_ratio") == pytest.approx(0.1)
    assert not fidelity.valid


def test_late_steps_pass_only_without_realtime_priority(tmp_path: Path) -> None:
    lab = Lab(duration=5, step_lateness=0.004)
    records = simulate(lab)
    assert not assessed(tmp_path / "a", lab, records).valid
    assert assessed(tmp_path / "b", lab, records, realtime=False).valid


def test_steps_that_were_left_out_are_counted(tmp_path: Path) -> None:
    lab = Lab(ues=("ue1",), duration=5)
    records = simulate(lab)
    steps = [r for r in records if isinstance(r, LinkStep)]
    gone = steps[10:16]  # three steps, both directions
    fidelity = assessed(tmp_path, lab, [r for r in records if r not in gone])
    assert fidelity.value("skipped_steps") == 3
    assert fidelity.value("skipped_step_ratio") == pytest.approx(3 / (len(steps) / 2))
    assert not fidelity.valid


def test_a_trace_without_an_even_grid_shows_no_gaps(tmp_path: Path) -> None:
    lab = Lab(ues=("ue1",), duration=5)
    records = [
        msgspec.structs.replace(r, planned_seconds=1000 + (r.planned_seconds - 1000) ** 1.5)
        if isinstance(r, LinkStep)
        else r
        for r in simulate(lab)
    ]
    assert assessed(tmp_path, lab, records).value("skipped_steps") == "not_measured"

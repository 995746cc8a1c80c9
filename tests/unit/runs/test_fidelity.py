from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import ORIGIN, Lab, manifest, quiet_host, simulate
from test_finalise import write_streams

from controller.service.protocol import Message
from testbed.labfile.schema_links import LinkSpec
from testbed.protocol.records import ChannelDrops, HostHealth, LinkStep, NodeHealth, RoundTrips, SlotRecord, TaskRecord
from testbed.report.fidelity.fidelity import Fidelity, assess
from testbed.report.fidelity.link_figures import burst_length_of, loss_fidelity
from testbed.report.fidelity.rates import AppliedRate


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


@pytest.mark.parametrize(("truth", "kept"), [(1.1, True), (1.25, False), (0.9, False)])
def test_short_transfers_may_be_early_by_their_first_frame(tmp_path: Path, truth: float, kept: bool) -> None:
    """10 kB on an idle link: HTB lets one of seven frames go at once, 15 %. Nothing explains that they are late."""
    lab = Lab(duration=20, rate_per_second=1, wire_bytes=10_000, true_rate_ratio=truth)
    fidelity = assessed(tmp_path, lab, simulate(lab))
    assert fidelity.value("uplink_integral_error") == pytest.approx(abs(1 / truth - 1), rel=1e-6)
    assert kept == (not any("uplink_integral_error" in reason for reason in fidelity.invalid_reasons))


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


@pytest.mark.parametrize(("late", "ok"), [(1, True), (10, False)])
def test_a_late_step_or_two_are_no_evidence_against_a_percentile(tmp_path: Path, late: int, ok: bool) -> None:
    lab = Lab(duration=5)
    records = [
        msgspec.structs.replace(record, applied_seconds=record.planned_seconds + 0.004)
        if isinstance(record, LinkStep) and record.planned_seconds <= ORIGIN + 0.1 * late - 0.05
        else record
        for record in simulate(lab)
    ]
    fidelity = assessed(tmp_path, lab, records)
    assert fidelity.value("step_lateness_max_seconds") == pytest.approx(0.004)
    assert fidelity.valid == ok
    assert any("step_lateness_p99" in reason for reason in fidelity.invalid_reasons) != ok


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


def test_rates_are_judged_link_by_link_and_window_by_window(tmp_path: Path) -> None:
    lab = Lab(duration=20, rate_per_second=10)
    honest = simulate(lab)
    fidelity = assessed(tmp_path, lab, honest)
    link = fidelity.links["ue1 up"]
    assert link.rate_error == pytest.approx(0, abs=1e-9)
    assert [window.seconds for window in link.windows] == pytest.approx([20 / 3] * 3, rel=0.05)
    assert fidelity.links["ue1 down"].rate_error == "not_measured"
    applied = [r for r in honest if isinstance(r, LinkStep) and r.ue == "ue1" and r.direction == "up"]
    rates = AppliedRate([r.applied_seconds for r in applied], [r.applied_bits_per_second for r in applied])
    assert link.windows[1].commanded_bits_per_second == pytest.approx(
        float(rates.bits_between(1000 + 20 / 3, 1000 + 40 / 3)) / (20 / 3), rel=0.02
    )


def test_one_bad_window_is_found_though_the_whole_is_right(tmp_path: Path) -> None:
    lab = Lab(duration=60, rate_per_second=10, wire_bytes=30_000)
    records = [
        # the player says that it halved the rate for 3 s; the wire knew nothing of it
        msgspec.structs.replace(r, applied_bits_per_second=r.applied_bits_per_second / 2)
        if isinstance(r, LinkStep) and r.ue == "ue1" and 1020 <= r.planned_seconds < 1023
        else r
        for r in simulate(lab)
    ]
    fidelity = assessed(tmp_path, lab, records)
    assert any(reason.startswith("rate_window_error ") for reason in fidelity.invalid_reasons)
    assert fidelity.links["ue2 up"].worst_window_error == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("measured", "valid"), [(0.0102, True), (0.0115, False)])
def test_round_trips_are_held_against_the_configured_delay(tmp_path: Path, measured: float, valid: bool) -> None:
    lab = Lab(duration=5)
    trips = [RoundTrips(ue, 999.0, 20, 20, measured, measured, 0.010, 0.0) for ue in lab.ues]
    fidelity = assessed(tmp_path, lab, [*trips, *simulate(lab)])
    assert fidelity.value("round_trip_error") == pytest.approx((measured - 0.010) / 0.0006)
    assert fidelity.valid == valid
    trip = fidelity.ues["ue1"].round_trip
    assert trip is not None
    assert trip.measured_seconds == measured


def test_an_echo_that_is_lost_without_order_makes_a_run_invalid(tmp_path: Path) -> None:
    lab = Lab(duration=5)
    fidelity = assessed(tmp_path, lab, [RoundTrips("ue1", 999.0, 20, 19, 0.01, 0.01, 0.010, 0.0), *simulate(lab)])
    assert fidelity.value("echoes_lost") == 1
    assert not fidelity.valid


def test_a_loss_outside_its_interval_is_found(tmp_path: Path) -> None:
    lab = Lab(duration=5)

    def with_losses(lost: int) -> list[Message]:
        records = changed(simulate(lab), LinkStep, loss_ratio=0.02)
        return changed(records, ChannelDrops, sent_packets=100 - lost, lost_packets=lost)

    right, wrong = assessed(tmp_path / "a", lab, with_losses(2)), assessed(tmp_path / "b", lab, with_losses(4))
    loss = right.links["ue1 up"].loss
    assert loss is not None
    assert loss.interval_99[0] < 0.02 < loss.interval_99[1]
    assert loss.measured_ratio == pytest.approx(0.02)
    assert right.valid
    assert wrong.value("losses_off") == 3
    assert not wrong.valid


def test_losses_in_bursts_have_a_wider_interval() -> None:
    bursts = LinkSpec.model_validate({"gilbert_elliott": {"p": "1 %", "r": "25 %", "bad": "100 %", "good": "0 %"}})
    spread = burst_length_of(bursts)
    assert spread == pytest.approx((2 - 0.26) / 0.26)
    narrow, wide = loss_fidelity(400, 10_000, 0.0385), loss_fidelity(400, 10_000, 0.0385, spread)
    assert wide.interval_99[0] < narrow.interval_99[0] < narrow.interval_99[1] < wide.interval_99[1]


def test_stages_that_do_not_make_up_the_delay_are_found(tmp_path: Path) -> None:
    lab = Lab(duration=5)
    records = [
        msgspec.structs.replace(r, tail_start_seconds=r.received_seconds - 0.001)
        if isinstance(r, TaskRecord) and r.task == 3
        else r
        for r in simulate(lab)
    ]
    fidelity = assessed(tmp_path, lab, records)
    assert fidelity.value("stage_sum_error_seconds") == pytest.approx(0.001)
    assert not fidelity.valid


def test_stages_are_told_by_ue(tmp_path: Path) -> None:
    lab = Lab(duration=20)
    records = [
        msgspec.structs.replace(r, head_target_seconds=r.head_target_seconds * 0.99)
        if isinstance(r, TaskRecord) and r.ue == "ue2"
        else r
        for r in simulate(lab)
    ]
    fidelity = assessed(tmp_path, lab, records)
    assert fidelity.ues["ue1"].stages["head"].error_p50 == pytest.approx(0, abs=1e-9)
    assert fidelity.ues["ue2"].stages["head"].error_p50 == pytest.approx(1 / 0.99 - 1)
    assert fidelity.value("stage_time_error_worst") == pytest.approx(1 / 0.99 - 1)
    assert any(reason.startswith("stage_time_error_worst ") for reason in fidelity.invalid_reasons)


def host(at: float, **fields: object) -> HostHealth:
    quiet = HostHealth(at, 0.5, 0.0, 2, 0, lab_cores=0.8)
    return msgspec.structs.replace(quiet, **fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"foreign_cores": 1.9, "foreign_top": "stress (pid 7, real-time priority 50)"}, "stress (pid 7, real-time"),
        ({"steal_ratio": 0.04}, "the hypervisor gave 4.0% of the CPU time"),
        ({"paused_seconds": 0.02, "longest_pause_seconds": 0.009}, "stood still for 2.0% of the time, at most 9.0 ms"),
        ({"busy_ratio": 0.97, "lab_cores": 1.8}, "the lab itself fills this host"),
        ({}, "none seen"),
    ],
)
def test_a_late_run_names_its_cause(tmp_path: Path, fields: dict[str, object], said: str) -> None:
    lab = Lab(duration=5, step_lateness=0.02)
    samples: list[Message] = [host(1000.5 + second, **fields) for second in range(5)]
    fidelity = assessed(tmp_path, lab, [*simulate(lab), *samples])
    (cause,) = [reason for reason in fidelity.invalid_reasons if reason.startswith("cause: ")]
    assert said in cause


def test_the_time_for_which_the_host_stood_still(tmp_path: Path) -> None:
    lab = Lab(duration=5)
    assert assessed(tmp_path, lab, simulate(lab)).value("paused_ratio") == "not_measured"
    samples: list[Message] = [host(1000.5 + second, paused_seconds=0.01 * second) for second in range(5)]
    found = assessed(tmp_path / "watched", lab, [*simulate(lab), *samples]).value("paused_ratio")
    assert found == pytest.approx(
        0.1 / sum(sample.elapsed_seconds for sample in samples if isinstance(sample, HostHealth))
    )


def test_a_run_that_is_not_late_names_none(tmp_path: Path) -> None:
    lab = Lab(duration=5)
    busy = [*quiet_host(), host(1001.0, foreign_cores=1.9, foreign_top="stress (pid 7)")]
    fidelity = assessed(tmp_path, lab, [*changed(simulate(lab), ChannelDrops, dropped_packets=1), *busy])
    assert not fidelity.valid
    assert not any("cause" in reason for reason in fidelity.invalid_reasons)
    assert assessed(tmp_path / "calm", lab, [*simulate(lab), *busy]).valid

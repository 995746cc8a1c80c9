"""What each record does to the metrics."""

from __future__ import annotations

import math

import msgspec
import pytest
from imagined_run import slot_record, task

from controller.contract import STAGES
from controller.policies.examples import example_scenario
from testbed.programs.exporter.metric import LABELLED_CUTS, OTHER_CUTS
from testbed.programs.exporter.metrics import Metrics
from testbed.programs.exporter.task_metrics import DELAY_BUCKETS, stage_seconds
from testbed.protocol.records import (
    ChannelDrops,
    EdgeHealth,
    Event,
    LinkStep,
    ModelUpdate,
    NodeHealth,
    TaskArrived,
    UploadRecord,
)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(example_scenario(), "lymdo")


def value(metrics: Metrics, metric: str, /, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(metric, labels)


def test_counters_of_every_known_ue_start_at_zero(metrics: Metrics) -> None:
    for ue in ("ue0", "ue1", "ue2"):
        for name in ("arrived", "completed", "failed"):
            assert value(metrics, f"testbed_tasks_{name}_total", ue=ue) == 0
        assert value(metrics, "testbed_e2e_delay_seconds_count", ue=ue) == 0
        assert value(metrics, "testbed_energy_joules_total", ue=ue, kind="transmit") == 0


def test_an_absent_budget_is_not_exported() -> None:
    unlimited = Metrics(example_scenario(energy_budget_joules=math.inf), "edge-only")
    assert value(unlimited, "testbed_energy_budget_joules_per_slot", ue="ue0") is None
    assert value(unlimited, "testbed_slot_seconds") == 0.5


def test_a_model_that_moved_shows_its_version_and_what_it_cost(metrics: Metrics) -> None:
    placed = ModelUpdate("ue0", 3, "block3", "placed", "", 6, 80_000, 85_000, 1, 1.0, 1.5, 1.6, 0.05)
    metrics.take(placed)
    metrics.take(msgspec.structs.replace(placed, version=4, status="discarded", wire_bytes=1000))
    assert value(metrics, "testbed_model_version", ue="ue0") == 3
    assert value(metrics, "testbed_model_placed_nodes", ue="ue0") == 6
    assert value(metrics, "testbed_model_download_bytes_total", ue="ue0") == 86_000
    assert value(metrics, "testbed_model_downloads_total", ue="ue0", status="discarded") == 1
    assert value(metrics, "testbed_energy_joules_total", ue="ue0", kind="receive") == pytest.approx(0.1)
    assert value(metrics, "testbed_model_version", ue="ue1") == 0


def test_uploads_show_what_they_carried_and_what_went_before_them(metrics: Metrics) -> None:
    times = (1.0, 1.1, 1.1, 1.5)
    layer = UploadRecord("ue0", 3, "conv1", "parameters", "held", "", 900, 1000, 0, True, 2, *times, 0, 0)
    value_up = UploadRecord("ue0", 3, "relu", "feature", "received", "", 400, 500, 0, True, 0, *times, 700, 1500)
    for record in (layer, value_up, msgspec.structs.replace(layer, status="corrupt", checksum_ok=False, resumed=0)):
        metrics.take(record)
    assert value(metrics, "testbed_upload_bytes_total", ue="ue0", kind="parameters") == 2000
    assert value(metrics, "testbed_upload_bytes_total", ue="ue0", kind="feature") == 500
    assert value(metrics, "testbed_upload_preemptions_total", ue="ue0") == 1
    assert value(metrics, "testbed_uploads_resumed_total", ue="ue0") == 2
    assert value(metrics, "testbed_uploads_total", ue="ue0", status="corrupt") == 1
    metrics.take(slot_record("ue0", 0, cached_nodes=4, upload_progress_ratio=0.25))
    assert value(metrics, "testbed_edge_cached_nodes", ue="ue0") == 4
    assert value(metrics, "testbed_upload_progress_ratio", ue="ue0") == 0.25
    metrics.take(EdgeHealth(1.0, 0.0, 0, cache_bytes=5000, cache_limit_bytes=8000, cache_evictions=3))
    assert value(metrics, "testbed_edge_cache_bytes") == 5000
    assert value(metrics, "testbed_edge_cache_evictions_total") == 3


def test_a_completed_task_is_counted_once_everywhere(metrics: Metrics) -> None:
    metrics.take(TaskArrived("ue0", 1, 10.0))
    metrics.take(task("ue0", 1, 10.0, delay=0.35))
    assert value(metrics, "testbed_tasks_arrived_total", ue="ue0") == 1
    assert value(metrics, "testbed_tasks_completed_total", ue="ue0") == 1
    assert value(metrics, "testbed_tasks_failed_total", ue="ue0") == 0
    assert value(metrics, "testbed_e2e_delay_seconds_sum", ue="ue0") == pytest.approx(0.35)
    assert value(metrics, "testbed_e2e_delay_seconds_bucket", ue="ue0", le="0.3") == 0
    assert value(metrics, "testbed_e2e_delay_seconds_bucket", ue="ue0", le="0.4") == 1
    assert value(metrics, "testbed_tasks_by_cut_total", ue="ue0", cut="block3") == 1
    assert value(metrics, "testbed_boundary_bytes_total", ue="ue0") == 25_000


def test_a_failed_task_has_no_delay(metrics: Metrics) -> None:
    metrics.take(task("ue0", 1, 10.0, status="failed"))
    assert value(metrics, "testbed_tasks_failed_total", ue="ue0") == 1
    assert value(metrics, "testbed_e2e_delay_seconds_count", ue="ue0") == 0
    assert value(metrics, "testbed_stage_duration_seconds_count", stage="head") == 0


def test_stages_sum_to_the_delay(metrics: Metrics) -> None:
    one = task("ue1", 4, 2.0, delay=0.7)
    stages = stage_seconds(one)
    assert tuple(stages) == STAGES
    assert sum(stages.values()) == pytest.approx(0.7)
    metrics.take(one)
    booked = [value(metrics, "testbed_stage_duration_seconds_sum", stage=stage) for stage in STAGES]
    assert booked == pytest.approx([0.1] * 7)


def test_achieved_speed_is_the_decided_one_over_the_stretch(metrics: Metrics) -> None:
    slow = msgspec.structs.replace(task("ue0", 1, 0.0, delay=0.7), head_target_seconds=0.05)
    metrics.take(slow)  # its head took 0.1 s
    assert value(metrics, "testbed_speed_achieved_cores", ue="ue0") == pytest.approx(0.05)
    assert value(metrics, "testbed_stage_time_ratio_sum", stage="head") == pytest.approx(2.0)


def test_what_belongs_to_a_slot_is_counted_once_however_many_ues(metrics: Metrics) -> None:
    for ue in ("ue0", "ue1", "ue2"):
        metrics.take(slot_record(ue, 0, decide_late=True))
    assert value(metrics, "testbed_slots_total") == 1
    assert value(metrics, "testbed_slot_overruns_total") == 1
    assert value(metrics, "testbed_decision_duration_seconds_count") == 1
    metrics.take(slot_record("ue0", 1))
    assert value(metrics, "testbed_slots_total") == 2


def test_only_one_cut_of_a_ue_is_in_use(metrics: Metrics) -> None:
    metrics.take(slot_record("ue0", 0, cut="block3"))
    metrics.take(slot_record("ue0", 1, cut="local"))
    assert value(metrics, "testbed_cut_in_use", ue="ue0", cut="block3") == 0
    assert value(metrics, "testbed_cut_in_use", ue="ue0", cut="local") == 1


def test_a_dags_many_cuts_do_not_make_a_series_each(metrics: Metrics) -> None:
    for number in range(LABELLED_CUTS + 20):
        metrics.take(slot_record("ue0", number, cut=f"a{number}+b"))
    assert value(metrics, "testbed_cut_in_use", ue="ue0", cut=OTHER_CUTS) == 1
    assert value(metrics, "testbed_cut_in_use", ue="ue0", cut="a7+b") == 0
    (cuts,) = (one for one in metrics.registry.collect() if one.name == "testbed_cut_in_use")
    assert len([sample for sample in cuts.samples if sample.labels["ue"] == "ue0"]) == LABELLED_CUTS + 1
    metrics.take(slot_record("ue0", 99, cut="a7+b"))
    assert value(metrics, "testbed_cut_in_use", ue="ue0", cut=OTHER_CUTS) == 0
    assert value(metrics, "testbed_cut_in_use", ue="ue0", cut="a7+b") == 1


def test_the_policys_numbers_find_their_metric(metrics: Metrics) -> None:
    metrics.take(slot_record("ue0", 0))
    assert value(metrics, "testbed_virtual_queue_joules", ue="ue0") == pytest.approx(0.7)
    assert value(metrics, "testbed_drift_plus_penalty") == pytest.approx(1.5)
    assert value(metrics, "testbed_policy_state", name="V", ue="") == pytest.approx(0.3)
    assert value(metrics, "testbed_policy_state", name="predicted_seconds", ue="ue0") == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("cause", "lateness", "steps", "late", "observed"),
    [("trace", 0.0002, 1, 0, 1), ("trace", 0.02, 1, 1, 1), ("decision", 0.02, 1, 0, 0)],
)
def test_only_a_trace_step_can_be_late(
    metrics: Metrics, cause: str, lateness: float, steps: int, late: int, observed: int
) -> None:
    metrics.take(LinkStep("ue0", "up", 5.0, 5.0 + lateness, 8e6, 4e6, 1e-9, cause))
    assert value(metrics, "testbed_link_steps_total", ue="ue0", direction="up") == steps
    assert value(metrics, "testbed_link_steps_late_total", ue="ue0", direction="up") == late
    assert value(metrics, "testbed_link_step_lateness_seconds_count") == observed
    assert value(metrics, "testbed_link_rate_commanded_bytes_per_second", ue="ue0", direction="up") == 5e5


def test_cumulative_reports_of_a_node_survive_its_restart(metrics: Metrics) -> None:
    for cpu, throttled in ((1.0, 0.5), (3.0, 0.75), (0.5, 0.25)):  # the last: started again, counts from 0
        metrics.take(NodeHealth("edge", 0.0, cpu, 2, throttled))
    assert value(metrics, "testbed_node_cpu_seconds_total", node="edge") == pytest.approx(3.5)
    assert value(metrics, "testbed_node_throttled_seconds_total", node="edge") == pytest.approx(1.0)
    assert value(metrics, "testbed_node_throttled_periods_total", node="edge") == 2


def test_malformed_frames_are_cumulative_too(metrics: Metrics) -> None:
    for total in (0, 2, 5):
        metrics.take(EdgeHealth(0.0, 0.001, total))
    assert value(metrics, "testbed_edge_malformed_frames_total") == 5


def test_the_edges_device_is_cumulative_and_survives_its_restart(metrics: Metrics) -> None:
    assert value(metrics, "testbed_edge_device_seconds_total", work="tail") == 0
    for tail_seconds, uploaded in ((1.5, 1000), (2.0, 1500), (0.25, 100)):
        metrics.take(EdgeHealth(0.0, 0.001, 0, device_tail_seconds=tail_seconds, device_uploaded_bytes=uploaded))
    assert value(metrics, "testbed_edge_device_seconds_total", work="tail") == 2.25
    assert value(metrics, "testbed_edge_device_bytes_total", work="upload") == 1600


def test_events_are_counted_by_kind(metrics: Metrics) -> None:
    metrics.take(Event(0.0, "ue0", "silent", "no report"))
    assert value(metrics, "testbed_events_total", kind="silent") == 1


def test_buckets_reach_from_1_ms_to_30_s_in_order() -> None:
    assert DELAY_BUCKETS[0] == 0.001
    assert DELAY_BUCKETS[-1] == 30.0
    assert list(DELAY_BUCKETS) == sorted(set(DELAY_BUCKETS))


def test_the_host_is_measured_when_asked(metrics: Metrics) -> None:
    busy = value(metrics, "testbed_host_cpu_seconds_total", mode="busy")
    assert busy is not None
    assert busy > 0


def test_lost_packets_add_up_and_may_come_back(metrics: Metrics) -> None:
    for lost in (5, 2, -1):
        metrics.take(ChannelDrops("ue0", "up", 0.0, 100, 0, 700, sent_packets=10, lost_packets=lost))
    assert value(metrics, "testbed_link_lost_packets", ue="ue0", direction="up") == 6
    assert value(metrics, "testbed_link_sent_packets_total", ue="ue0", direction="up") == 30
    assert value(metrics, "testbed_link_backlog_bytes", ue="ue0", direction="up") == 700

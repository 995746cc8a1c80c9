"""The three Grafana dashboards as data: ``python -m testbed.monitoring.dashboards DIRECTORY`` writes their JSON.

The files under ``grafana/dashboards`` are made by this module (a test compares them): panels share one form, and a
query is written once. Metrics are declared in :mod:`testbed.programs.exporter`; a test knows of a name that is not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from testbed.monitoring.panels import Dashboard, Panel, Query, quantile_query, to_json

LAB = Dashboard(
    uid="testbed-lab",
    title="Lab",
    panels=(
        Panel(
            "End-to-end delay",
            "s",
            (
                Query("testbed:e2e_delay_seconds:p50_30s{S}", "p50"),
                Query("testbed:e2e_delay_seconds:p95_30s{S}", "p95"),
                Query("testbed:e2e_delay_seconds:p99_30s{S}", "p99"),
            ),
            "Arrival to answer over 30 s. Quantiles are as fine as their bucket; exact ones are in tasks.parquet.",
        ),
        Panel(
            "End-to-end delay by UE, p95",
            "s",
            (Query(quantile_query(0.95, "testbed_e2e_delay_seconds", "ue"), "{{ue}}"),),
        ),
        Panel(
            "Mean time by stage",
            "s",
            (
                Query(
                    "sum by (stage) (rate(testbed_stage_duration_seconds_sum{S}[30s]))"
                    " / (sum by (stage) (rate(testbed_stage_duration_seconds_count{S}[30s])) > 0)",
                    "{{stage}}",
                ),
            ),
            "Stages of a task sum to its end-to-end delay.",
            stacked=True,
        ),
        Panel(
            "Tasks per second",
            "ops",
            (
                Query("sum(rate(testbed_tasks_arrived_total{S}[10s]))", "arrived"),
                Query("sum(rate(testbed_tasks_completed_total{S}[10s]))", "completed"),
                Query("sum(rate(testbed_tasks_failed_total{S}[10s]))", "failed"),
            ),
        ),
        Panel("Queues", "short", (Query("testbed_queue_tasks{S}", "{{ue}} {{queue}}"),), "Tasks at slot start."),
        Panel("Cut in use", "short", (Query("testbed_cut_in_use{S} == 1", "{{ue}} {{cut}}"),), stacked=True),
        Panel("Tasks by cut", "ops", (Query("sum by (cut) (rate(testbed_tasks_by_cut_total{S}[10s]))", "{{cut}}"),)),
        Panel(
            "Uplink rate",
            "bps",
            (
                Query('8 * testbed_link_rate_commanded_bytes_per_second{{S},direction="up"}', "{{ue}} commanded"),
                Query('8 * testbed:link_sent_bytes:rate5s{{S},direction="up"}', "{{ue}} achieved"),
            ),
            "Layer 2. Achieved is what was sent: it reaches the command only while there is something to send.",
        ),
        Panel(
            "Bytes per task",
            "bytes",
            (
                Query(
                    "sum by (ue) (rate(testbed_boundary_bytes_total{S}[30s]))"
                    " / (sum by (ue) (rate(testbed_tasks_completed_total{S}[30s])) > 0)",
                    "{{ue}} tensors",
                ),
                Query(
                    "sum by (ue) (rate(testbed_wire_bytes_total{S}[30s]))"
                    " / (sum by (ue) (rate(testbed_tasks_completed_total{S}[30s])) > 0)",
                    "{{ue}} on the wire",
                ),
            ),
        ),
        Panel("Backlog before the uplink", "bytes", (Query("testbed_tx_backlog_bytes{S}", "{{ue}}"),)),
        Panel("Model version", "short", (Query("testbed_model_version{S}", "{{ue}}"),), "What heads compute with."),
        Panel(
            "Models that move",
            "bytes",
            (
                Query("increase(testbed_model_download_bytes_total{S}[60s])", "{{ue}} down in a minute"),
                Query("testbed_model_placed_nodes{S}", "{{ue}} placed nodes"),
            ),
            "Layer-2 bytes of placed layers, and how many graph nodes the device holds of its version.",
        ),
        Panel(
            "Models that UEs upload",
            "bytes",
            (
                Query("increase(testbed_upload_bytes_total{S}[60s])", "{{ue}} {{kind}} in a minute"),
                Query("testbed_edge_cache_bytes{S}", "held by the edge"),
            ),
            "Layer-2 bytes to an edge that starts without models, and what it holds; 0 where it has them.",
        ),
        Panel(
            "Upload progress",
            "percentunit",
            (Query("testbed_upload_progress_ratio{S}", "{{ue}}"),),
            "Of the parameters that the running task's edge lacked, at slot start.",
        ),
        Panel(
            "Uploads: pre-emptions, resumed, refused",
            "short",
            (
                Query("increase(testbed_upload_preemptions_total{S}[60s])", "{{ue}} values before parameters"),
                Query("increase(testbed_uploads_resumed_total{S}[60s])", "{{ue}} resumed"),
                Query("increase(testbed_edge_cache_refusals_total{S}[60s])", "refused for lack of memory"),
            ),
        ),
    ),
)

CONTROLLER = Dashboard(
    uid="testbed-controller",
    title="Controller",
    panels=(
        Panel(
            "Virtual energy queues",
            "joule",
            (Query("testbed_virtual_queue_joules{S}", "{{ue}}"),),
            "Of a Lyapunov policy; no data with another one.",
        ),
        Panel("Drift plus penalty", "short", (Query("testbed_drift_plus_penalty{S}", "last decision"),)),
        Panel(
            "Energy per slot against the budget",
            "joule",
            (
                Query("testbed:energy_joules_per_slot:rate30s{S}", "{{ue}} used"),
                Query("testbed_energy_budget_joules_per_slot{S}", "{{ue}} budget"),
            ),
        ),
        Panel(
            "Energy by kind",
            "watt",
            (Query("sum by (ue, kind) (rate(testbed_energy_joules_total{S}[10s]))", "{{ue}} {{kind}}"),),
            stacked=True,
        ),
        Panel(
            "V trade-off: delay against energy",
            "short",
            (
                Query("testbed:e2e_delay_seconds:p50_30s{S}", "median delay [s]"),
                Query("avg by (run) (testbed:energy_joules_per_slot:rate30s{S})", "mean energy per slot [J]"),
                Query('testbed_policy_state{{S},name="V"}', "V"),
            ),
            "A larger V weighs delay more. Compare runs by choosing several.",
        ),
        Panel(
            "Decision time",
            "s",
            (
                Query(quantile_query(0.5, "testbed_decision_duration_seconds"), "p50"),
                Query(quantile_query(0.99, "testbed_decision_duration_seconds"), "p99"),
            ),
        ),
        Panel(
            "Slots",
            "ops",
            (
                Query("rate(testbed_slots_total{S}[10s])", "slots"),
                Query("rate(testbed_slot_overruns_total{S}[10s])", "decided too late"),
            ),
        ),
        Panel("Decided speed", "short", (Query("testbed_speed_requested_cores{S}", "{{ue}}"),), "Reference cores."),
        Panel("Decided edge share", "short", (Query("testbed_edge_share_cores{S}", "{{ue}}"),), stacked=True),
        Panel("Decided spectrum", "hertz", (Query("testbed_spectrum_hertz{S}", "{{ue}} {{direction}}"),)),
        Panel("Age of reports", "s", (Query("testbed_report_age_seconds{S}", "{{ue}}"),)),
        Panel("Other numbers of the policy", "short", (Query("testbed_policy_state{S}", "{{name}} {{ue}}"),)),
        Panel("Slot length", "s", (Query("testbed_slot_seconds{S}", "slot"),), width=6, kind="stat"),
        Panel("Policy", "short", (Query("testbed_build_info{S}", "{{policy}} {{version}}"),), width=6, kind="stat"),
    ),
)

FIDELITY = Dashboard(
    uid="testbed-fidelity",
    title="Fidelity",
    panels=(
        Panel(
            "Lateness of trace steps",
            "s",
            (
                Query(quantile_query(0.5, "testbed_link_step_lateness_seconds"), "p50"),
                Query(quantile_query(0.99, "testbed_link_step_lateness_seconds"), "p99"),
            ),
            "Applied, after the kernel's acknowledgement, minus planned.",
        ),
        Panel(
            "Trace steps",
            "ops",
            (
                Query("sum(rate(testbed_link_steps_total{S}[10s]))", "applied"),
                Query("sum(rate(testbed_link_steps_late_total{S}[10s]))", "late by more than 10 ms"),
            ),
        ),
        Panel(
            "Stage time over target",
            "percentunit",
            (
                Query(quantile_query(0.5, "testbed_stage_time_ratio", "stage"), "{{stage}} p50"),
                Query(quantile_query(0.9, "testbed_stage_time_ratio", "stage"), "{{stage}} p90"),
            ),
        ),
        Panel(
            "Stage overruns",
            "percentunit",
            (
                Query("testbed:stage_overrun_ratio:rate30s{S}", "all stages"),
                Query("sum by (ue, stage) (rate(testbed_stage_overruns_total{S}[30s]))", "{{ue}} {{stage}} per second"),
            ),
        ),
        Panel(
            "Speed requested and achieved",
            "short",
            (
                Query("testbed_speed_requested_cores{S}", "{{ue}} requested"),
                Query("testbed_speed_achieved_cores{S}", "{{ue}} achieved"),
            ),
        ),
        Panel(
            "CPU of nodes", "short", (Query("rate(testbed_node_cpu_seconds_total{S}[5s])", "{{node}}"),), "Host cores."
        ),
        Panel(
            "Throttling",
            "percentunit",
            (
                Query("rate(testbed_node_throttled_seconds_total{S}[5s])", "{{node}} time"),
                Query("rate(testbed_node_throttled_periods_total{S}[5s]) / 100", "{{node}} periods"),
            ),
            "Of wall time; a period is 10 ms. FIFO threads are not throttled by a quota.",
        ),
        Panel(
            "Host CPU",
            "short",
            (
                Query("sum by (mode) (rate(testbed_host_cpu_seconds_total{S}[5s]))", "{{mode}}"),
                Query("testbed_host_running_tasks{S}", "running tasks"),
            ),
        ),
        Panel(
            "Link rate, commanded and achieved",
            "bps",
            (
                Query("8 * testbed_link_rate_commanded_bytes_per_second{S}", "{{ue}} {{direction}} commanded"),
                Query("8 * testbed:link_sent_bytes:rate5s{S}", "{{ue}} {{direction}} achieved"),
            ),
        ),
        Panel(
            "Drops and backlog in the shapers",
            "short",
            (
                Query("increase(testbed_link_dropped_packets_total{S}[10s])", "{{ue}} {{direction}} packets dropped"),
                Query("testbed_link_backlog_bytes{S}", "{{ue}} {{direction}} bytes waiting"),
            ),
        ),
        Panel(
            "Round trip of the idle wires",
            "s",
            (
                Query("testbed_link_round_trip_seconds{S}", "{{ue}} measured"),
                Query("testbed_link_round_trip_configured_seconds{S}", "{{ue}} configured"),
            ),
            "Echoes before the first task.",
        ),
        Panel(
            "Losses that were ordered",
            "percentunit",
            (
                Query(
                    "delta(testbed_link_lost_packets{S}[30s]) / (delta(testbed_link_lost_packets{S}[30s])"
                    " + increase(testbed_link_sent_packets_total{S}[30s]) > 0)",
                    "{{ue}} {{direction}}",
                ),
            ),
            "Of the packets of 30 s. fidelity.json has the whole run's, with its interval.",
        ),
        Panel(
            "Who uses the host",
            "short",
            (
                Query("testbed_host_lab_cores{S}", "the lab"),
                Query("testbed_host_foreign_cores{S}", "other processes"),
                Query("testbed_host_foreign_top_cores{S}", "the greatest of them"),
            ),
            "Cores. An invalid run's reasons name the process.",
        ),
        Panel(
            "Pauses of the host's CPUs",
            "s",
            (Query("testbed_host_longest_pause_seconds{S}", "longest of the second"),),
            "A virtual machine that others share. What is late by a few ms was late by these.",
        ),
        Panel("Channel state", "short", (Query("testbed_link_gain{S}", "{{ue}} {{direction}}"),)),
        Panel(
            "The edge's receiver",
            "s",
            (
                Query("testbed_edge_receiver_lateness_seconds{S}", "p99 lateness"),
                Query("testbed_edge_malformed_frames_total{S}", "malformed frames"),
            ),
        ),
        Panel(
            "Events",
            "ops",
            (
                Query("sum by (kind) (increase(testbed_events_total{S}[30s]))", "{{kind}}"),
                Query("testbed_exporter_unreadable_records_total{S}", "unreadable records"),
            ),
        ),
    ),
)

DASHBOARDS = {"lab.json": LAB, "controller.json": CONTROLLER, "fidelity.json": FIDELITY}


def write(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, dashboard in DASHBOARDS.items():
        (directory / name).write_text(json.dumps(to_json(dashboard), indent=2) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

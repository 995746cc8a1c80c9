"""Every metric that a lab exports, and how records become metrics.

Base units, ``_total`` on counters, no task ids as labels; lab, run and policy are labels of the target.
Counters of known UEs start at 0, so that a rate over the first second of a run is right. Figures for papers come from
the run's Parquet files: a quantile out of these histograms is only as fine as its bucket.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import testbed
from controller.contract import STAGES, Scenario
from testbed.protocol.records import (
    ChannelDrops,
    EdgeHealth,
    Event,
    HostHealth,
    LinkStep,
    ModelUpdate,
    NodeHealth,
    Record,
    RoundTrips,
    SlotRecord,
    TaskArrived,
    TaskRecord,
    UploadRecord,
)
from testbed.runtime.host.host_load import TICKS_PER_SECOND, cpu_ticks, running_tasks

#: 1 ms to 30 s, three per decade and a little denser around where delays of shipped labs are.
DELAY_BUCKETS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0),
    *(1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0),
)
SHORT_BUCKETS = (*(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),)
RATIO_BUCKETS = (0.97, 0.99, 0.997, 1.0, 1.001, 1.003, 1.01, 1.03, 1.1, 1.3, 2.0, 5.0)
#: A trace step applied later than this missed its time (the design's limit without real-time priority).
LATE_STEP_SECONDS = 0.01

DIRECTIONS = ("up", "down")
QUEUES = ("device", "tx", "edge", "in_flight")

#: Cuts of a UE that have a series of their own, and the label of all others.
LABELLED_CUTS = 50
OTHER_CUTS = "other"


class Metrics:
    """The metrics of one lab, fed with its records."""

    def __init__(self, scenario: Scenario, policy: str) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._node_totals: dict[str, NodeHealth] = {}
        self._edge = EdgeHealth(0.0, 0.0, 0)  # the last one
        self._last_slot = -1
        self._cut_in_use: dict[str, str] = {}
        self._cuts: dict[str, set[str]] = {}  # of each UE, that have a series
        self._define()
        self.registry.register(HostCollector())
        self.build.info({"version": testbed.__version__, "python": platform.python_version(), "policy": policy})
        self.slot_seconds.set(scenario.slot_seconds)
        for ue in scenario.ues:
            self._initialise(str(ue.name))
            if math.isfinite(ue.energy_budget_joules):
                self.energy_budget.labels(ue.name).set(ue.energy_budget_joules)
        for stage in STAGES:
            self.stage_duration.labels(stage)
        for stage in ("head", "tail"):
            self.stage_target.labels(stage)
        for work in ("upload", "tail", "download"):
            self.device.labels(work)
        for work in ("upload", "download"):
            self.device_bytes.labels(work)

    def _define(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"testbed_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"testbed_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"testbed_{name}", text, labels, buckets=buckets, registry=self.registry)

        self.build = Info("testbed_build", "Versions, and the policy at start.", registry=self.registry)
        self.slot_seconds = gauge("slot_seconds", "Length of a slot.")
        # tasks
        self.arrived = counter("tasks_arrived", "Tasks that arrived.", "ue")
        self.completed = counter("tasks_completed", "Tasks whose answer came back.", "ue")
        self.failed = counter("tasks_failed", "Tasks that failed.", "ue")
        self.delay = histogram("e2e_delay_seconds", "Arrival to answer, completed tasks.", DELAY_BUCKETS, "ue")
        self.stage_duration = histogram(
            "stage_duration_seconds", "Time in one stage of the way.", DELAY_BUCKETS, "stage"
        )
        self.by_cut = counter("tasks_by_cut", "Completed tasks by the cut that they took.", "ue", "cut")
        self.boundary_bytes = counter("boundary_bytes", "Encoded tensors that crossed the wire.", "ue")
        self.wire_bytes = counter("wire_bytes", "Layer-2 bytes that tasks sent up.", "ue")
        self.queue = gauge("queue_tasks", "Tasks in a queue at slot start.", "ue", "queue")
        self.tx_backlog = gauge("tx_backlog_bytes", "Bytes handed to the radio and not yet received.", "ue")
        # decisions
        self.cut = gauge("cut_in_use", "1 for the cut that is decided, 0 for those that were.", "ue", "cut")
        self.speed_requested = gauge("speed_requested_cores", "Decided device speed, reference cores.", "ue")
        self.speed_achieved = gauge("speed_achieved_cores", "Speed that the last head ran at, reference cores.", "ue")
        self.edge_share = gauge("edge_share_cores", "Decided edge share, reference cores.", "ue")
        self.spectrum = gauge("spectrum_hertz", "Decided spectrum.", "ue", "direction")
        self.slots = counter("slots", "Slots that ended.")
        self.slot_overruns = counter("slot_overruns", "Slots whose decision missed its deadline.")
        self.decision = histogram("decision_duration_seconds", "Time that the policy took.", SHORT_BUCKETS)
        self.report_age = gauge("report_age_seconds", "Age of a UE's last report at slot start.", "ue")
        self.virtual_queue = gauge("virtual_queue_joules", "Virtual energy queue of a Lyapunov policy.", "ue")
        self.drift = gauge("drift_plus_penalty", "Drift plus penalty of the last decision, as the policy states it.")
        self.policy_state = gauge("policy_state", "Other numbers of the policy's state.", "name", "ue")
        # energy
        self.energy = counter("energy_joules", "Energy charged.", "ue", "kind")
        self.energy_budget = gauge("energy_budget_joules_per_slot", "Long-term budget; absent without one.", "ue")
        # models that move
        self.model_version = gauge("model_version", "Model version that the device computes with.", "ue")
        self.placed_nodes = gauge(
            "model_placed_nodes", "Graph nodes downloaded of that version; 0: the first model.", "ue"
        )
        self.model_bytes = counter("model_download_bytes", "Layer-2 bytes of placed layers that came down.", "ue")
        self.model_downloads = counter("model_downloads", "Downloads of placed layers that ended.", "ue", "status")
        # models that UEs upload
        self.upload_bytes = counter(
            "upload_bytes", "Layer-2 bytes of transfers to an edge without models.", "ue", "kind"
        )
        self.uploads = counter("uploads", "Transfers of parameters and of values that ended.", "ue", "status")
        self.preemptions = counter("upload_preemptions", "Values that went before parameters being sent.", "ue")
        self.resumed = counter("uploads_resumed", "Transfers taken up again after a broken connection.", "ue")
        self.upload_progress = gauge(
            "upload_progress_ratio", "Of the parameters that the task's edge lacked: what is there.", "ue"
        )
        self.cached_nodes = gauge("edge_cached_nodes", "Nodes of a UE's model whose parameters the edge holds.", "ue")
        self.cache_bytes = gauge("edge_cache_bytes", "Parameters that the edge holds, of all UEs.")
        self.cache_limit = gauge("edge_cache_limit_bytes", "How many it may hold; 0: it has its models from the start.")
        self.cache_evictions = counter("edge_cache_evictions", "Parameters of a node that were evicted.")
        self.cache_refusals = counter("edge_cache_refusals", "Parameters of a node for which there was no room.")
        # links
        self.rate = gauge(
            "link_rate_commanded_bytes_per_second", "Layer-2 rate in force on the wire.", "ue", "direction"
        )
        self.sent = counter("link_sent_bytes", "Layer-2 bytes that the shaped wire let through.", "ue", "direction")
        self.dropped = counter("link_dropped_packets", "Drops that nobody ordered.", "ue", "direction")
        self.backlog = gauge("link_backlog_bytes", "Bytes that wait in the wire's shaper.", "ue", "direction")
        self.gain = gauge(
            "link_gain", "Channel state of the last step: power gain, or bit/s for a rate trace.", "ue", "direction"
        )
        self.sent_packets = counter("link_sent_packets", "Packets that the wire let through.", "ue", "direction")
        # a gauge: what a filter holds at the moment counts as lost until it comes
        self.lost = gauge("link_lost_packets", "Packets lost by order of the link's loss.", "ue", "direction")
        self.round_trip = gauge("link_round_trip_seconds", "Idle, before the first task: median.", "ue")
        self.round_trip_configured = gauge("link_round_trip_configured_seconds", "Delay there and back.", "ue")
        self.steps = counter("link_steps", "Rate changes applied.", "ue", "direction")
        self.late_steps = counter("link_steps_late", "Steps applied more than 10 ms late.", "ue", "direction")
        self.lateness = histogram("link_step_lateness_seconds", "Applied minus planned time of a step.", SHORT_BUCKETS)
        # CPUs
        self.overruns = counter("stage_overruns", "Stages that ended after their target.", "ue", "stage")
        self.stage_target = histogram("stage_time_ratio", "Stage time over its target.", RATIO_BUCKETS, "stage")
        self.cpu = counter("node_cpu_seconds", "CPU time of a node.", "node")
        self.throttled = counter("node_throttled_seconds", "Time that a node's cap held it back.", "node")
        self.throttled_periods = counter("node_throttled_periods", "Periods in which a node's cap was used up.", "node")
        self.receiver_lateness = gauge("edge_receiver_lateness_seconds", "p99 lateness of the edge's receiver.")
        self.malformed = counter("edge_malformed_frames", "Frames that the edge dropped.")
        self.device = counter("edge_device_seconds", "Time of the edge's GPU; 0 where its CPU computes.", "work")
        self.device_bytes = counter("edge_device_bytes", "Bytes copied to and from the edge's GPU.", "work")
        # the host, as the recorder sees it
        self.lab_cores = gauge("host_lab_cores", "Cores that the lab's processes use.")
        self.foreign_cores = gauge("host_foreign_cores", "Cores that processes use which are not the lab's.")
        self.foreign_top = gauge("host_foreign_top_cores", "... and the one of them that takes most.")
        self.longest_pause = gauge("host_longest_pause_seconds", "A CPU stood still so long at once, in a second.")
        # the lab itself
        self.events = counter("events", "Events by kind.", "kind")
        self.unreadable = counter("exporter_unreadable_records", "Records that the exporter could not read.")

    def _initialise(self, ue: str) -> None:
        for metric in (self.arrived, self.completed, self.failed, self.boundary_bytes, self.wire_bytes):
            metric.labels(ue)
        self.delay.labels(ue)
        for direction in DIRECTIONS:
            for metric in (self.sent, self.dropped, self.sent_packets, self.steps, self.late_steps):
                metric.labels(ue, direction)
        for stage in ("head", "tail"):
            self.overruns.labels(ue, stage)
        self.model_version.labels(ue).set(0)
        self.placed_nodes.labels(ue).set(0)
        self.model_bytes.labels(ue)
        for status in ("placed", "discarded"):
            self.model_downloads.labels(ue, status)
        for kind in ("parameters", "feature"):
            self.upload_bytes.labels(ue, kind)
        for status in ("received", "held", "shared", "corrupt", "lost", "refused", "given-up"):
            self.uploads.labels(ue, status)
        self.preemptions.labels(ue)
        self.resumed.labels(ue)
        self.upload_progress.labels(ue).set(0)
        self.cached_nodes.labels(ue).set(0)
        for kind in ("compute", "transmit", "receive"):
            self.energy.labels(ue, kind)

    def take(self, record: Record) -> None:
        """Book one record."""
        match record:
            case TaskArrived():
                self.arrived.labels(record.ue).inc()
            case TaskRecord():
                self._task(record)
            case SlotRecord():
                self._slot(record)
            case LinkStep():
                self._step(record)
            case ModelUpdate():
                self._update(record)
            case UploadRecord():
                self._upload(record)
            case ChannelDrops():
                self.sent.labels(record.ue, record.direction).inc(record.sent_bytes)
                self.dropped.labels(record.ue, record.direction).inc(record.dropped_packets)
                self.backlog.labels(record.ue, record.direction).set(record.backlog_bytes)
                self.sent_packets.labels(record.ue, record.direction).inc(record.sent_packets)
                self.lost.labels(record.ue, record.direction).inc(record.lost_packets)
            case RoundTrips():
                self.round_trip.labels(record.ue).set(record.median_seconds)
                self.round_trip_configured.labels(record.ue).set(record.configured_seconds)
            case HostHealth():
                self.lab_cores.set(record.lab_cores)
                self.foreign_cores.set(record.foreign_cores)
                self.foreign_top.set(record.foreign_top_cores)
                self.longest_pause.set(record.longest_pause_seconds)
            case NodeHealth():
                self._node(record)
            case EdgeHealth():
                self._edge_health(record)
            case Event():
                self.events.labels(record.kind).inc()

    def _task(self, task: TaskRecord) -> None:
        if task.status != "completed":
            self.failed.labels(task.ue).inc()
            return
        self.completed.labels(task.ue).inc()
        self.delay.labels(task.ue).observe(task.result_received_seconds - task.arrival_seconds)
        self.by_cut.labels(task.ue, self._cut_label(task.ue, task.cut)).inc()
        self.boundary_bytes.labels(task.ue).inc(task.boundary_bytes)
        self.wire_bytes.labels(task.ue).inc(task.wire_bytes)
        for stage, seconds in stage_seconds(task).items():
            self.stage_duration.labels(stage).observe(seconds)
        if task.head_target_seconds > 0:
            ratio = (task.head_end_seconds - task.head_start_seconds) / task.head_target_seconds
            self.stage_target.labels("head").observe(ratio)
            self.speed_achieved.labels(task.ue).set(task.speed / ratio if ratio > 0 else math.nan)
        if task.tail_target_seconds > 0:
            ratio = (task.tail_end_seconds - task.tail_start_seconds) / task.tail_target_seconds
            self.stage_target.labels("tail").observe(ratio)

    def _cut_label(self, ue: str, cut: str) -> str:
        """A DAG has more cuts than a time series database takes labels: from the fiftieth on they share one."""
        known = self._cuts.setdefault(ue, set())
        if cut not in known:
            if len(known) >= LABELLED_CUTS:
                return OTHER_CUTS
            known.add(cut)
        return cut

    def _slot(self, slot: SlotRecord) -> None:
        ue = slot.ue
        queued = (slot.device_queue_tasks, slot.tx_queue_tasks, slot.edge_queue_tasks, slot.in_flight_tasks)
        for queue, tasks in zip(QUEUES, queued, strict=True):
            self.queue.labels(ue, queue).set(tasks)
        self.tx_backlog.labels(ue).set(slot.tx_backlog_bytes)
        last_cut, cut = self._cut_in_use.get(ue), self._cut_label(ue, slot.cut)
        if last_cut is not None and last_cut != cut:
            self.cut.labels(ue, last_cut).set(0)
        self._cut_in_use[ue] = cut
        self.cut.labels(ue, cut).set(1)
        self.speed_requested.labels(ue).set(slot.speed)
        self.edge_share.labels(ue).set(slot.edge_share)
        self.spectrum.labels(ue, "up").set(slot.spectrum_up_hz)
        self.spectrum.labels(ue, "down").set(slot.spectrum_down_hz)
        self.report_age.labels(ue).set(slot.report_age_seconds)
        self.upload_progress.labels(ue).set(slot.upload_progress_ratio)
        self.cached_nodes.labels(ue).set(slot.cached_nodes)
        self.energy.labels(ue, "compute").inc(max(0.0, slot.compute_joules))
        self.energy.labels(ue, "transmit").inc(max(0.0, slot.transmit_joules))
        self.overruns.labels(ue, "head").inc(slot.head_overruns)
        self.overruns.labels(ue, "tail").inc(slot.tail_overruns)
        if slot.slot > self._last_slot:  # a row per UE repeats what belongs to the slot
            self._last_slot = slot.slot
            self.slots.inc()
            self.slot_overruns.inc(int(slot.decide_late))
            self.decision.observe(slot.decide_seconds)
            self._state(slot.policy_state)

    def _state(self, state: dict[str, float]) -> None:
        for key, value in state.items():
            name, _, ue = key.partition(".")
            if name == "virtual_queue_joules":
                self.virtual_queue.labels(ue).set(value)
            elif name == "drift_plus_penalty":
                self.drift.set(value)
            else:
                self.policy_state.labels(name, ue).set(value)

    def _update(self, update: ModelUpdate) -> None:
        self.model_downloads.labels(update.ue, update.status).inc()
        self.model_bytes.labels(update.ue).inc(update.wire_bytes)
        self.energy.labels(update.ue, "receive").inc(update.receive_joules)
        if update.status == "placed":
            self.model_version.labels(update.ue).set(update.version)
            self.placed_nodes.labels(update.ue).set(update.placed_nodes)

    def _upload(self, upload: UploadRecord) -> None:
        self.uploads.labels(upload.ue, upload.status).inc()
        self.upload_bytes.labels(upload.ue, upload.kind).inc(upload.wire_bytes)
        self.preemptions.labels(upload.ue).inc(upload.kind == "feature" and upload.model_bytes_ahead > 0)
        self.resumed.labels(upload.ue).inc(upload.resumed)

    def _step(self, step: LinkStep) -> None:
        if step.cause == "ahead":
            return  # the same rate, put to the shaper in another way
        self.steps.labels(step.ue, step.direction).inc()
        self.rate.labels(step.ue, step.direction).set(step.applied_bits_per_second / 8)
        self.gain.labels(step.ue, step.direction).set(step.gain)
        if step.cause == "trace":  # a decision is applied when it comes: it has no planned time to miss
            lateness = step.applied_seconds - step.planned_seconds
            self.lateness.observe(lateness)
            if lateness > LATE_STEP_SECONDS:
                self.late_steps.labels(step.ue, step.direction).inc()

    def _node(self, health: NodeHealth) -> None:
        last = self._node_totals.get(health.node)
        self._node_totals[health.node] = health
        for metric, now, before in (
            (self.cpu, health.cpu_seconds, last.cpu_seconds if last else 0.0),
            (self.throttled, health.throttled_seconds, last.throttled_seconds if last else 0.0),
            (self.throttled_periods, health.throttled_periods, last.throttled_periods if last else 0),
        ):
            # A node that was started again counts from 0.
            metric.labels(health.node).inc(now - before if now >= before else now)

    def _edge_health(self, health: EdgeHealth) -> None:
        self.receiver_lateness.set(health.receiver_lateness_p99_seconds)
        self.cache_bytes.set(health.cache_bytes)
        self.cache_limit.set(health.cache_limit_bytes)
        last, self._edge = self._edge, health
        for metric, now, before in (
            (self.malformed, health.malformed_frames, last.malformed_frames),
            (self.cache_evictions, health.cache_evictions, last.cache_evictions),
            (self.cache_refusals, health.cache_refusals, last.cache_refusals),
            (self.device.labels("tail"), health.device_tail_seconds, last.device_tail_seconds),
            (self.device.labels("upload"), health.device_upload_seconds, last.device_upload_seconds),
            (self.device.labels("download"), health.device_download_seconds, last.device_download_seconds),
            (self.device_bytes.labels("upload"), health.device_uploaded_bytes, last.device_uploaded_bytes),
            (self.device_bytes.labels("download"), health.device_downloaded_bytes, last.device_downloaded_bytes),
        ):
            # An edge that was started again counts from 0.
            metric.inc(now - before if now >= before else now)


class HostCollector(Collector):
    """Busy, idle and stolen CPU time of the whole host, read when Prometheus asks."""

    def collect(self) -> Iterator[Metric]:
        ticks = cpu_ticks()
        times = CounterMetricFamily("testbed_host_cpu_seconds", "CPU time of the host.", labels=["mode"])
        for mode, spent in (("busy", ticks.busy), ("idle", ticks.idle), ("steal", ticks.steal)):
            times.add_metric([mode], spent / TICKS_PER_SECOND)
        yield times
        yield GaugeMetricFamily("testbed_host_running_tasks", "Threads that run or want to.", value=running_tasks())


def stage_seconds(task: TaskRecord) -> dict[str, float]:
    """Durations of a completed task's stages, keys STAGES; they sum to its end-to-end delay."""
    stamps = (
        *(task.arrival_seconds, task.head_start_seconds, task.head_end_seconds, task.transfer_start_seconds),
        *(task.received_seconds, task.tail_start_seconds, task.tail_end_seconds, task.result_received_seconds),
    )
    return {stage: max(0.0, end - start) for stage, start, end in zip(STAGES, stamps[:-1], stamps[1:], strict=True)}

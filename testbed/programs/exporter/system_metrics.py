"""What wires, CPUs, the host and the lab's programs show."""

from __future__ import annotations

from controller.contract import Scenario
from testbed.programs.exporter.metric import Memory, Metric, Samples, many, one
from testbed.programs.exporter.task_metrics import SHORT_BUCKETS, UE, head_ratio, is_completed
from testbed.protocol.records import (
    ChannelDrops,
    EdgeHealth,
    Event,
    HostHealth,
    LinkStep,
    NodeHealth,
    RoundTrips,
    SlotRecord,
    TaskRecord,
)

RATIO_BUCKETS = (0.97, 0.99, 0.997, 1.0, 1.001, 1.003, 1.01, 1.03, 1.1, 1.3, 2.0, 5.0)
#: A trace step applied later than this missed its time (the design's limit without real-time priority).
LATE_STEP_SECONDS = 0.01


def _is_step(step: LinkStep) -> bool:
    return step.cause != "ahead"  # the same rate, put to the shaper in another way


def _lateness(step: LinkStep) -> float | None:
    """Of a trace's step: a decision is applied when it comes, and has no planned time to miss."""
    return step.applied_seconds - step.planned_seconds if step.cause == "trace" else None


def _late_step(step: LinkStep) -> float | None:
    lateness = _lateness(step)
    return 1 if lateness is not None and lateness > LATE_STEP_SECONDS else None


def _stage_ratios(task: TaskRecord, _: Memory) -> Samples:
    head = head_ratio(task)
    if head is not None:
        yield ("head",), head
    if is_completed(task) and task.tail_target_seconds > 0:
        yield ("tail",), (task.tail_end_seconds - task.tail_start_seconds) / task.tail_target_seconds


def _stage_overruns(slot: SlotRecord, _: Memory) -> Samples:
    yield (slot.ue, "head"), slot.head_overruns
    yield (slot.ue, "tail"), slot.tail_overruns


def _device_seconds(edge: EdgeHealth, _: Memory) -> Samples:
    yield ("tail",), edge.device_tail_seconds
    yield ("upload",), edge.device_upload_seconds
    yield ("download",), edge.device_download_seconds


def _device_bytes(edge: EdgeHealth, _: Memory) -> Samples:
    yield ("upload",), edge.device_uploaded_bytes
    yield ("download",), edge.device_downloaded_bytes


BUILD = Metric("build", "info", "Versions, and the policy at start.", ("version", "python", "policy"))
UNREADABLE = Metric("exporter_unreadable_records", "counter", "Records that the exporter could not read.")
HOST_CPU = Metric("host_cpu_seconds", "counter", "CPU time of the host.", ("mode",))
HOST_RUNNING = Metric("host_running_tasks", "gauge", "Threads that run or want to.")

START_METRICS = (
    BUILD,
    Metric("slot_seconds", "gauge", "Length of a slot.", of=(one(Scenario, lambda scenario: scenario.slot_seconds),)),
)
WIRE = ("ue", "direction")
BOTH_WAYS = {"direction": ("up", "down")}
LINK_METRICS = (
    Metric(
        "link_rate_commanded_bytes_per_second",
        "gauge",
        "Layer-2 rate in force on the wire.",
        WIRE,
        (one(LinkStep, lambda step: step.applied_bits_per_second / 8 if _is_step(step) else None),),
    ),
    Metric(
        "link_sent_bytes",
        "counter",
        "Layer-2 bytes that the shaped wire let through.",
        WIRE,
        (one(ChannelDrops, lambda drops: drops.sent_bytes),),
        BOTH_WAYS,
    ),
    Metric(
        "link_dropped_packets",
        "counter",
        "Drops that nobody ordered.",
        WIRE,
        (one(ChannelDrops, lambda drops: drops.dropped_packets),),
        BOTH_WAYS,
    ),
    Metric(
        "link_backlog_bytes",
        "gauge",
        "Bytes that wait in the wire's shaper.",
        WIRE,
        (one(ChannelDrops, lambda drops: drops.backlog_bytes),),
    ),
    Metric(
        "link_gain",
        "gauge",
        "Channel state of the last step: power gain, or bit/s for a rate trace.",
        WIRE,
        (one(LinkStep, lambda step: step.gain if _is_step(step) else None),),
    ),
    Metric(
        "link_sent_packets",
        "counter",
        "Packets that the wire let through.",
        WIRE,
        (one(ChannelDrops, lambda drops: drops.sent_packets),),
        BOTH_WAYS,
    ),
    Metric(
        "link_lost_packets",
        "gauge",  # what a filter holds at the moment counts as lost until it comes
        "Packets lost by order of the link's loss.",
        WIRE,
        (one(ChannelDrops, lambda drops: drops.lost_packets),),
        adds_up=True,
    ),
    Metric(
        "link_round_trip_seconds",
        "gauge",
        "Idle, before the first task: median.",
        UE,
        (one(RoundTrips, lambda trips: trips.median_seconds),),
    ),
    Metric(
        "link_round_trip_configured_seconds",
        "gauge",
        "Delay there and back.",
        UE,
        (one(RoundTrips, lambda trips: trips.configured_seconds),),
    ),
    Metric(
        "link_steps",
        "counter",
        "Rate changes applied.",
        WIRE,
        (one(LinkStep, lambda step: 1 if _is_step(step) else None),),
        BOTH_WAYS,
    ),
    Metric(
        "link_steps_late",
        "counter",
        "Steps applied more than 10 ms late.",
        WIRE,
        (one(LinkStep, _late_step),),
        BOTH_WAYS,
    ),
    Metric(
        "link_step_lateness_seconds",
        "histogram",
        "Applied minus planned time of a step.",
        of=(one(LinkStep, _lateness),),
        buckets=SHORT_BUCKETS,
    ),
)
CPU_METRICS = (
    Metric(
        "stage_overruns",
        "counter",
        "Stages that ended after their target.",
        ("ue", "stage"),
        (many(SlotRecord, _stage_overruns),),
        {"stage": ("head", "tail")},
    ),
    Metric(
        "stage_time_ratio",
        "histogram",
        "Stage time over its target.",
        ("stage",),
        (many(TaskRecord, _stage_ratios),),
        {"stage": ("head", "tail")},
        buckets=RATIO_BUCKETS,
    ),
    Metric(
        "node_cpu_seconds",
        "counter",
        "CPU time of a node.",
        ("node",),
        (one(NodeHealth, lambda node: node.cpu_seconds),),
        running_total=True,
    ),
    Metric(
        "node_throttled_seconds",
        "counter",
        "Time that a node's cap held it back.",
        ("node",),
        (one(NodeHealth, lambda node: node.throttled_seconds),),
        running_total=True,
    ),
    Metric(
        "node_throttled_periods",
        "counter",
        "Periods in which a node's cap was used up.",
        ("node",),
        (one(NodeHealth, lambda node: node.throttled_periods),),
        running_total=True,
    ),
    Metric(
        "edge_receiver_lateness_seconds",
        "gauge",
        "p99 lateness of the edge's receiver.",
        of=(one(EdgeHealth, lambda edge: edge.receiver_lateness_p99_seconds),),
    ),
    Metric(
        "edge_malformed_frames",
        "counter",
        "Frames that the edge dropped.",
        of=(one(EdgeHealth, lambda edge: edge.malformed_frames),),
        running_total=True,
    ),
    Metric(
        "edge_device_seconds",
        "counter",
        "Time of the edge's GPU; 0 where its CPU computes.",
        ("work",),
        (many(EdgeHealth, _device_seconds),),
        {"work": ("upload", "tail", "download")},
        running_total=True,
        more="Work: `upload`, `tail`, `download`.",
    ),
    Metric(
        "edge_device_bytes",
        "counter",
        "Bytes copied to and from the edge's GPU.",
        ("work",),
        (many(EdgeHealth, _device_bytes),),
        {"work": ("upload", "download")},
        running_total=True,
    ),
)
HOST_METRICS = (  # as the recorder sees the host
    Metric(
        "host_lab_cores",
        "gauge",
        "Cores that the lab's processes use.",
        of=(one(HostHealth, lambda host: host.lab_cores),),
    ),
    Metric(
        "host_foreign_cores",
        "gauge",
        "Cores that processes use which are not the lab's.",
        of=(one(HostHealth, lambda host: host.foreign_cores),),
    ),
    Metric(
        "host_foreign_top_cores",
        "gauge",
        "... and the one of them that takes most.",
        of=(one(HostHealth, lambda host: host.foreign_top_cores),),
        more="Of the processes that are not the lab's.",
    ),
    Metric(
        "host_longest_pause_seconds",
        "gauge",
        "A CPU stood still so long at once, in a second.",
        of=(one(HostHealth, lambda host: host.longest_pause_seconds),),
    ),
    Metric("events", "counter", "Events by kind.", ("kind",), (one(Event, lambda _: 1),)),
    UNREADABLE,
)

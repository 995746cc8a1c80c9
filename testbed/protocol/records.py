"""What the programs of a lab record: one msgpack frame per record, pushed to the recorder.

A kind is declared here and nowhere else: streams, tables, who may record it and docs/runs.md follow.

The recorder republishes every record for the live table and the metrics exporter. Times are CLOCK_MONOTONIC seconds of
the host, which all nodes share.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any

import msgspec

from controller.decoding import decode_frame
from testbed.protocol.record import DECLARED, Kind, Record, Speaker, recorded


@recorded("arrivals", by=["ue"], table=False)
class TaskArrived(Record, frozen=True):
    """A task exists from its scheduled arrival on; sent when the UE first sees it."""

    ue: str
    task: int
    arrival_seconds: float


#: Reason of a dropped task.
DROPPED = "the device was busy"


@recorded(
    "tasks",
    by=["ue"],
    values={"status": ["completed", "failed", "dropped"]},
)
class TaskRecord(Record, frozen=True):
    """One finished (or failed) task. Stamps are monotonic seconds; nan where the task never got there.

    For a local task (cut ``()``) all stamps after ``head_end_seconds`` equal it.
    """

    ue: str
    task: int
    status: str  # "completed" | "failed" | "dropped": it found the device busy, which never took it
    reason: str
    cut: str  # cut_label
    codec: str
    decision_sequence: int
    speed: float
    share: float
    arrival_seconds: float
    head_start_seconds: float
    head_end_seconds: float
    transfer_start_seconds: float
    received_seconds: float
    tail_start_seconds: float
    tail_end_seconds: float
    result_received_seconds: float
    head_target_seconds: float  # requested stage time; 0: no head
    tail_target_seconds: float
    head_compute_seconds: float  # real computation inside the stage
    tail_compute_seconds: float
    boundary_bytes: int  # encoded tensors
    wire_bytes: int  # layer 2, headers and framing included
    result_wire_bytes: int
    compute_joules: float
    transmit_joules: float
    answer: int  # argmax of the logits: the task's answer really came back
    model_version: int = 0
    answer_checksum: int = 0  # CRC-32 of the logits' bytes
    input: int = -1  # index of what it was about, among the UE's inputs; -1: not said


@recorded("updates", by=["ue"], later=True, values={"status": ["placed", "discarded"]})
class ModelUpdate(Record, frozen=True):
    """A download of placed layers: whole and swapped in, or thrown away."""

    ue: str
    version: int
    cut: str  # label: the layers up to here
    status: str  # "placed" | "discarded"
    reason: str
    placed_nodes: int
    payload_bytes: int
    wire_bytes: int  # layer 2
    resumed: int  # times that it went on after a pause of the connection
    started_seconds: float
    received_seconds: float
    swapped_seconds: float  # by the device, between two tasks; nan if never
    receive_joules: float


@recorded(
    "segments",
    by=["ue"],
    order=["ue", "task", "start_seconds"],
    later=True,
    values={"site": ["device", "edge"]},
)
class SegmentRecord(Record, frozen=True):
    """Nodes of a task that one side ran without waiting, in a lab whose edge starts without models."""

    ue: str
    task: int
    number: int  # on its side
    site: str  # "device" | "edge"
    first: str  # nodes
    last: str
    ready_seconds: float  # everything that the first node needs was there; nan: it waited for nothing but its turn
    start_seconds: float
    end_seconds: float
    target_seconds: float
    compute_seconds: float  # real
    share: float  # reference cores: the edge's share, or the device's speed
    overrun: bool  # a value was handed over 1 ms after its time, or later, in a segment of 5 ms or more


@recorded(
    "uploads",
    by=["ue"],
    order=["ue", "task", "queued_seconds"],
    later=True,
    values={
        "status": ["held", "corrupt", "refused", "shared", "lost", "given-up", "received"],
        "kind": ["parameters", "feature"],
    },
)
class UploadRecord(Record, frozen=True):
    """Parameters or a value of a node on their way to the edge. Times are nan where it never got there."""

    ue: str
    task: int
    name: str  # of the node
    kind: str  # "parameters" | "feature"
    status: str  # "held", "corrupt", "refused", "shared" (another UE's were there first), "given-up"; "received"
    reason: str
    bytes: int
    wire_bytes: int  # layer 2, what was sent twice included
    version: int  # of the model
    checksum_ok: bool  # of parameters, by the edge; True where none was compared
    resumed: int  # times that it went on after a broken connection
    queued_seconds: float
    first_sent_seconds: float
    wire_start_seconds: float  # when the link had carried what was sent before
    received_seconds: float
    model_bytes_ahead: int  # layer 2, of parameters under way when a feature was queued
    model_chunk_bytes: int  # that may be under way at a time


@recorded("slots", by=["controller"], order=["slot", "ue"])
class SlotRecord(Record, frozen=True):
    """One row per UE and slot: what was observed, decided, and what came of it."""

    slot: int
    ue: str
    start_seconds: float
    decision_sequence: int
    cut: str
    speed: float
    spectrum_up_hz: float
    spectrum_down_hz: float
    edge_share: float
    gain_up: float
    rate_up_bits_per_second: float  # applied, mean over the slot
    arrivals: int
    completions: int
    failures: int
    mean_delay_seconds: float
    device_queue_tasks: int
    tx_queue_tasks: int
    edge_queue_tasks: int
    in_flight_tasks: int
    tx_backlog_bytes: int
    compute_joules: float
    transmit_joules: float
    head_overruns: int
    tail_overruns: int
    report_age_seconds: float
    decide_seconds: float
    decide_late: bool
    policy_state: dict[str, float] = msgspec.field(default_factory=dict)
    cached_nodes: int = 0  # of the UE's model, whose parameters the edge holds
    upload_progress_ratio: float = 0.0


@recorded("links", by=["player"], order=["applied_seconds"])
class LinkStep(Record, frozen=True):
    """One trace step (or decision) on one direction of one link: planned and applied time and value."""

    ue: str
    direction: str  # "up" | "down"
    planned_seconds: float
    applied_seconds: float  # after the kernel's acknowledgement
    planned_bits_per_second: float  # from the formula, before the outage floor
    applied_bits_per_second: float  # what the wire carries: planned, in an outage what is let through nevertheless
    gain: float
    #: "trace" | "decision" | "command" | "impairment" (a step of a delay or loss trace) | "ahead" (nothing but what HTB
    #: is told changes, shortly before a step)
    cause: str
    delay_seconds: float = 0.0  # in force
    loss_ratio: float = 0.0
    #: what HTB was told, so that a frame that is under way at the next step takes its time (wires/frames.py)
    shaper_bits_per_second: float = 0.0


@recorded("drops", by=["player"])
class ChannelDrops(Record, frozen=True):
    """Packets that a wire's leaf dropped though nobody ordered it, and bytes that it sent, since the last one."""

    ue: str
    direction: str
    monotonic_seconds: float
    sent_bytes: int
    dropped_packets: int
    backlog_bytes: int
    sent_packets: int = 0
    #: by order of the link's loss; its leaf counts these and what it has no room for as one
    lost_packets: int = 0


@recorded("health", rows="node")
class NodeHealth(Record, frozen=True):
    """CPU accounting of one node, cumulative."""

    node: str
    monotonic_seconds: float
    cpu_seconds: float
    throttled_periods: int
    throttled_seconds: float


@recorded("health", by=["edge"], rows="edge")
class EdgeHealth(Record, frozen=True):
    """The receiver over the last slot; what tails took of a GPU, cumulative (zeros where the CPU computes)."""

    monotonic_seconds: float
    receiver_lateness_p99_seconds: float
    malformed_frames: int
    device_tails: int = 0
    device_tail_seconds: float = 0.0  # the device's own time, copies not included
    device_upload_seconds: float = 0.0
    device_download_seconds: float = 0.0
    device_uploaded_bytes: int = 0
    device_downloaded_bytes: int = 0
    cache_bytes: int = 0  # of parameters that UEs sent, now
    cache_limit_bytes: int = 0  # 0: this edge has its models from the start
    cache_evictions: int = 0  # cumulative, as what follows
    cache_refusals: int = 0
    #: cumulative, of an edge that has its models: not started since their UEs did not wait any more; not taken at all
    dropped_tasks: int = 0
    refused_tasks: int = 0


@recorded("health", rows="host")
class HostHealth(Record, frozen=True):
    """How the host did over the ``elapsed_seconds`` before ``monotonic_seconds``."""

    monotonic_seconds: float
    busy_ratio: float  # of all cores
    steal_ratio: float  # time that the hypervisor gave to others
    running_tasks: int  # run queue of the whole host, running ones included
    malformed_records: int  # frames that the recorder could not decode, cumulative
    elapsed_seconds: float = 1.0
    lab_cores: float = 0.0  # CPU time of the lab's processes, in cores
    foreign_cores: float = 0.0  # ... of processes that are not the lab's
    foreign_top: str = ""  # the one of them that took most: name, pid and, if it has one, real-time priority
    foreign_top_cores: float = 0.0
    #: time in which a CPU stood still (testbed.runtime.host.pauses), and the longest such time; nan where nobody may
    #: watch
    paused_seconds: float = math.nan
    longest_pause_seconds: float = math.nan


@recorded("round_trips")
class RoundTrips(Record, frozen=True):
    """Echoes through one wire before the first task; times are nan where none came back."""

    ue: str
    monotonic_seconds: float
    sent: int
    answered: int
    median_seconds: float
    mean_seconds: float
    configured_seconds: float  # delay of the wire, there and back
    jitter_seconds: float  # of a round trip


@recorded("events", by=["ue", "edge", "player", "controller", "service"], order=["monotonic_seconds"])
class Event(Record, frozen=True):
    """Something worth a line in the log: a node died, a report was lost, a decision came late."""

    monotonic_seconds: float
    node: str
    kind: str
    text: str


#: Every kind of record, in the order of their declarations.
KINDS: Mapping[type[Record], Kind] = DECLARED


def decoder(by: Speaker = "operator") -> msgspec.msgpack.Decoder[Record]:
    """Of what somebody may record."""
    kinds: list[Any] = [record for record, kind in KINDS.items() if by in (*kind.by, "operator")]
    return msgspec.msgpack.Decoder(reduce(operator.or_, kinds))


def kinds_of(stream: str) -> tuple[Kind, ...]:
    """The kinds of record that a stream holds."""
    return tuple(kind for kind in KINDS.values() if kind.stream == stream)


def stream_names() -> tuple[str, ...]:
    """All streams of a run directory."""
    return tuple(dict.fromkeys(kind.stream for kind in KINDS.values()))


def table_names() -> tuple[str, ...]:
    """All tables of a run directory."""
    return tuple(name for name in stream_names() if kinds_of(name)[0].table)


_record_decoder = decoder()


def decode_record(frame: bytes) -> Record:
    """Raises msgspec.DecodeError for anything malformed."""
    return decode_frame(_record_decoder, frame)

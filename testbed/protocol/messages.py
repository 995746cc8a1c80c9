"""What the processes of a lab say to each other, and what they record.

Control plane (``ipc://LAB_DIR/ipc/NODE/control``): every agent and the player connect a DEALER to a socket of their
own, at which the controller hears that node alone; the command line connects one to ``ipc/.operator/control``, which no
node can reach. One msgpack frame per message (:func:`encode`).

Records (``ipc://LAB_DIR/ipc/NODE/records``): everybody PUSHes one msgpack frame per record to a socket of its own, at
which the recorder hears it. The recorder republishes every record on ``ipc/.operator/live`` (PUB), for the live table
and the metrics exporter.

What each role may say, and of whom, is in :mod:`testbed.protocol.roles`.

Times are CLOCK_MONOTONIC seconds of the host; all nodes share that clock, so one-way times are exact.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from controller.contract import Decision, Scenario, UeDecision, UeObservation
from controller.decoding import decode_frame
from testbed.runtime.base import OPERATOR


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of all messages: frozen, strict, tagged with the class name."""


# ---------------------------------------------------------------------------------------------- agent -> controller


class Hello(Message, frozen=True):
    """First message of a node: it is ready to serve. Sent again until a Welcome answers."""

    node: str
    role: str  # "ue" | "edge" | "player"
    pid: int  # as the node sees it: always 1 in a container
    stage_tid: int = 0  # thread that computes stages, to be made SCHED_FIFO from outside
    extra_tids: tuple[int, ...] = ()  # threads that end stages on time and do I/O: the same, or one above it
    device: str = ""  # what computes its stages: "cpu", or "cuda: NAME"
    device_reason: str = ""  # why it is the CPU
    began_seconds: float = 0.0  # when it first said so: tells a node that was started again from the one before
    weights: dict[str, str] = {}  # by UE: checksum of its model's first weights, as this node made them


class UeReport(Message, frozen=True):
    """Sent by a UE at every slot boundary, about slot ``slot`` that just ended (-1 before the first)."""

    node: str
    slot: int
    monotonic_seconds: float
    nominal_arrival_rate_per_second: float  # for the slot that starts now
    arrivals: int
    completions: int
    failures: int
    device_queue_tasks: int
    tx_queue_tasks: int
    in_flight_tasks: int
    tx_backlog_bytes: int
    decision_sequence: int
    delay_sum_seconds: float
    stage_sum_seconds: dict[str, float]
    compute_joules: float
    transmit_joules: float
    heads: int
    head_overruns: int
    acked_bytes: int
    extra: dict[str, float] = {}


class EdgeUeReport(Message, frozen=True):
    node: str  # the UE
    edge_queue_tasks: int
    edge_backlog_seconds: float
    tails: int
    tail_overruns: int
    decision_sequence: int
    cached_nodes: tuple[str, ...] = ()  # whose parameters it holds, where it starts without models


class EdgeReport(Message, frozen=True):
    slot: int
    monotonic_seconds: float
    ues: tuple[EdgeUeReport, ...]
    receiver_lateness_p99_seconds: float = 0.0
    malformed_frames: int = 0


class LinkState(Message, frozen=True):
    node: str  # the UE
    gain_up: tuple[float, ...]  # at slot start (see UeObservation.gain_up)
    gain_down: tuple[float, ...]
    mean_gain_up: tuple[float, ...]  # over the slot that ended
    mean_gain_down: tuple[float, ...]
    rate_up_bits_per_second: float  # applied at slot start
    rate_down_bits_per_second: float
    mean_rate_up_bits_per_second: float  # applied, mean over the slot that ended
    outage: bool = False


class PlayerReport(Message, frozen=True):
    slot: int
    monotonic_seconds: float
    links: tuple[LinkState, ...]
    steps: int = 0
    skipped_steps: int = 0
    lateness_p99_seconds: float = 0.0


class Response(Message, frozen=True):
    """A UE's answer to a Question."""

    node: str
    delegation: int
    number: int
    decision: UeDecision | None  # None: it cannot; ``error`` says why
    error: str = ""


# ---------------------------------------------------------------------------------------------- controller -> agents


class Welcome(Message, frozen=True):
    """The controller has seen this node's Hello."""

    lab: str
    run_id: str


class Start(Message, frozen=True):
    """Slot 0 starts at ``origin_seconds`` for everybody; arrivals stop after ``duration_seconds`` (None: serve on)."""

    origin_seconds: float
    slot_seconds: float
    duration_seconds: float | None


class Apply(Message, frozen=True):
    """A decision to put into force. A stale one (sequence not above the last) is dropped."""

    decision: Decision
    rates_up_bits_per_second: dict[str, float] = {}  # by UE, at the gains of slot start; sizes the chunks
    rates_down_bits_per_second: dict[str, float] = {}


class Delegation(Message, frozen=True):
    """A UE's part of a policy whose UEs decide for themselves. The scenario holds this UE alone."""

    number: int  # of the policy; questions refer to it
    policy: str
    options: dict[str, Any]
    scenario: Scenario


class Question(Message, frozen=True):
    """What the edge publishes to one UE, and what was observed of that UE: it answers with a Response."""

    delegation: int
    number: int
    signal: dict[str, float]
    state: UeObservation


class Drain(Message, frozen=True):
    """Arrivals are over: finish what is in flight; the end comes with Stop."""


class Stop(Message, frozen=True):
    """End now; send what is still unrecorded first."""

    reason: str


# --------------------------------------------------------------------------------------------------- CLI -> controller


class StatusRequest(Message, frozen=True):
    pass


class TaskTotals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tasks of a UE since the start, by what it reported."""

    arrived: int = 0
    ended: int = 0  # completed or failed


class Status(Message, frozen=True):
    lab: str
    run_id: str
    policy: str
    expected: tuple[str, ...]
    ready: tuple[str, ...]
    hellos: tuple[Hello, ...]  # of the ready nodes: pids and stage threads
    state: str  # "waiting" | "ready" | "running" | "draining" | "stopped"
    slot: int
    in_flight_tasks: int
    error: str = ""
    totals: dict[str, TaskTotals] = {}  # by UE


class Begin(Message, frozen=True):
    """Start slot 0 once everybody is ready."""

    duration_seconds: float | None
    drain_seconds: float = 10.0


class SetPolicy(Message, frozen=True):
    name: str
    options: dict[str, Any] = {}


class SetLink(Message, frozen=True):
    """Fix parts of a link (merge); ``reset`` returns it to the lab's values."""

    node: str
    rate_up_bits_per_second: float | None = None
    rate_down_bits_per_second: float | None = None
    delay_seconds: float | None = None
    jitter_seconds: float | None = None
    loss_ratio: float | None = None
    reset: bool = False


class StopLab(Message, frozen=True):
    reason: str = "down"


class Reply(Message, frozen=True):
    """Answer to a CLI command."""

    ok: bool
    text: str = ""


# ---------------------------------------------------------------------------------------------------------- records


class TaskArrived(Message, frozen=True):
    """A task exists from its scheduled arrival on; sent when the UE first sees it."""

    ue: str
    task: int
    arrival_seconds: float


class TaskRecord(Message, frozen=True):
    """One finished (or failed) task. Stamps are monotonic seconds; nan where the task never got there.

    For a local task (cut ``()``) all stamps after ``head_end_seconds`` equal it.
    """

    ue: str
    task: int
    status: str  # "completed" | "failed"
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


class ModelUpdate(Message, frozen=True):
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


class SegmentRecord(Message, frozen=True):
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


class UploadRecord(Message, frozen=True):
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


class SlotRecord(Message, frozen=True):
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
    policy_state: dict[str, float] = {}
    cached_nodes: int = 0  # of the UE's model, whose parameters the edge holds
    upload_progress_ratio: float = 0.0


class LinkStep(Message, frozen=True):
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


class ChannelDrops(Message, frozen=True):
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


class NodeHealth(Message, frozen=True):
    """CPU accounting of one node, cumulative."""

    node: str
    monotonic_seconds: float
    cpu_seconds: float
    throttled_periods: int
    throttled_seconds: float


class EdgeHealth(Message, frozen=True):
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


class HostHealth(Message, frozen=True):
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


class RoundTrips(Message, frozen=True):
    """Echoes through one wire before the first task; times are nan where none came back."""

    ue: str
    monotonic_seconds: float
    sent: int
    answered: int
    median_seconds: float
    mean_seconds: float
    configured_seconds: float  # delay of the wire, there and back
    jitter_seconds: float  # of a round trip


class Event(Message, frozen=True):
    """Something worth a line in the log: a node died, a report was lost, a decision came late."""

    monotonic_seconds: float
    node: str
    kind: str
    text: str


Control = (
    Hello
    | UeReport
    | EdgeReport
    | PlayerReport
    | Welcome
    | Start
    | Apply
    | Delegation
    | Question
    | Response
    | Drain
    | Stop
    | StatusRequest
    | Status
    | Begin
    | SetPolicy
    | SetLink
    | StopLab
    | Reply
)
Record = (
    TaskArrived
    | TaskRecord
    | ModelUpdate
    | SegmentRecord
    | UploadRecord
    | SlotRecord
    | LinkStep
    | ChannelDrops
    | NodeHealth
    | EdgeHealth
    | HostHealth
    | RoundTrips
    | Event
)

_encoder = msgspec.msgpack.Encoder()
_control_decoder: msgspec.msgpack.Decoder[Control] = msgspec.msgpack.Decoder(Control)
_record_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def encode(message: Message) -> bytes:
    """One msgpack frame."""
    return _encoder.encode(message)


def decode_control(frame: bytes) -> Control:
    """Raises msgspec.DecodeError (a ValidationError is one) for anything malformed."""
    message: Control = decode_frame(_control_decoder, frame)
    return message


def decode_record(frame: bytes) -> Record:
    """Raises msgspec.DecodeError for anything malformed."""
    record: Record = decode_frame(_record_decoder, frame)
    return record


def socket_path(lab_directory: str | Path, node: str, name: str) -> Path:
    """A socket of a node. Its folder is all that a container sees of the lab's sockets."""
    return Path(lab_directory) / "ipc" / node / name


def control_endpoint(lab_directory: str | Path, node: str) -> str:
    return f"ipc://{socket_path(lab_directory, node, 'control')}"


def records_endpoint(lab_directory: str | Path, node: str) -> str:
    return f"ipc://{socket_path(lab_directory, node, 'records')}"


def make_folder(endpoint: str) -> None:
    """The folder of a socket that is to be bound."""
    Path(endpoint.removeprefix("ipc://")).parent.mkdir(parents=True, exist_ok=True)


def live_endpoint(lab_directory: str | Path) -> str:
    return f"ipc://{socket_path(lab_directory, OPERATOR, 'live')}"

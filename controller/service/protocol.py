"""What the controller and those whom it steers say to each other: UEs, the edge, the trace player, an operator.

One msgpack frame per message (:func:`encode`): a map of the fields and of ``type``, the name of the message. Who may
say what is told to whoever listens (:mod:`controller.service.node_listener`).

Times are CLOCK_MONOTONIC seconds of the host; all nodes share that clock, so one-way times are exact.
"""

from __future__ import annotations

from typing import Any

import msgspec

from controller.contract import Decision, Scenario, UeDecision, UeObservation
from controller.decoding import decode_frame


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of all messages: frozen, strict, tagged with the class name."""


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


_encoder = msgspec.msgpack.Encoder()


_control_decoder: msgspec.msgpack.Decoder[Control] = msgspec.msgpack.Decoder(Control)


def encode(message: Message) -> bytes:
    """One msgpack frame."""
    return _encoder.encode(message)


def decode_control(frame: bytes) -> Control:
    """Raises msgspec.DecodeError (a ValidationError is one) for anything malformed."""
    message: Control = decode_frame(_control_decoder, frame)
    return message

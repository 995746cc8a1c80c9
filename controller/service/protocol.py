"""What the controller and those whom it steers say to each other: UEs, the edge, the trace player, an operator.

docs/protocol.md is written from this file: every message with who says it (the unions at the end), and every field.
What is taken from whom, and how much of it, is in :mod:`controller.service.admission`.

Moments (``_seconds``) are CLOCK_MONOTONIC of the host, which all nodes share: one-way times are exact.
"""

from __future__ import annotations

from typing import Any

import msgspec

from controller.contract import Decision, Scenario, Struct, UeDecision, UeObservation
from controller.decoding import decode_frame

#: Names of the two nodes that are no UE.
EDGE = "edge"
PLAYER = "player"


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base of all messages: frozen, strict, tagged with the class name."""


# ---------------------------------------------------------------------------------------------- nodes -> controller


class Hello(Message, frozen=True):
    """First message of a node: it is ready to serve. Sent every 0.2 s until a Welcome answers."""

    node: str  # its own name, one that the controller expects
    role: str  # "ue" | "edge" | "player", as its name says
    pid: int  # as the node sees it: always 1 in a container
    stage_tid: int = 0  # thread that computes stages, to be made SCHED_FIFO from outside; 0: there is none
    extra_tids: tuple[int, ...] = ()  # threads that end stages on time and do I/O: the same, or one above it
    device: str = ""  # what computes its stages: "cpu", or "cuda: NAME"; empty: it does not say
    device_reason: str = ""  # why it is the CPU
    began_seconds: float = 0.0  # when it first said so: tells a node that was started again from the one before
    #: By UE: checksum of its model's first weights, as this node made them. Nodes that differ do not get a run; a UE
    #: speaks of its own model only.
    weights: dict[str, str] = {}


class RetrainingReport(Struct, frozen=True):
    """Part of UeReport: a model that moves."""

    model_version: int = 0  # that the device computes with
    placed_nodes: int = 0  # of the model, that the device holds of that version
    downloaded_bytes: int = 0  # since the start


class StoppingReport(Struct, frozen=True):
    """Part of UeReport: heads that stop where the channel says so."""

    blind_looks: int = 0  # since the start: not answered in time, so that the task went on to its next point


class UploadingReport(Struct, frozen=True):
    """Part of UeReport: an edge that starts without models."""

    upload_progress_ratio: float = 0.0  # now: of the parameters that the edge lacked for the task, what has come there
    uploaded_bytes: int = 0  # this and all that follow: since the start
    preemptions: int = 0  # values that went before parameters that were being sent
    resumed_uploads: int = 0  # after a broken connection
    refused_layers: int = 0  # by the edge: the UE computes their nodes
    corrupt_layers: int = 0  # that came with another checksum, and went again


class UeParts(Struct, frozen=True):
    """Part of UeReport: what each mechanism of the lab has to say; zeros of one that the lab has not."""

    retraining: RetrainingReport = RetrainingReport()  # a model that moves
    stopping: StoppingReport = StoppingReport()  # heads that stop where the channel says so
    uploading: UploadingReport = UploadingReport()  # an edge that starts without models


class UeReport(Message, frozen=True):
    """Sent by a UE at every slot boundary, about the slot that just ended. Counts and sums are of that slot."""

    node: str  # the UE itself
    slot: int  # that ended; -1 at the start of slot 0. A slot is reported once: what comes again is dropped
    monotonic_seconds: float  # when this was put together
    nominal_arrival_rate_per_second: float  # of tasks, for the slot that starts now
    arrivals: int  # tasks
    completions: int  # tasks whose answer has come back
    failures: int  # tasks given up
    device_queue_tasks: int  # now: arrived, head not started
    tx_queue_tasks: int  # now: head ended, not received by the edge
    in_flight_tasks: int  # now: arrived, neither completed nor failed; a run has drained when all UEs say 0
    tx_backlog_bytes: int  # now: to be sent, not yet received by the edge
    decision_sequence: int  # of the decision in force now; -1: none yet
    delay_sum_seconds: float  # end to end, over the tasks completed
    stage_sum_seconds: dict[str, float]  # the same by stage (STAGES of the contract); the stages sum to the delay
    compute_joules: float  # of the heads that ended
    transmit_joules: float  # of the transfers that ended
    head_overruns: int  # heads that ended after their target
    acked_bytes: int  # that the edge acknowledged
    stale_decisions: int = 0  # since the start: dropped, their sequence was not above the last
    late_results: int = 0  # since the start: of tasks that had been given up
    disconnects: int = 0  # since the start: from the edge
    uplink_rate_bits_per_second: float = 0.0  # now: that chunks are sized by
    parts: UeParts = UeParts()  # of what only some labs have


class EdgeUeReport(Message, frozen=True):
    """Part of EdgeReport: one UE's queue at the edge."""

    node: str  # the UE
    edge_queue_tasks: int  # now: received, tail not started
    edge_backlog_seconds: float  # now: of tails, at the present share
    tails: int  # that ended since the last report
    tail_overruns: int  # of them, ended after their target
    decision_sequence: int  # of the decision in force now; -1: none yet
    cached_nodes: tuple[str, ...] = ()  # of its model, whose parameters the edge holds, where it starts without models


class EdgeReport(Message, frozen=True):
    """Sent by the edge at every slot boundary."""

    slot: int  # that ended; -1 at the start of slot 0
    monotonic_seconds: float  # when this was put together
    ues: tuple[EdgeUeReport, ...]  # one for each UE
    receiver_lateness_p99_seconds: float = 0.0  # how late its receiver woke up in the slot: 99th percentile
    malformed_frames: int = 0  # since the start: what came on the wires and could not be read


class LinkState(Message, frozen=True):
    """Part of PlayerReport: one UE's link. Gains are power gains, or bit/s at the whole spectrum for a rate channel."""

    node: str  # the UE
    gain_up: tuple[float, ...]  # at slot start: one value, or one for each subchannel
    gain_down: tuple[float, ...]  # the same for the downlink
    mean_gain_up: tuple[float, ...]  # over the slot that ended
    mean_gain_down: tuple[float, ...]  # the same for the downlink
    rate_up_bits_per_second: float  # applied at slot start; never 0: an outage is told by its flag
    rate_down_bits_per_second: float  # the same for the downlink
    mean_rate_up_bits_per_second: float  # applied, mean over the slot that ended
    outage: bool = False  # at slot start, in either direction


class PlayerReport(Message, frozen=True):
    """Sent by the trace player at every slot boundary."""

    slot: int  # that ended; -1 at the start of slot 0
    monotonic_seconds: float  # when this was put together
    links: tuple[LinkState, ...]  # one for each UE
    steps: int = 0  # of traces, applied since the start
    skipped_steps: int = 0  # since the start: too late to be applied before the next
    lateness_p99_seconds: float = 0.0  # of the last thousand steps: 99th percentile


class Response(Message, frozen=True):
    """A UE's answer to a Question: the same for the same number, however often it is asked."""

    node: str  # the UE itself
    delegation: int  # of the Question
    number: int  # of the Question
    decision: UeDecision | None  # its own; None: it cannot, and `error` says why
    error: str = ""  # in words


# ---------------------------------------------------------------------------------------------- controller -> nodes


class Welcome(Message, frozen=True):
    """The controller has seen this node's Hello."""

    lab: str  # name of the lab
    run_id: str  # name of the run


class Start(Message, frozen=True):
    """The run has a clock. Also sent, with the Apply in force, to a node that says hello during a run."""

    origin_seconds: float  # slot 0 starts then, for everybody; slot n starts n slots later
    slot_seconds: float  # length of a slot
    duration_seconds: float | None  # from the origin on: arrivals stop then; None: serve on


class Apply(Message, frozen=True):
    """A decision, in force from its `valid_from_seconds` on; one whose sequence is not above the last is dropped."""

    decision: Decision  # of all UEs; each takes its own part by its name
    #: By UE, at the gains of slot start: what its link is expected to carry; sizes the chunks
    rates_up_bits_per_second: dict[str, float] = {}
    rates_down_bits_per_second: dict[str, float] = {}  # the same for the downlink


class Delegation(Message, frozen=True):
    """A UE's part of a policy whose UEs decide for themselves."""

    number: int  # of the policy; questions refer to it
    policy: str  # by its name in the registry, or MODULE:CLASS
    options: dict[str, Any]  # of the policy, as in the lab file
    scenario: Scenario  # with this UE alone


class Question(Message, frozen=True):
    """What the edge publishes to one UE, and what was observed of that UE: it answers with a Response."""

    delegation: int  # number of the policy that asks
    number: int  # of the question: one that is asked again keeps it
    signal: dict[str, float]  # as the policy names it, such as a price
    state: UeObservation  # of this UE


class Drain(Message, frozen=True):
    """Arrivals are over: finish what is in flight, and report on; the end comes with Stop."""


class Stop(Message, frozen=True):
    """End now; send what is still unrecorded first."""

    reason: str  # in words


# ---------------------------------------------------------------------------------------------- operator, controller


class StatusRequest(Message, frozen=True):
    """Answered by a Status."""


class TaskTotals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Part of Status: tasks of a UE since the start, by what it reported."""

    arrived: int = 0  # tasks
    ended: int = 0  # tasks completed or failed


class Status(Message, frozen=True):
    """What the controller knows, in answer to a StatusRequest."""

    lab: str  # name of the lab
    run_id: str  # name of the run
    policy: str  # that decides
    expected: tuple[str, ...]  # nodes that must say Hello
    ready: tuple[str, ...]  # nodes that have said it
    hellos: tuple[Hello, ...]  # of the ready nodes: pids and stage threads
    state: str  # "waiting" | "ready" | "running" | "draining" | "stopped"
    slot: int  # the last one that began; -1: none has
    in_flight_tasks: int  # of all UEs, as last reported
    error: str = ""  # why the lab cannot be begun, in words
    totals: dict[str, TaskTotals] = {}  # by UE


class Begin(Message, frozen=True):
    """Start slot 0 once everybody is ready. Answered by a Reply."""

    duration_seconds: float | None  # of arrivals, from slot 0 on; None: serve until StopLab
    drain_seconds: float = 10.0  # how long to wait, at most, for tasks in flight after that


class SetPolicy(Message, frozen=True):
    """Let another policy decide. The Reply comes when its reset is over."""

    name: str  # in the registry, or MODULE:CLASS
    options: dict[str, Any] = {}  # of the policy, as in the lab file


class SetLink(Message, frozen=True):
    """Fix parts of a link; what is None stays as it is. Passed on to the player, whose Reply comes back."""

    node: str  # the UE whose link it is
    rate_up_bits_per_second: float | None = None  # of the wire, towards the edge
    rate_down_bits_per_second: float | None = None  # of the wire, towards the UE
    delay_seconds: float | None = None  # in each direction
    jitter_seconds: float | None = None  # of the delay
    loss_ratio: float | None = None  # of packets, 0 to 1
    reset: bool = False  # first return to the lab's values


class StopLab(Message, frozen=True):
    """End the lab: every node gets a Stop. Answered by a Reply."""

    reason: str = "down"  # in words


class Reply(Message, frozen=True):
    """Answer to a command: of the controller to the operator, of the player to a SetLink."""

    ok: bool  # it was, or will be, done
    text: str = ""  # what was done, or why not, in words


# --------------------------------------------------------------------------------------------------- who says what

UeSays = Hello | UeReport | Response
EdgeSays = Hello | EdgeReport
PlayerSays = Hello | PlayerReport | Reply
Command = StatusRequest | Begin | SetPolicy | SetLink | StopLab

UeHears = Welcome | Start | Apply | Delegation | Question | Drain | Stop
EdgeHears = Welcome | Start | Apply | Drain | Stop
PlayerHears = Welcome | Start | Apply | SetLink | Drain | Stop
OperatorHears = Status | Reply

Control = UeSays | EdgeSays | PlayerSays | Command | UeHears | EdgeHears | PlayerHears | OperatorHears

_encoder = msgspec.msgpack.Encoder()
_control_decoder: msgspec.msgpack.Decoder[Control] = msgspec.msgpack.Decoder(Control)


def encode(message: Message) -> bytes:
    """One msgpack frame."""
    return _encoder.encode(message)


def decode_control(frame: bytes) -> Control:
    """Raises msgspec.DecodeError (a ValidationError is one) for anything malformed."""
    message: Control = decode_frame(_control_decoder, frame)
    return message

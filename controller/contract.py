"""Everything that crosses a boundary between measurement, policy, simulator and testbed.

All structs are frozen. Units are SI and in the name of the field. Nothing in here does I/O.

Five systems fit in these types: LyMDO, DDS, model placement with online splitting, NOMA with
Li-GD and MJOA-MU. Fields that only some of them use have defaults.
"""

from __future__ import annotations

from typing import Any, Literal, NewType, Protocol, runtime_checkable

import msgspec

from controller.frames import FRAMING_RATIO

CONTRACT_VERSION = 1

UeName = NewType("UeName", str)
Codec = Literal["fp32", "fp16", "uint8"]

#: The names of the graph values that cross the wire. The device runs their ancestors (themselves included).
#: ``("input",)`` runs everything on the edge, ``()`` runs everything on the device.
Cut = tuple[str, ...]

ALL_ON_EDGE: Cut = ("input",)
ALL_ON_DEVICE: Cut = ()


def cut_label(cut: Cut) -> str:
    """A cut as one word for tables, metrics and files: ``local``, ``input``, ``layer4_1_relu``, ``a+b``."""
    return "+".join(cut) if cut else "local"


def cut_from_label(label: str) -> Cut:
    """Inverse of :func:`cut_label`."""
    return () if label == "local" else tuple(label.split("+"))


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all contract types: frozen, strict."""


# --------------------------------------------------------------------------------------------------- model profile


#: Bytes of an element of the types that a lossy codec makes smaller; all others cross as they are.
LOSSY_TYPES = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2}
_CODE_BYTES: dict[str, int] = {"fp16": 2, "uint8": 1}


class GraphNode(Struct, frozen=True, omit_defaults=True):
    """One value of the traced graph and the operation that makes it."""

    name: str
    inputs: tuple[str, ...]  # names of the graph values that it reads; () only for "input"
    output_shape: tuple[int, ...]
    output_bytes: int  # as it is in memory
    macs: int
    parameter_bytes: int
    dtype: str = "f32"  # of the value: a name of testbed.inference.codec; not said of "input", which is a uint8 image

    def encoded_bytes(self, codec: Codec) -> int:
        """Bytes of the value on the wire, without headers. The raw input always crosses as it is."""
        element, code = LOSSY_TYPES.get(self.dtype, 0), _CODE_BYTES.get(codec, 8)
        if self.name == "input" or code >= element:
            return self.output_bytes
        return self.output_bytes // element * code


class CodecTimes(Struct, frozen=True):
    """Encode and decode times on the reference core, aligned with ``ModelProfile.chain_cuts``."""

    encode_seconds: tuple[float, ...]
    decode_seconds: tuple[float, ...]


class ReferenceCore(Struct, frozen=True):
    """What "speed 1.0" means: a stated fraction of the core that was measured (docs/architecture.md, "A slow UE")."""

    fraction: float  # of the measured host's core; times in the profile are host times / fraction
    host_cpu: str
    torch_version: str
    threads: int = 1
    kernel_seconds: float | None = None  # of the calibration kernel on the measured host's core; None: not measured
    kernel_version: int = 0  # of that kernel; times of two versions cannot be compared


class MeasuredCut(Struct, frozen=True):
    """A cut of several tensors that was timed by itself, and what the sum over its nodes had said. Without codecs."""

    cut: Cut
    head_seconds: float  # on the reference core
    tail_seconds: float
    estimated_head_seconds: float
    estimated_tail_seconds: float


class ModelProfile(Struct, frozen=True):
    """Measured times of a model: the contract between measurement and every policy (JSON file)."""

    version: int
    model: str
    nodes: tuple[GraphNode, ...]  # topological order; nodes[0].name == "input", nodes[-1] makes the answer
    chain_cuts: tuple[Cut, ...]  # single-tensor cuts from ("input",) to (), in order of growing device set
    head_seconds: tuple[float, ...]  # device time of the head of each chain cut, on the reference core
    tail_seconds: tuple[float, ...]  # edge time of the tail of each chain cut, on the reference core
    node_seconds: tuple[float, ...]  # aligned with nodes; prefix sums scaled to equal the head times
    codecs: dict[Codec, CodecTimes]
    result_bytes: int
    reference_core: ReferenceCore
    holdout_error_ratio: float  # MAPE of the prediction on cuts and repetitions that were held out
    p99_over_median_ratio: float = 1.0  # open-loop spread of the whole model's time on the measured host
    #: the device's own, where the device is not the reference core; (): it is, and ``node_seconds`` holds for both
    device_node_seconds: tuple[float, ...] = ()
    measured_cuts: tuple[MeasuredCut, ...] = ()  # of several tensors, where somebody asked for them

    def __post_init__(self) -> None:
        cuts = len(self.chain_cuts)
        if len(self.head_seconds) != cuts or len(self.tail_seconds) != cuts:
            raise ValueError("head_seconds and tail_seconds need one entry per chain cut")
        if len(self.node_seconds) != len(self.nodes):
            raise ValueError("node_seconds needs one entry per node")
        if len(self.device_node_seconds) not in (0, len(self.nodes)):
            raise ValueError("device_node_seconds needs one entry per node, or none")
        if self.chain_cuts[0] != ALL_ON_EDGE or self.chain_cuts[-1] != ALL_ON_DEVICE:
            raise ValueError('chain_cuts must start with ("input",) and end with ()')

    @property
    def known_cuts(self) -> tuple[Cut, ...]:
        """Those that were measured: of a single tensor, and of several where somebody asked."""
        return (*self.chain_cuts, *(found.cut for found in self.measured_cuts))

    def chain_index(self, cut: Cut) -> int:
        """Index of a single-tensor cut in ``chain_cuts``. Raises ValueError for any other cut."""
        return self.chain_cuts.index(cut)

    def boundary_bytes(self, cut: Cut, codec: Codec) -> int:
        """Bytes of the tensors of ``cut`` once encoded, without headers. The raw input is always uint8."""
        nodes = {node.name: node for node in self.nodes}
        return sum(nodes[name].encoded_bytes(codec) for name in cut)


# --------------------------------------------------------------------------------------------------------- scenario


class Radio(Struct, frozen=True):
    """The cell: what a policy may know of it before a run."""

    uplink_hz: float  # that all UEs of an access point share
    downlink_hz: float  # that all UEs of an access point share
    noise_watts_per_hz: float  # spectral density at a receiver
    access: Literal["ofdma", "noma"] = "ofdma"  # noma: UEs are superposed on subchannels
    subchannels: int = 1  # into which both spectra are divided, evenly
    users_per_subchannel: int = 1  # that may be superposed on one
    sic_residual_ratio: float = 0.0  # of the power of a signal that was cancelled
    gain_floor: float = 0.0  # not used
    downlink_power_watts: float = 1.0  # of the base station, spread evenly over the downlink spectrum
    access_points: int = 1  # that reuse the spectrum; each has the downlink power
    leakage_ratio: float = 0.0  # a UE's gain to a foreign access point over the one to its own


class Edge(Struct, frozen=True):
    cpus: float  # reference cores that all UEs share
    memory_bytes: int = 0  # 0: not limited
    price: float = 0.0  # not used
    compute_watts: float = 0.0  # drawn at all cpus; at share f: compute_watts * (f / cpus) ** 3


class Arrivals(Struct, frozen=True):
    """The arrival process as a policy may know it."""

    process: Literal["poisson", "periodic", "switching", "file"]  # of docs/lab-file.md
    rates_per_second: tuple[float, ...]  # one value; two for "switching"; the mean rate for "file"
    switch_probability: float = 0.0  # per slot, "switching" only

    @property
    def mean_rate_per_second(self) -> float:
        return sum(self.rates_per_second) / len(self.rates_per_second)


class Uploading(Struct, frozen=True):
    """The edge starts without any model: UEs send it parameters while they infer (docs/upload.md)."""

    #: "keep": parameters stay until they are evicted. "per_query": the edge forgets a UE's with the end of its task, so
    #: that every task is a cold first query
    cache: Literal["keep", "per_query"]
    memory_bytes: int  # of parameters that the edge holds for all UEs; equal content counts once


class ShadowingLaw(Struct, frozen=True):
    """Log-normal, constant for a slot, an AR(1) from one to the next; see controller.model.channel.Shadowing."""

    sigma_db: float  # standard deviation
    rho: float  # correlation of one slot with the next
    clip_db: float = float("inf")  # largest deviation of either sign


class Knowledge(Struct, frozen=True):
    """How well a policy sees channels and arrivals (docs/policies.md)."""

    gain_error_decibels: float = 0.0  # standard deviation of a log-normal error, drawn per slot, UE and direction
    gain_age_slots: int = 0  # a gain that is seen is that of the start of so many slots before
    #: what is said of a UE's arrival rate. "mean": of its process. "measured": what arrived in the last slots. "state":
    #: that of the slot that begins, which nobody could know where the process switches
    arrival_rate: Literal["mean", "measured", "state"] = "mean"


class UeScenario(Struct, frozen=True):
    name: UeName  # of the UE
    profile: ModelProfile  # of its model
    arrivals: Arrivals  # of its tasks
    max_speed: float  # of a reference core
    compute_watts: float  # drawn at max_speed; at speed s: compute_watts * (s / max_speed) ** 3
    transmit_watts: float  # nominal, while it sends
    receive_watts: float  # while it receives
    energy_budget_joules: float  # per slot, long-term mean; inf: none
    weight: float  # of its delay
    input_codec: Codec  # of the raw input
    boundary_codec: Codec  # of every other tensor that crosses
    #: "gain": the channel state is a linear power gain. "rate": it is bit/s at the radio's whole spectrum.
    channel_kind: Literal["gain", "rate"] = "gain"
    mean_gain: float = 0.0  # long-term mean of the channel state (same unit as the state)
    fading: str = "static"  # law by name, for policies that need it
    #: gain of each subchannel over the channel state; (): every subchannel has the state itself
    subchannel_ratios_up: tuple[float, ...] = ()
    subchannel_ratios_down: tuple[float, ...] = ()  # the same for the downlink
    access_point: int = 0  # that serves it, from 0
    #: "time": the channel changes with time; "per_task_stage": it is drawn anew for each task and chain cut
    channel_refresh: Literal["time", "per_task_stage"] = "time"
    k_factor: float = 0.0  # rician: line of sight over scattered power, linear
    doppler_hz: float = 0.0  # of the fading
    gain_floor_ratio: float = 0.0  # of the mean: the fading power is never under it (per_task_stage only)
    shadowing: ShadowingLaw | None = None  # of the channel, beside its fading; None: none
    channel_step_seconds: float = 0.1  # for which a state of the channel holds
    uplink_delay_seconds: float = 0.0  # of the wire, one way
    downlink_delay_seconds: float = 0.0  # of the wire, one way
    inferences_per_version: float = float("inf")  # mean number between two new versions of its model
    #: A rate under this is an outage of the wire.
    outage_floor_bits_per_second: float = 100e3


class Scenario(Struct, frozen=True):
    """What a policy may know before a run."""

    name: str  # of the lab
    slot_seconds: float  # how long a decision stays
    radio: Radio  # the cell
    edge: Edge  # what computes tails
    ues: tuple[UeScenario, ...]  # in the order of everything that has a UE per entry
    #: layer-2 bytes sent per payload byte (TCP/IP/Ethernet framing)
    framing_ratio: float = FRAMING_RATIO
    header_bytes: int = 160  # sent with each task and each result
    uploading: Uploading | None = None  # None: the edge holds every model from the start
    retraining_interval_seconds: float | None = None  # between versions of the models; None: there is one
    knowledge: Knowledge = Knowledge()  # of what a policy sees


# ------------------------------------------------------------------------------------------------ observation, outcome


class UeObservation(Struct, frozen=True):
    name: UeName  # of the UE
    #: Channel state at slot start: power gain, or bit/s at the whole spectrum for channel_kind "rate". One entry, which
    #: the scenario's ratios spread over the subchannels, or one per subchannel. Never this slot's future.
    gain_up: tuple[float, ...]
    gain_down: tuple[float, ...]  # the same for the downlink
    mean_gain_up: tuple[float, ...]  # mean over the last slot
    mean_gain_down: tuple[float, ...]  # mean over the last slot
    nominal_arrival_rate_per_second: float  # what is known of the rate: see Knowledge
    measured_arrival_rate_per_second: float  # in the last slot
    device_queue_tasks: int = 0  # arrived, head not started
    tx_queue_tasks: int = 0  # head ended, not received by the edge
    edge_queue_tasks: int = 0  # received, tail not started
    in_flight_tasks: int = 0  # arrived, not completed
    tx_backlog_bytes: int = 0  # not yet received by the edge
    edge_backlog_seconds: float = 0.0  # at the present share
    decision_sequence: int = -1  # of the decision in force
    report_age_seconds: float = 0.0  # 0: fresh; grows when a report is late or lost
    last_energy_joules: float = 0.0  # of the last slot, computing and sending
    placed_nodes: int = 0  # that the edge holds of a model that moves (retraining)
    model_version: int = 0  # on the device
    cached_nodes: tuple[str, ...] = ()  # whose parameters the edge holds, of this UE's version and content
    upload_progress_ratio: float = 0.0  # bytes of the present task's uploads that the edge has, of all of them


class Observation(Struct, frozen=True):
    slot: int  # that begins
    monotonic_seconds: float  # when it begins
    ues: tuple[UeObservation, ...]  # in the scenario's order


class UeDecision(Struct, frozen=True):
    name: UeName  # of the UE
    cut: Cut  # tensors that cross the wire; () is all on the device
    device_speed: float  # reference cores
    spectrum_up_hz: float  # of its own, in ``subchannels_up`` if it names some; 0 with subchannels: superposed on them
    spectrum_down_hz: float  # the same for the downlink
    edge_share: float  # reference cores
    transmit_watts: float | None = None  # None: the UE's nominal power
    downlink_watts: float | None = None  # of the base station for this UE; None: its part of the station's power
    codec: Codec | None = None  # None: the lab's boundary codec
    subchannels_up: tuple[int, ...] = ()  # that it sends on; () is all, with a band of its own
    subchannels_down: tuple[int, ...] = ()  # that it receives on
    #: plans that switch sides more than once: ((node, "device" | "edge"), ...); empty: the cut says it
    sites: tuple[tuple[str, Literal["device", "edge"]], ...] = ()
    uploads: tuple[str, ...] = ()  # nodes whose parameters go up, in order
    #: "serial": a node's parameters are sent when its turn has come (its inputs are at the edge), nothing in advance
    upload_order: Literal["pipelined", "serial"] = "pipelined"
    #: online splitting: (cut label, gain threshold) in chain order, all before ``cut``; a task stops at the first whose
    #: threshold the channel state then meets, and at ``cut`` anyway
    stop_rule: tuple[tuple[str, float], ...] = ()
    valuation: float | None = None  # in a best response: what its latency costs the UE, in the unit of the prices


class Decision(Struct, frozen=True):
    """What is in force from ``valid_from_seconds`` on.

    A task takes its cut and speed at head start and its edge share at tail start; the link's rate changes at once.
    """

    sequence: int  # set when it takes force: one more than its predecessor's
    slot: int  # in which it was made
    valid_from_seconds: float  # set when it takes force
    ues: tuple[UeDecision, ...]  # one per UE of the scenario


STAGES = ("ue_queue", "head", "tx_queue", "uplink", "edge_queue", "tail", "downlink")


class UeOutcome(Struct, frozen=True):
    name: UeName  # of the UE
    arrivals: int  # of tasks in the slot
    completions: int  # of tasks in the slot
    failures: int  # tasks given up in the slot
    mean_delay_seconds: float  # of the tasks completed in the slot; nan if none
    stage_seconds: dict[str, float]  # sums over the tasks completed in the slot, keys STAGES
    compute_joules: float  # charged in the slot in which the stage ends
    transmit_joules: float  # charged in the slot in which a transfer ends
    mean_rate_up_bits_per_second: float  # applied, mean over the slot
    overruns: int  # stages that ended after their target; 0 in the simulator

    @property
    def energy_joules(self) -> float:
        return self.compute_joules + self.transmit_joules


class SlotOutcome(Struct, frozen=True):
    slot: int  # that has ended
    decision: Decision  # the one that was live
    ues: tuple[UeOutcome, ...]  # in the scenario's order


# ----------------------------------------------------------------------------------------------------------- policy


@runtime_checkable
class Policy(Protocol):
    """What decides. See docs/policies.md for a 20-line example and ``controller.policies.check.check_policy``.

    A policy is created without arguments beyond its options (keyword arguments with defaults), then ``reset``. It may
    have two methods more, see :func:`watched_state` and :func:`checkpoint_info`.
    """

    def reset(self, scenario: Scenario, seed: int) -> None:
        """Forget everything; draw all randomness from ``seed``."""

    def decide(self, observation: Observation) -> Decision:
        """The decision of this slot. When it misses the deadline the last decision stays in force."""

    def feedback(self, outcome: SlotOutcome) -> None:
        """What the last slot brought (energy, delay): virtual queues are updated here."""


def watched_state(policy: Policy) -> dict[str, float]:
    """Numbers worth watching (virtual queues, drift-plus-penalty ...) by ``state()``, which a policy may have: they go
    to metrics and slots.parquet."""
    return dict(getattr(policy, "state", dict)())


def checkpoint_info(policy: Policy) -> dict[str, Any]:
    """What was loaded (path, hash, trained for ...) by ``checkpoint_info()``, which a policy may have. A list
    ``outside`` in it, a line per value of the lab that training did not cover, becomes a warning."""
    return dict(getattr(policy, "checkpoint_info", dict)())


@runtime_checkable
class LocalPolicy(Protocol):
    """The part of a decentralised policy that runs in a UE (DDS). It sees one UE: its own."""

    def reset(self, scenario: Scenario) -> None:
        """Forget everything. ``scenario.ues`` holds this UE alone."""

    def respond(self, signal: dict[str, float], own_state: UeObservation) -> UeDecision:
        """Best response of this UE to what the edge publishes."""


class AskUe(Protocol):
    """How a decentralised policy asks a UE: over sockets in the testbed, by a call in the simulator."""

    def __call__(self, ue: UeName, signal: dict[str, float], state: UeObservation) -> UeDecision | None:
        """What the UE's :class:`LocalPolicy` responds; None if it is gone."""


@runtime_checkable
class DecentralisedPolicy(Protocol):
    """A policy whose UEs decide for themselves. Without :meth:`ask_through` it asks local policies of its own."""

    def local_policy(self) -> LocalPolicy:
        """What runs in each UE, with this policy's options."""

    def ask_through(self, ask: AskUe | None) -> None:
        """Ask the UEs themselves from now on; None: in this process again. Kept over a ``reset``."""

"""The scenario: what a policy may know before a run."""

from __future__ import annotations

from typing import Literal

from controller.contract.base import Codec, Struct, UeName
from controller.contract.codec import is_boundary_codec
from controller.contract.profile import ModelProfile
from controller.frames import FRAMING_RATIO


class Radio(Struct, frozen=True):
    """The cell: what a policy may know of it before a run."""

    uplink_hz: float  # that all UEs of an access point share
    downlink_hz: float  # that all UEs of an access point share
    noise_watts_per_hz: float  # spectral density at a receiver
    access: Literal["ofdma", "noma"] = "ofdma"  # noma: UEs are superposed on subchannels
    subchannels: int = 1  # into which both spectra are divided, evenly
    users_per_subchannel: int = 1  # that may be superposed on one
    sic_residual_ratio: float = 0.0  # of the power of a signal that was cancelled
    downlink_power_watts: float = 1.0  # of the base station, spread evenly over the downlink spectrum
    access_points: int = 1  # that reuse the spectrum; each has the downlink power
    leakage_ratio: float = 0.0  # a UE's gain to a foreign access point over the one to its own


class Edge(Struct, frozen=True):
    cpus: float  # reference cores that all UEs share
    memory_bytes: int = 0  # 0: not limited
    compute_watts: float = 0.0  # drawn at all cpus; at share f: compute_watts * (f / cpus) ** 3


OnBusy = Literal["queue", "drop", "latest"]


class Arrivals(Struct, frozen=True):
    """The arrival process as a policy may know it."""

    process: Literal["poisson", "periodic", "switching", "file"]  # of docs/lab-file.md
    rates_per_second: tuple[float, ...]  # one value; two for "switching"; the mean rate for "file"
    switch_probability: float = 0.0  # per slot, "switching" only
    #: a task that arrives while the device's stage is busy waits, is dropped, or waits unless a newer one comes
    on_busy: OnBusy = "queue"

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
    boundary_codec: Codec  # of every other tensor that crosses, unless a decision says another
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
    codec_choices: tuple[Codec, ...] = ()  # that decisions may say; (): all that the profile has for boundaries
    #: A rate under this is an outage of the wire.
    outage_floor_bits_per_second: float = 100e3

    @property
    def boundary_codecs(self) -> tuple[Codec, ...]:
        """All that a decision may say, in their order."""
        return self.codec_choices or tuple(codec for codec in self.profile.codecs if is_boundary_codec(codec))


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

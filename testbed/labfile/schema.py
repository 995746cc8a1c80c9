"""The lab file: one YAML file describes a lab. Frozen pydantic models, strict keys, units in the values.

:func:`testbed.labfile.load.load` makes a :class:`Topology` of a file; ``Topology.expand()`` gives the UEs one by one.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    field_validator,
    model_validator,
)

from controller.contract import Codec
from testbed.units import (
    BitsPerSecond,
    Bytes,
    Decibels,
    Hertz,
    Joules,
    Metres,
    PerSecond,
    PositiveSeconds,
    PositiveWatts,
    Ratio,
    Seconds,
    Watts,
    WattsPerHertz,
)

#: No dots (they separate lab and node in names on the system), short enough for a socket path.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
WholeName = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,29}[a-z0-9])?$")]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _off(value: object) -> object:
    """YAML 1.1 reads a bare ``off`` as false."""
    return "off" if value is False else value


Wanted = Annotated[Literal["auto", "required", "off"], BeforeValidator(_off)]


class CodecSpec(Model):
    """How tensors travel: the raw input is always a uint8 image; boundaries as chosen."""

    input: Literal["uint8"] = "uint8"
    boundary: Codec = "fp32"


class EdgeSpec(Model):
    cpus: float = Field(default=0.8, gt=0, le=1e4, description="reference cores shared by all UEs")
    gpu: Wanted = "auto"
    memory: Bytes = Field(default=0.0, description="of its processes; 0: 4 GiB, where the host can limit it")
    power: Watts = Field(default=0.0, description="drawn at all cpus; at share f the cube of its part of them")


class RadioSpec(Model):
    uplink: Hertz = 10e6
    downlink: Hertz = 10e6
    noise: WattsPerHertz = 10 ** (-165 / 10) * 1e-3
    access: Literal["ofdma", "noma"] = "ofdma"
    downlink_power: PositiveWatts = 1.0
    subchannels: int = Field(default=1, ge=1, le=256, description="equal parts of the spectrum")
    users_per_subchannel: int = Field(default=2, ge=1, le=8, description="superposed at most, access 'noma'")
    subchannel_fading: Literal["none", "rayleigh"] = Field(
        default="none", description="of each subchannel against the channel, drawn once from the seed"
    )
    sic_residual: Ratio = Field(default=0.0, description="part of a decoded signal's power that stays, access 'noma'")
    access_points: int = Field(
        default=1, ge=1, le=16, description="reuse the spectrum, each with a power of its own; UEs take turns"
    )
    isolation: Decibels = Field(default=20.0, description="gain to a foreign access point under that to the own one")

    @model_validator(mode="after")
    def _fits_access(self) -> RadioSpec:
        if self.access != "noma":
            for key in ("users_per_subchannel", "sic_residual"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"the key {key!r} belongs to access 'noma'")
        return self


def _in_slots(value: int) -> str:
    return f"{value} slot" if value == 1 else f"{value} slots"


def _slots(value: object) -> object:
    """``2 slots`` as a number; everything else is left for the check."""
    found = re.fullmatch(r"(\d+) slots?", value) if isinstance(value, str) else None
    return int(found[1]) if found else value


class ObserveSpec(Model):
    """How well a policy sees what there is."""

    gain_error: Decibels = Field(default=0.0, ge=0, le=40, description="log-normal, drawn per slot, UE and direction")
    gain_age: Annotated[int, BeforeValidator(_slots), PlainSerializer(_in_slots)] = Field(
        default=0, ge=0, le=1000, description="gains seen are those of so many slots before"
    )
    arrival_rate: Literal["mean", "measured", "state"] = Field(
        default="mean", description="of the process, of the last slots, or of the state that is hidden in 'switching'"
    )


class ArrivalsSpec(Model):
    process: Literal["poisson", "periodic", "switching", "file"] = "poisson"
    rate: PerSecond | None = None
    rates: tuple[PerSecond, PerSecond] | None = Field(default=None, description="the two rates of 'switching'")
    switch: Ratio = Field(default=0.0, description="probability per slot that 'switching' changes its rate")
    file: str | None = Field(default=None, description="one arrival time in seconds per line")

    @model_validator(mode="after")
    def _fields_fit_process(self) -> ArrivalsSpec:
        need = {"poisson": "rate", "periodic": "rate", "switching": "rates", "file": "file"}[self.process]
        for key in ("rate", "rates", "file"):
            given = getattr(self, key) is not None
            if key == need and not given:
                raise ValueError(f"process {self.process!r} needs the key {need!r}")
            if key != need and given:
                raise ValueError(f"process {self.process!r} takes the key {need!r}, not {key!r}")
        if self.process != "switching" and self.switch:
            raise ValueError("the key 'switch' belongs to process 'switching'")
        return self


class Shadowing(Model):
    sigma: Decibels = Field(le=40, description="of the log-normal law")
    rho: float = Field(ge=0, lt=1, description="correlation from one slot to the next")
    clip: Decibels | None = None


class ChannelSpec(Model):
    """Either a fading model (and a distance), or a trace file."""

    fading: Literal["rayleigh", "rician", "static"] | None = None
    doppler: Hertz = 0.2
    k_factor: Decibels = 6.0
    distance: Metres | tuple[Metres, Metres] | None = Field(
        default=None, description="one distance, or [near, far] spread evenly over the group's UEs"
    )
    shadowing: Shadowing | None = None
    trace: str | None = None
    trace_down: str | None = Field(default=None, description="the downlink's own file; else 'trace' holds both")
    kind: Literal["gain", "rate"] = "gain"
    at_end: Literal["loop", "hold", "clear"] = "loop"
    step: PositiveSeconds = 0.1
    refresh: Literal["time", "per_task_stage"] = Field(
        default="time", description="per_task_stage: the uplink is drawn anew for each task at each split point"
    )
    gain_floor: Ratio = Field(default=0.0, description="per_task_stage: fading is never under this part of its mean")

    @model_validator(mode="after")
    def _one_source(self) -> ChannelSpec:
        if (self.trace is None) == (self.fading is None):
            raise ValueError("give either 'fading' (with 'distance') or 'trace', one of the two")
        if self.trace is None and self.distance is None:
            raise ValueError("'fading' needs a 'distance'")
        if self.trace is not None and (self.distance is not None or self.shadowing is not None):
            raise ValueError("'trace' already holds the path loss: drop 'distance' and 'shadowing'")
        if self.refresh == "per_task_stage":
            if self.fading not in ("rayleigh", "rician") or self.shadowing is not None:
                raise ValueError("refresh 'per_task_stage' needs fading rayleigh or rician, without shadowing")
            if not self.gain_floor:
                raise ValueError("refresh 'per_task_stage' needs a gain_floor: without one E[1/rate] is infinite")
        elif self.gain_floor:
            raise ValueError("'gain_floor' belongs to refresh 'per_task_stage'")
        if self.trace is None and self.kind == "rate":
            raise ValueError("kind 'rate' needs a 'trace'")
        if self.trace is None and self.trace_down is not None:
            raise ValueError("'trace_down' needs a 'trace', the uplink's")
        return self


class GilbertElliottSpec(Model):
    """Losses in bursts: a good and a bad state, which may change before each packet."""

    p: Ratio = Field(gt=0, description="probability to go from good to bad")
    r: Ratio = Field(gt=0, description="probability to go back: a burst has 1/r packets in the mean")
    bad: Ratio = Field(default=1.0, description="losses in the bad state")
    good: Ratio = Field(default=0.0, description="losses in the good state")


class LinkSpec(Model):
    """What the wire adds to the rate, in both directions."""

    delay: Seconds = 0.0
    jitter: Seconds = 0.0
    distribution: Literal["normal", "uniform", "pareto", "paretonormal"] = "normal"
    loss: Ratio = 0.0
    gilbert_elliott: GilbertElliottSpec | None = None
    duplicate: Ratio = 0.0
    corrupt: Ratio = Field(default=0.0, description="packets with one flipped bit")
    reorder: Ratio = Field(default=0.0, description="packets that skip the delay")
    delay_trace: str | None = Field(default=None, description="trace file of kind delay, in seconds")
    loss_trace: str | None = Field(default=None, description="trace file of kind loss, a ratio")
    outage: Literal["hold", "loss"] = "hold"
    floor: BitsPerSecond = Field(default=100e3, description="a rate under this is an outage")
    congestion_control: str = Field(default="cubic", pattern=r"^[a-z0-9_-]{1,15}$")

    @model_validator(mode="after")
    def _fits_together(self) -> LinkSpec:
        if self.jitter > self.delay:
            raise ValueError(f"jitter ({self.jitter:g} s) must not exceed delay ({self.delay:g} s)")
        if self.loss and self.gilbert_elliott is not None:
            raise ValueError("'loss' and 'gilbert_elliott' are two models of one thing: give one of them")
        if self.loss_trace is not None and (self.loss or self.gilbert_elliott is not None):
            raise ValueError("'loss_trace' holds the losses: drop 'loss' and 'gilbert_elliott'")
        if self.reorder and not self.delay:
            raise ValueError("'reorder' lets packets skip the delay: it needs a 'delay'")
        if self.distribution != "normal" and not self.jitter:
            raise ValueError("'distribution' is that of the jitter: it needs a 'jitter'")
        return self


class UeSpec(Model):
    """A group of equal UEs; ``count`` above 1 numbers them from 1."""

    name: Name
    count: int = Field(default=1, ge=1, le=500)
    speed: float = Field(default=0.25, gt=0, le=2.0, description="maximum, of a reference core")
    compute_power: Watts = 1.0
    power: PositiveWatts = 0.3
    receive_power: Watts = 0.0
    energy_budget: Joules | None = Field(default=None, description="per slot, long-term mean; none: not limited")
    weight: float = Field(default=1.0, gt=0, le=1e6)
    arrivals: ArrivalsSpec
    channel: ChannelSpec
    link: LinkSpec = LinkSpec()
    memory: Bytes = Field(default=0.0, description="of its processes; 0: 2 GiB, where the host can limit it")
    model: str | None = None
    profile: str | None = None
    device: str | None = Field(default=None, description="a ModelProfile of another device: heads take its times")


class PolicySpec(BaseModel):
    """A policy's name; every other key is one of its options."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class RetrainingSpec(Model):
    """New weights for every model, made at the edge while it serves: each parameter drawn around its last value."""

    interval: PositiveSeconds = Field(description="from one model version to the next")
    perturbation: float = Field(default=0.02, gt=0, le=1, description="relative standard deviation of the change")


class UploadingSpec(Model):
    """The edge starts without any model; UEs upload layers while they infer."""

    cache: Literal["keep", "per_query"] = Field(
        default="keep", description="per_query: the edge forgets a UE's layers when its task ends"
    )
    memory: Bytes = Field(default=256e6, gt=0, description="parameters that the edge holds at most, of all UEs")


class MonitoringSpec(Model):
    prometheus: Wanted = "auto"
    grafana: Wanted = "auto"


class HostSpec(Model):
    """How the lab uses the host that carries it; changes nothing of what is emulated."""

    cpusets: Annotated[Literal["auto", "off", "split"], BeforeValidator(_off)] = Field(
        default="auto",
        description="cores of their own for UEs, edge and steering: from 4 cores on (auto), never, from 2 cores on",
    )


class ExpandedUe(Model):
    """One UE with everything resolved."""

    name: str
    index: int
    spec: UeSpec
    model: str
    profile: str | None
    device: str | None
    distance: Metres | None


class Topology(Model):
    # what editors are told: keys with x- are for anchors (parse drops them)
    model_config = ConfigDict(json_schema_extra={"patternProperties": {"^x-": {}}})

    name: WholeName
    seed: int = Field(default=0, ge=0, lt=2**31)
    slot: PositiveSeconds = 0.5
    model: str | None = None
    profile: str | None = Field(default=None, description="a ModelProfile file, so that two hosts emulate one device")
    device: str | None = Field(default=None, description="a ModelProfile of another device, for all UEs of the model")
    codec: CodecSpec = CodecSpec()
    edge: EdgeSpec = EdgeSpec()
    radio: RadioSpec = RadioSpec()
    ues: tuple[UeSpec, ...] = Field(min_length=1)
    policy: PolicySpec = PolicySpec(name="neurosurgeon")
    task_timeout: PositiveSeconds = 60.0
    monitoring: MonitoringSpec = MonitoringSpec()
    host: HostSpec = HostSpec()
    observe: ObserveSpec = ObserveSpec()
    retraining: RetrainingSpec | None = Field(default=None, description="none: the first weights stay")
    uploading: UploadingSpec | None = Field(default=None, description="none: the edge has every model from the start")

    @field_validator("policy", mode="before")
    @classmethod
    def _policy_by_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Topology:
        names: set[str] = set()
        for ue in self.expand():
            if ue.name in names or ue.name in RESERVED_NODES:
                kind = "reserved" if ue.name in RESERVED_NODES else "used twice"
                raise ValueError(f"the UE name {ue.name!r} is {kind}; names must be unique and not in {RESERVED_NODES}")
            if ue.name.endswith("-"):
                raise ValueError(f"the UE name {ue.name!r} ends with '-': names end with a letter or a digit")
            names.add(ue.name)
        if self.radio.access == "noma":
            for spec in self.ues:
                if spec.channel.kind == "rate":
                    raise ValueError(f"UE {spec.name!r} has a channel of kind 'rate'; access 'noma' works on gains")
        if self.retraining is not None and self.edge.gpu == "required":
            raise ValueError("'retraining' swaps weights on the CPU: set edge.gpu to off (or auto, which then is off)")
        if self.uploading is not None:
            if self.retraining is not None:
                raise ValueError("'uploading' sends the first weights, 'retraining' replaces them: give one of the two")
            if self.edge.gpu == "required":
                raise ValueError("'uploading' runs on the CPU: set edge.gpu to off (or auto, which then is off)")
            if self.codec.boundary != "fp32":
                raise ValueError("'uploading' sends values as fp32: set codec.boundary to fp32")
            if any(spec.channel.refresh == "per_task_stage" for spec in self.ues):
                raise ValueError(
                    "'uploading' sends all the time: a channel with refresh 'per_task_stage' has no gain then"
                )
        if self.slot < 0.05:
            raise ValueError(f"slot is {self.slot:g} s; a slot shorter than 50 ms cannot be decided in time")
        return self

    def expand(self) -> tuple[ExpandedUe, ...]:
        """The UEs one by one, in order; indices number seeds and wires."""
        result: list[ExpandedUe] = []
        for spec in self.ues:
            model = spec.model or self.model
            if model is None:
                raise ValueError(f"UE {spec.name!r} has no model; give 'model' at the top of the file or in the UE")
            # A profile (or device) at the top belongs to the model at the top
            of_the_lab = spec.model in (None, self.model)
            profile = spec.profile or (self.profile if of_the_lab else None)
            device = spec.device or (self.device if of_the_lab else None)
            for number in range(spec.count):
                distance = spec.channel.distance
                if isinstance(distance, tuple):
                    near, far = distance
                    distance = near if spec.count == 1 else near + (far - near) * number / (spec.count - 1)
                name = spec.name if spec.count == 1 else f"{spec.name}{number + 1}"
                result.append(
                    ExpandedUe.model_construct(
                        name=name,
                        index=len(result),
                        spec=spec,
                        model=model,
                        profile=profile,
                        device=device,
                        distance=distance,
                    )
                )
        return tuple(result)

    def normalised(self) -> dict[str, Any]:
        """The lab with every default filled in and every value with its unit."""
        return self.model_dump(mode="json", exclude_none=True)


#: Other nodes and programs of a lab, a file beside those of nodes, and one in every cgroup.
RESERVED_NODES = (
    *("edge", "radio", "controller", "player", "recorder", "exporter", "prometheus", "grafana", "zygote", "cli"),
    *("scenario", "tasks"),
)

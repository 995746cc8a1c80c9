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
    field_validator,
    model_validator,
)

from testbed.labfile.arrival_keys import ArrivalsSpec
from testbed.labfile.codecs import CodecSpec
from testbed.labfile.input_keys import InputKey, InputSpec, check_inputs
from testbed.labfile.model_keys import ModelKey
from testbed.labfile.schema_base import Model, Name, Wanted, WholeName, bare_off
from testbed.labfile.schema_links import ChannelSpec, LinkSpec, RadioSpec
from testbed.units import (
    Bytes,
    Decibels,
    Joules,
    Metres,
    PositiveSeconds,
    PositiveWatts,
    Watts,
)


class EdgeSpec(Model):
    """The server that computes tails."""

    cpus: float = Field(default=0.8, gt=0, le=1e4, description="reference cores shared by all UEs")
    gpu: Wanted = Field(default="auto", description="auto: tails run on an NVIDIA GPU where the edge gets one")
    memory: Bytes = Field(default=0.0, description="of its processes; 0: 4 GiB, where the host can limit it")
    power: Watts = Field(default=0.0, description="drawn at all cpus; at share f the cube of its part of them")


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


class UeSpec(Model):
    """A group of equal UEs; ``count`` above 1 numbers them from 1."""

    name: Name = Field(description="of the group; names of nodes are unique")
    count: int = Field(default=1, ge=1, le=500, description="above 1 the UEs are name1, name2, ...")
    speed: float = Field(default=0.25, gt=0, le=2.0, description="maximum, of a reference core")
    compute_power: Watts = Field(default=1.0, description="drawn at its maximum; at speed s times (s / maximum)^3")
    power: PositiveWatts = Field(default=0.3, description="while it sends")
    receive_power: Watts = Field(default=0.0, description="while it receives")
    energy_budget: Joules | None = Field(default=None, description="per slot, long-term mean; none: not limited")
    weight: float = Field(default=1.0, gt=0, le=1e6, description="of its delay in a policy's objective")
    arrivals: ArrivalsSpec = Field(description="of tasks, whatever the device is busy with")
    channel: ChannelSpec
    link: LinkSpec = LinkSpec()
    memory: Bytes = Field(default=0.0, description="of its processes; 0: 2 GiB, where the host can limit it")
    model: ModelKey | None = None
    input: InputKey = None
    profile: str | None = Field(default=None, description="a ModelProfile file; none: the lab's")
    device: str | None = Field(default=None, description="a ModelProfile of another device: heads take its times")


class PolicySpec(BaseModel):
    """A policy's name; every other key is one of its options."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str = Field(description="one of `testbed policy list`, or MODULE:CLASS beside the lab file")

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
    """What watches the lab: auto where there is an engine, required, or off."""

    prometheus: Wanted = Field(default="auto", description="which scrapes the lab's exporter")
    grafana: Wanted = Field(default="auto", description="with the lab's dashboards")


class HostSpec(Model):
    """How the lab uses the host that carries it; changes nothing of what is emulated."""

    cpusets: Annotated[Literal["auto", "off", "split"], BeforeValidator(bare_off)] = Field(
        default="auto",
        description="cores of their own for UEs, edge and steering: from 4 cores on (auto), never, from 2 cores on",
    )


class ExpandedUe(Model):
    """One UE with everything resolved."""

    name: str
    index: int
    spec: UeSpec
    model: str
    weights: str  # random, default, or a path
    input: InputSpec | None  # None: random images
    profile: str | None
    device: str | None
    distance: Metres | None


class Topology(Model):
    # what editors are told: keys with x- are for anchors (parse drops them)
    model_config = ConfigDict(json_schema_extra={"patternProperties": {"^x-": {}}})

    name: WholeName = Field(description="two labs of different names run side by side")
    seed: int = Field(default=0, ge=0, lt=2**31, description="root of all randomness, a stream per UE and purpose")
    slot: PositiveSeconds = Field(default=0.5, description="from one decision to the next, at least 50 ms")
    model: ModelKey | None = None
    input: InputKey = Field(default=None, description="what tasks are about; none: random images")
    profile: str | None = Field(
        default=None,
        description="a ModelProfile file, so that two hosts emulate one device; none: measured on this host, once",
    )
    device: str | None = Field(default=None, description="a ModelProfile of another device, for all UEs of the model")
    codec: CodecSpec = CodecSpec()
    edge: EdgeSpec = EdgeSpec()
    radio: RadioSpec = RadioSpec()
    ues: tuple[UeSpec, ...] = Field(min_length=1)
    policy: PolicySpec = PolicySpec(name="neurosurgeon")
    task_timeout: PositiveSeconds = Field(default=60.0, description="a task that takes longer fails")
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
            check_inputs(ue.spec.arrivals, ue.input, ue.name, uploading=self.uploading is not None)
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
            if self.codec != CodecSpec():
                raise ValueError(
                    "'uploading' sends values as they are: set codec.boundary to fp32, codec.input to uint8"
                )
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
            of_the_lab = spec.model is None or (self.model is not None and spec.model.name == self.model.name)
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
                        model=model.name,
                        weights=model.weights,
                        input=spec.input or self.input,
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

"""The lab file's keys of radio, channels and links: what tensors travel through."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    model_validator,
)

from testbed.labfile.schema_base import Model
from testbed.units import (
    BitsPerSecond,
    Decibels,
    Hertz,
    Metres,
    PositiveSeconds,
    PositiveWatts,
    Ratio,
    Seconds,
    WattsPerHertz,
)


class RadioSpec(Model):
    """The cell that all UEs share."""

    uplink: Hertz = Field(default=10e6, description="spectrum that the policy shares out")
    downlink: Hertz = Field(default=10e6, description="spectrum that the policy shares out")
    noise: WattsPerHertz = Field(
        default=10 ** (-165 / 10) * 1e-3, description="density, noise figure included; the default is -165 dBm/Hz"
    )
    access: Literal["ofdma", "noma"] = Field(default="ofdma", description="noma: UEs are superposed on subchannels")
    downlink_power: PositiveWatts = Field(default=1.0, description="of the base station, over the downlink spectrum")
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


class Shadowing(Model):
    """Log-normal, beside the fading: constant for a slot, an AR(1) from one to the next."""

    sigma: Decibels = Field(le=40, description="of the log-normal law")
    rho: float = Field(ge=0, lt=1, description="correlation from one slot to the next")
    clip: Decibels | None = Field(default=None, description="largest deviation of either sign")


class ChannelSpec(Model):
    """Either a fading model (and a distance), or a trace file."""

    fading: Literal["rayleigh", "rician", "static"] | None = Field(default=None, description="none: there is a trace")
    doppler: Hertz = Field(default=0.2, description="how fast the fading changes")
    k_factor: Decibels = Field(default=6.0, description="rician: line of sight over scattered power")
    distance: Metres | tuple[Metres, Metres] | None = Field(
        default=None, description="one distance, or [near, far] spread evenly over the group's UEs"
    )
    shadowing: Shadowing | None = None
    trace: str | None = Field(default=None, description="a trace file, beside the lab file")
    trace_down: str | None = Field(default=None, description="the downlink's own file; else 'trace' holds both")
    kind: Literal["gain", "rate"] = Field(default="gain", description="of the trace's values: power gain, or bit/s")
    at_end: Literal["loop", "hold", "clear"] = Field(
        default="loop", description="of a trace: from the start again, its last value, or a link without loss"
    )
    step: PositiveSeconds = Field(default=0.1, description="from one value to the next")
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

    delay: Seconds = Field(default=0.0, description="one way")
    jitter: Seconds = Field(default=0.0, description="of the delay, at most as much")
    distribution: Literal["normal", "uniform", "pareto", "paretonormal"] = Field(
        default="normal", description="of the jitter"
    )
    loss: Ratio = Field(default=0.0, description="of packets, each by itself")
    gilbert_elliott: GilbertElliottSpec | None = None
    duplicate: Ratio = Field(default=0.0, description="packets that come twice")
    corrupt: Ratio = Field(default=0.0, description="packets with one flipped bit")
    reorder: Ratio = Field(default=0.0, description="packets that skip the delay")
    delay_trace: str | None = Field(default=None, description="trace file of kind delay, in seconds")
    loss_trace: str | None = Field(default=None, description="trace file of kind loss, a ratio")
    outage: Literal["hold", "loss"] = Field(default="hold", description="hold keeps packets, loss drops them")
    floor: BitsPerSecond = Field(default=100e3, description="a rate under this is an outage")
    congestion_control: str = Field(
        default="cubic", pattern=r"^[a-z0-9_-]{1,15}$", description="of TCP, one that the kernel has"
    )

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

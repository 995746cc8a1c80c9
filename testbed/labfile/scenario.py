"""Topology and profiles -> Scenario: what a policy may know. The only place where the two meet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from controller.contract import (
    Arrivals,
    Edge,
    Knowledge,
    ModelProfile,
    Radio,
    Scenario,
    ShadowingLaw,
    UeName,
    UeScenario,
    Uploading,
)
from testbed.errors import InputError
from testbed.inference.profiles import read_profile, with_device
from testbed.inputs.decode import frame_rate
from testbed.labfile.arrival_files import mean_rate_per_second, read_arrivals
from testbed.labfile.channels import subchannel_ratios_of
from testbed.labfile.codec_profiles import fitted
from testbed.labfile.schema import ExpandedUe, Topology
from testbed.labfile.schema_links import ChannelSpec, RadioSpec

ProfileMaker = Callable[[str], ModelProfile | None]
#: Of a UE and the profile that was found: the same with what the lab's codecs need; None: the UE's is left out.
ProfileFitter = Callable[[ExpandedUe, ModelProfile], ModelProfile | None]


def arrivals_of(ue: ExpandedUe) -> tuple[Arrivals, tuple[float, ...]]:
    """The arrival process of the contract, and the times of a file. Raises InputError for a clip without a rate."""
    spec = ue.spec.arrivals
    if spec.process == "video":
        assert ue.input is not None
        assert ue.input.video is not None
        rate = frame_rate(Path(ue.input.video))
        return Arrivals(process="periodic", rates_per_second=(rate,), on_busy=spec.on_busy), ()
    if spec.process == "file":
        assert spec.file is not None
        times = read_arrivals(Path(spec.file)).times_seconds
        return Arrivals("file", (mean_rate_per_second(times),), on_busy=spec.on_busy), times
    rates = spec.rates if spec.rates is not None else (spec.rate or 0.0,)
    return Arrivals(spec.process, tuple(rates), spec.switch, spec.on_busy), ()


def profile_key(ue: ExpandedUe) -> str:
    """What tells two profiles of a lab apart: the file if one is named, else the model; the device's, if any; and what
    it may have to resize, if anything."""
    return " on ".join(filter(None, (ue.profile or ue.model, ue.device, str(ue.input.source) if ue.input else "")))


def collect_profiles(
    topology: Topology, where: str, measure: ProfileMaker, fit: ProfileFitter
) -> dict[str, ModelProfile]:
    """Profiles by :func:`profile_key`; ``measure(model)`` gives that of a UE that names no file (None: it
    is left out), ``fit`` adds what the lab's codecs need.

    Raises InputError for a file that is no profile, or one of another model.
    """
    profiles: dict[str, ModelProfile] = {}
    for ue in topology.expand():
        key = profile_key(ue)
        if key in profiles:
            continue
        profile = measure(ue.model) if ue.profile is None else profile_for(ue, ue.profile, where)
        profile = None if profile is None else fit(ue, fitted(profile, topology.codec.named))
        if profile is None:
            continue
        profiles[key] = profile if ue.device is None else with_device(profile, profile_for(ue, ue.device, where))
    return profiles


def profile_for(ue: ExpandedUe, path: str, where: str) -> ModelProfile:
    """The profile at ``path``. Raises InputError if it is none, or one of another model than the UE's."""
    profile = read_profile(Path(path))
    if profile.model != ue.model:
        raise InputError(
            f"the profile of {ue.name!r} is of another model",
            where=where,
            value=f"{path}: {profile.model}",
            allowed=ue.model,
            fix=f"Measure one with: testbed profile {ue.model}",
        )
    return profile


def _inferences_per_version(topology: Topology, arrivals: Arrivals) -> float:
    if topology.retraining is None:
        return math.inf
    return max(arrivals.mean_rate_per_second * topology.retraining.interval, 1.0)


def scenario_of(topology: Topology, profiles: Mapping[str, ModelProfile], mean_gains: Mapping[str, float]) -> Scenario:
    """``profiles`` by :func:`profile_key`; ``mean_gains``: long-term mean channel state by UE name."""
    return Scenario(
        name=topology.name,
        slot_seconds=topology.slot,
        radio=_radio_of(topology.radio),
        edge=Edge(
            cpus=topology.edge.cpus,
            memory_bytes=int(topology.edge.memory),
            compute_watts=topology.edge.power,
        ),
        ues=tuple(_ue_of(topology, ue, profiles[profile_key(ue)], mean_gains[ue.name]) for ue in topology.expand()),
        uploading=uploading_of(topology),
        retraining_interval_seconds=None if topology.retraining is None else topology.retraining.interval,
        knowledge=Knowledge(
            gain_error_decibels=topology.observe.gain_error,
            gain_age_slots=topology.observe.gain_age,
            arrival_rate=topology.observe.arrival_rate,
        ),
    )


def _ue_of(topology: Topology, ue: ExpandedUe, profile: ModelProfile, mean_gain: float) -> UeScenario:
    spec = ue.spec
    arrivals, _ = arrivals_of(ue)
    ratios_up, ratios_down = subchannel_ratios_of(topology, ue)
    return UeScenario(
        name=UeName(ue.name),
        profile=profile,
        arrivals=arrivals,
        max_speed=spec.speed,
        compute_watts=spec.compute_power,
        transmit_watts=spec.power,
        receive_watts=spec.receive_power,
        energy_budget_joules=math.inf if spec.energy_budget is None else spec.energy_budget,
        weight=spec.weight,
        input_codec=topology.codec.input,
        boundary_codec=topology.codec.boundary,
        codec_choices=topology.codec.for_boundaries if topology.codec.choices else (),
        channel_kind=spec.channel.kind,
        mean_gain=mean_gain,
        fading=spec.channel.fading or "trace",
        channel_refresh=spec.channel.refresh,
        k_factor=10 ** (spec.channel.k_factor / 10) if spec.channel.fading == "rician" else 0.0,
        doppler_hz=spec.channel.doppler,
        gain_floor_ratio=spec.channel.gain_floor,
        shadowing=_shadowing_of(spec.channel),
        channel_step_seconds=spec.channel.step,
        uplink_delay_seconds=spec.link.delay,
        downlink_delay_seconds=spec.link.delay,
        outage_floor_bits_per_second=spec.link.floor,
        subchannel_ratios_up=ratios_up,
        subchannel_ratios_down=ratios_down,
        access_point=ue.index % topology.radio.access_points,
        inferences_per_version=_inferences_per_version(topology, arrivals),
    )


def _radio_of(radio: RadioSpec) -> Radio:
    return Radio(
        uplink_hz=radio.uplink,
        downlink_hz=radio.downlink,
        noise_watts_per_hz=radio.noise,
        access=radio.access,
        subchannels=radio.subchannels,
        users_per_subchannel=radio.users_per_subchannel if radio.access == "noma" else 1,
        sic_residual_ratio=radio.sic_residual,
        downlink_power_watts=radio.downlink_power,
        access_points=radio.access_points,
        leakage_ratio=10 ** (-radio.isolation / 10) if radio.access_points > 1 else 0.0,
    )


def _shadowing_of(spec: ChannelSpec) -> ShadowingLaw | None:
    found = spec.shadowing
    if found is None or found.sigma == 0:
        return None
    return ShadowingLaw(found.sigma, found.rho, math.inf if found.clip is None else found.clip)


def uploading_of(topology: Topology) -> Uploading | None:
    """None: the edge has its models from the start."""
    spec = topology.uploading
    return None if spec is None else Uploading(cache=spec.cache, memory_bytes=int(spec.memory))

"""The files that a lab names, read before anything is started: can they be read, and can their numbers be meant so."""

from __future__ import annotations

from pathlib import Path

from controller.contract import ModelProfile
from controller.model.channel import mean_gain
from controller.model.radio import shannon_bits_per_second
from testbed.errors import InputError
from testbed.inference.profiles import profile_cache_path, read_profile
from testbed.labfile import arrival_files
from testbed.labfile.channels import channel_of, channel_trace, link_trace
from testbed.labfile.codec_profiles import missing
from testbed.labfile.policy import make_policy, policy_warnings
from testbed.labfile.scenario import collect_profiles, profile_key, scenario_of
from testbed.labfile.schema import ExpandedUe, Topology, UeSpec
from testbed.labfile.ue_inputs import inputs_by_ue
from testbed.traces.doubts import doubts, outage
from testbed.traces.files import is_mahimahi
from testbed.traces.trace import Floats
from testbed.units import BIT_RATE


def check_files(topology: Topology, where: str) -> list[str]:
    """Warnings about what the files of a lab hold: each with mean, peak and the unit that it may really have.

    Raises InputError for a file that cannot be read or is not what it should be, for a profile of another model, and
    for a channel on which nothing could ever pass.
    """
    inputs_by_ue(topology, _known_profiles(topology, where))
    found: list[str] = []
    ues = topology.expand()
    for index, spec in enumerate(topology.ues):
        group = [ue for ue in ues if ue.spec is spec]
        found += _arrivals(spec, f"ues.{index}")
        found += _links(spec, f"ues.{index}")
        if spec.channel.trace is not None:
            found += _channel_trace(topology, spec, where, f"ues.{index}")
        else:
            found += _channel_law(topology, group, f"ues.{index}")
    return found


def check_policy(topology: Topology, where: str) -> list[str]:
    """Let the lab's policy begin on it, as every run does, where no profile has yet to be measured: warnings.

    Raises InputError for what does not fit: a checkpoint, a cut, a model.
    """
    profiles = _known_profiles(topology, where)
    if all(profile_key(ue) in profiles for ue in topology.expand()):
        means = {
            ue.name: mean_gain(channel_of(ue, topology.slot))
            if ue.spec.channel.trace is None
            else channel_trace(ue.spec.channel).mean().up
            for ue in topology.expand()
        }
        policy = make_policy(topology, scenario_of(topology, profiles, means), where, lambda _text: None)
        return policy_warnings(topology.policy.name, policy)
    return []


def _known_profiles(topology: Topology, where: str) -> dict[str, ModelProfile]:
    """Those of files and those that this host has measured, where they have what the lab's codecs need."""

    def cached(model: str) -> ModelProfile | None:
        path = profile_cache_path(model)
        return read_profile(path) if path.is_file() else None

    def fit(_ue: ExpandedUe, profile: ModelProfile) -> ModelProfile | None:
        return None if any(missing(profile, topology.codec)) else profile

    return collect_profiles(topology, where, cached, fit)


def _arrivals(spec: UeSpec, key: str) -> list[str]:
    if spec.arrivals.file is None:
        return []
    found = arrival_files.doubts(arrival_files.read_arrivals(Path(spec.arrivals.file)))
    return [f"{key}.arrivals.file, {spec.arrivals.file}: {text}" for text in found]


def _links(spec: UeSpec, key: str) -> list[str]:
    """Raises InputError for losses that let nothing through."""
    found: list[str] = []
    if spec.link.delay_trace is not None:
        trace = link_trace(spec.link.delay_trace, "delay")
        found += [f"{key}.link.delay_trace, {spec.link.delay_trace}: {text}" for text in doubts(trace)]
    if spec.link.loss_trace is not None:
        trace = link_trace(spec.link.loss_trace, "loss")
        if max(trace.up.min(), trace.down.min()) >= 1 and spec.channel.at_end != "clear":
            raise InputError(
                "nothing can ever pass: every packet is lost",
                where=f"{key}.link.loss_trace, {spec.link.loss_trace}",
                allowed="ratios, 0 to 1",
                fix="If its values are percent, divide them by 100.",
            )
        found += [f"{key}.link.loss_trace, {spec.link.loss_trace}: {text}" for text in doubts(trace)]
    return found


def _channel_trace(topology: Topology, spec: UeSpec, where: str, key: str) -> list[str]:
    """Raises InputError for a trace that is an outage for ever."""
    channel = spec.channel
    assert channel.trace is not None
    trace = channel_trace(channel)
    up, down = trace.up, trace.down
    if channel.kind == "gain":
        up, down = _rates(topology, spec, up, down)
    text = outage(trace, up, down, spec.link.floor, mahimahi=is_mahimahi(Path(channel.trace)))
    peak = float(min(up.max(), down.max()))
    # under the floor the wire still carries a little, unless it drops everything; a clear end is no outage
    if peak < spec.link.floor and channel.at_end != "clear" and (spec.link.outage == "loss" or peak == 0):
        raise InputError(
            f"nothing can ever pass: {text}",
            where=f"{where}: {key}.channel.trace",
            value=channel.trace,
            fix="Write rates in bit/s (kind: rate) or linear gains (kind: gain), or lower link.floor.",
        )
    texts = [text] if text else []
    texts += doubts(trace)
    if channel.at_end == "loop" and trace.as_played("loop") is not trace:
        texts.append(f"it lasts {trace.duration_seconds * 1e3:g} ms and loops: its mean is played")
    return [f"{key}.channel.trace, {channel.trace}: {text}" for text in texts]


def _channel_law(topology: Topology, group: list[ExpandedUe], key: str) -> list[str]:
    """Of the UE that is farthest away."""
    worst = min(group, key=lambda ue: mean_gain(channel_of(ue, topology.slot)))
    gain = mean_gain(channel_of(worst, topology.slot))
    up, down = (float(rate) for rate in _rates(topology, worst.spec, gain, gain))
    floor = worst.spec.link.floor
    if min(up, down) >= floor:
        return []
    return [
        f"{key}.channel: {worst.name} at {worst.distance:g} m has {BIT_RATE.format(round(up))} up and "
        f"{BIT_RATE.format(round(down))} down at its mean gain and with all of the spectrum, under the outage floor of "
        f"{BIT_RATE.format(floor)}: most of its time is an outage"
    ]


def _rates(topology: Topology, spec: UeSpec, up: Floats | float, down: Floats | float) -> tuple[Floats, Floats]:
    """Of gains, alone with all of the spectrum, in bit/s."""
    radio = topology.radio
    return (
        shannon_bits_per_second(radio.uplink, spec.power * up, radio.noise),
        shannon_bits_per_second(radio.downlink, radio.downlink_power * down, radio.noise),
    )

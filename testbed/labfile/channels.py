"""The traces that a lab's wires replay: read from the files that it names, or generated from its seed."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from controller.model.channel import Channel, Shadowing, mean_gain, subchannel_ratios
from testbed.errors import InputError
from testbed.labfile.schema import ExpandedUe, Topology
from testbed.labfile.schema_links import ChannelSpec
from testbed.traces.files import load_trace, write_trace
from testbed.traces.generate import describe, generate
from testbed.traces.trace import MAX_STEPS, Kind, Trace

#: What a link has traces of besides its channel.
LinkTraceKind = Literal["delay", "loss"]
LinkTraces = Mapping[LinkTraceKind, Mapping[str, Trace]]  # ... by UE

#: Of a generated trace, for a lab that is up until it is taken down: then it starts again.
OPEN_END_SECONDS = 600.0
#: Of all generated traces of a lab together: half a gigabyte.
MAX_STEPS_OF_A_LAB = 20_000_000
#: Added to a run's duration: what is in flight at the end still needs a channel.
TAIL_SECONDS = 30.0


def channel_of(ue: ExpandedUe, slot_seconds: float) -> Channel:
    """The fading law of a UE whose channel is not a trace."""
    spec = ue.spec.channel
    assert spec.fading is not None
    assert ue.distance is not None
    shadowing = None
    if spec.shadowing is not None:
        clip = math.inf if spec.shadowing.clip is None else spec.shadowing.clip
        shadowing = Shadowing(spec.shadowing.sigma, spec.shadowing.rho, slot_seconds, clip)
    return Channel(
        distance_meters=ue.distance,
        # drawn per task and stage: the trace has the mean, and the player puts the draws over it
        fading="static" if spec.refresh == "per_task_stage" else spec.fading,
        doppler_hz=spec.doppler if spec.fading != "static" else 0.0,
        k_factor=10 ** (spec.k_factor / 10) if spec.fading == "rician" else 0.0,
        shadowing=shadowing,
    )


def subchannel_ratios_of(topology: Topology, ue: ExpandedUe) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Gain of each subchannel over the UE's channel state, (up, down); empty where all are alike."""
    radio = topology.radio
    if radio.subchannel_fading == "none" or radio.subchannels == 1:
        return (), ()
    ratios = subchannel_ratios(radio.subchannels, topology.seed, ue.index)
    return tuple(ratios.up.tolist()), tuple(ratios.down.tolist())


def make_traces(topology: Topology, duration_seconds: float | None) -> dict[str, Trace]:
    """One trace per UE, a function of the seed and the UE's index only.

    Raises InputError for a bad trace file, and for more steps than memory holds.
    """
    length = OPEN_END_SECONDS if duration_seconds is None else duration_seconds + TAIL_SECONDS
    traces: dict[str, Trace] = {}
    _require_bounded(topology, length)
    for ue in topology.expand():
        spec = ue.spec.channel
        if spec.trace is not None:
            traces[ue.name] = channel_trace(spec).as_played(spec.at_end)
            continue
        channel = channel_of(ue, topology.slot)
        # A longer run must see the same beginning: steps, not the length, are what the seed draws.
        (traces[ue.name],) = generate([channel], length, topology.seed, step_seconds=spec.step, ue_indices=[ue.index])
    return traces


def _require_bounded(topology: Topology, length_seconds: float) -> None:
    steps = {ue.name: length_seconds / ue.spec.channel.step for ue in topology.expand() if ue.spec.channel.fading}
    longest = max(steps, key=lambda name: steps[name], default="")
    if longest and (steps[longest] > MAX_STEPS or math.fsum(steps.values()) > MAX_STEPS_OF_A_LAB):
        raise InputError(
            "the channels have too many steps",
            where=f"UE {longest!r}, channel.step",
            value=f"{steps[longest]:.3g} steps in {length_seconds:g} s",
            allowed=f"{MAX_STEPS} for a UE, {MAX_STEPS_OF_A_LAB} for the lab",
            fix="Take a longer step or a shorter duration.",
        )


def make_link_traces(topology: Topology) -> LinkTraces:
    """The traces of delays and losses that the lab's links name. Raises InputError for a bad file."""
    traces: dict[LinkTraceKind, dict[str, Trace]] = {"delay": {}, "loss": {}}
    for ue in topology.expand():
        link, at_end = ue.spec.link, ue.spec.channel.at_end
        if link.delay_trace is not None:
            traces["delay"][ue.name] = link_trace(link.delay_trace, "delay").as_played(at_end)
        if link.loss_trace is not None:
            traces["loss"][ue.name] = link_trace(link.loss_trace, "loss").as_played(at_end)
    return traces


def channel_trace(spec: ChannelSpec) -> Trace:
    """The trace that a channel names, as its files hold it. Raises InputError for a bad file."""
    assert spec.trace is not None
    return _load(Path(spec.trace), spec.kind, None if spec.trace_down is None else Path(spec.trace_down))


def link_trace(path: str, kind: LinkTraceKind) -> Trace:
    """A trace of delays or losses. Raises InputError for a bad file."""
    return _load(Path(path), kind)


def _load(path: Path, kind: Kind, down: Path | None = None) -> Trace:
    """Fifty UEs mostly share one file, and checking a lab reads it before the lab does."""
    files = [path] if down is None else [path, down]
    try:
        modified = tuple(file.stat().st_mtime_ns for file in files)
    except OSError:  # read_text says what is the matter
        modified = ()
    return _load_as_of(path, kind, down, modified)


@functools.lru_cache(maxsize=64)
def _load_as_of(path: Path, kind: Kind, down: Path | None, _modified_ns: tuple[int, ...]) -> Trace:
    return load_trace(path, kind, down)


def mean_states(topology: Topology, traces: dict[str, Trace]) -> dict[str, float]:
    """Long-term mean of the uplink's channel state by UE: of the law if there is one, else of the trace."""
    means: dict[str, float] = {}
    for ue in topology.expand():
        if ue.spec.channel.trace is None:
            means[ue.name] = mean_gain(channel_of(ue, topology.slot))
        else:
            means[ue.name] = traces[ue.name].mean().up
    return means


def write_traces(topology: Topology, traces: Mapping[str, Trace], folder: Path) -> dict[str, Path]:
    """``folder/UE.csv`` for each UE: what the player replays, and what the run directory keeps."""
    paths: dict[str, Path] = {}
    for ue in topology.expand():
        path = folder / f"{ue.name}.csv"
        note = f"seed {topology.seed}, UE {ue.index}"
        if ue.spec.channel.trace is None:
            note = f"{describe(channel_of(ue, topology.slot))}, {note}"
        write_trace(traces[ue.name], path, note)
        paths[ue.name] = path
    return paths


def write_link_traces(traces: LinkTraces, folder: Path) -> dict[LinkTraceKind, dict[str, Path]]:
    """``folder/KIND/UE.csv`` for each trace: copies, so that a run directory holds all that was played."""
    paths: dict[LinkTraceKind, dict[str, Path]] = {}
    for kind, by_ue in traces.items():
        paths[kind] = {ue: folder / kind / f"{ue}.csv" for ue in by_ue}
        for ue, trace in by_ue.items():
            write_trace(trace, paths[kind][ue])
    return paths


def peak_states(traces: Mapping[str, Trace]) -> dict[str, float]:
    """The best channel state of each trace, of both directions."""
    return {name: float(max(trace.up.max(), trace.down.max())) for name, trace in traces.items()}

"""Lab file -> ResolvedLab, once: what testbed and simulator share, and all later steps are handed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controller.contract import ModelProfile, Scenario
from testbed.errors import os_error_text
from testbed.inference.profiles import profile_cache_path, read_profile, write_profile
from testbed.inputs.source import Inputs
from testbed.labfile.channels import make_traces, mean_states, peak_states
from testbed.labfile.codec_profiles import missing, with_codecs
from testbed.labfile.policy import Notify
from testbed.labfile.scenario import arrivals_of, collect_profiles, scenario_of
from testbed.labfile.schema import ExpandedUe, Topology
from testbed.labfile.ue_inputs import inputs_by_ue, with_resized_inputs
from testbed.traces.trace import Trace


@dataclass(frozen=True)
class ResolvedLab:
    """A lab with all that its file names or leaves to the seed."""

    topology: Topology
    where: str  # the lab file's name, for errors
    folder: Path  # the lab file's, absolute: a user's model is imported from there
    ues: tuple[ExpandedUe, ...]
    profiles: Mapping[str, ModelProfile]  # by profile_key: what stages are paced to
    inputs: Mapping[str, Inputs]  # by UE; one that is not there has random images
    traces: Mapping[str, Trace]  # by UE: what the wires replay
    scenario: Scenario  # what a policy may know

    def arrival_times(self) -> dict[str, tuple[float, ...]]:
        """Arrivals in seconds of those UEs whose arrivals come from a file; empty for the others."""
        return {ue.name: arrivals_of(ue)[1] for ue in self.ues}

    def peak_states(self) -> dict[str, float]:
        """The best channel state of each UE."""
        return peak_states(self.traces)


def resolve(
    topology: Topology, where: str, folder: Path, duration_seconds: float | None, notify: Notify
) -> ResolvedLab:
    """Read or make profiles and traces. ``folder`` is the lab file's, ``duration_seconds`` that of arrivals.

    Raises InputError for a profile, trace or model that does not fit.
    """

    def fit(ue: ExpandedUe, profile: ModelProfile) -> ModelProfile:
        lacking = missing(profile, topology.codec)
        if not any(lacking):
            return profile
        names = ", ".join(dict.fromkeys((*lacking.raw, *lacking.boundary)))
        notify(f"measuring {names} with {ue.model} on this host (docs/codecs.md says how to keep it)")
        choosing = len(topology.codec.for_boundaries) > 1
        return with_codecs(ue.model, topology.seed, folder, profile, lacking, agreement=choosing, weights=ue.weights)

    profiles = collect_profiles(topology, where, lambda model: _measured(model, folder, topology.seed, notify), fit)
    inputs = inputs_by_ue(topology, profiles)
    profiles = with_resized_inputs(topology, profiles, inputs)
    traces = make_traces(topology, duration_seconds)
    return ResolvedLab(
        topology=topology,
        where=where,
        folder=folder.absolute(),
        ues=topology.expand(),
        profiles=profiles,
        inputs=inputs,
        traces=traces,
        scenario=scenario_of(topology, profiles, mean_states(topology, traces)),
    )


def _measured(model: str, folder: Path, seed: int, notify: Notify) -> ModelProfile:
    """The profile of a model for which the lab names none: from the cache, else measured now."""
    path = profile_cache_path(model)
    if path.is_file():
        return read_profile(path)
    from testbed.inference.profiling import profile_model  # imports torch

    notify(f"profiling {model} on this host (once; it is kept in {path})")
    profile = profile_model(model, seed, python_path=(folder,))
    try:
        write_profile(profile, path)
    except OSError as error:
        notify(f"the profile was not kept: {os_error_text(error)}")
    return profile

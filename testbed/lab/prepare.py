"""Everything that a lab needs, checked and written before anything is started: profiles, traces, scenario, plan."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from controller.contract import ModelProfile, Scenario
from testbed.errors import InputError, os_error_text
from testbed.inference.profiles import profile_cache_path, read_profile, write_profile
from testbed.lab import checks
from testbed.lab.plan import Plan, RuntimeName, make_plan
from testbed.labfile.channels import (
    LinkTraceKind,
    make_link_traces,
    make_traces,
    mean_states,
    peak_states,
    write_link_traces,
    write_traces,
)
from testbed.labfile.policy import Notify, make_policy
from testbed.labfile.scenario import collect_profiles, scenario_of
from testbed.labfile.schema import Topology
from testbed.protocol.sockets import socket_path
from testbed.runtime.host.state import state_root
from testbed.traces.trace import Trace

LONGEST_SOCKET_PATH_BYTES = 107


@dataclass(frozen=True)
class Ingredients:
    """What :func:`testbed.lab.create.create` needs. Paths are absolute and in the run directory."""

    topology: Topology
    folder: Path  # the lab file's
    scenario: Scenario
    plan: Plan
    run_id: str
    run_directory: Path
    trace_paths: Mapping[str, Path]  # by UE
    link_trace_paths: Mapping[LinkTraceKind, Mapping[str, Path]]  # ... of those links that have any
    profile_paths: Mapping[str, Path]  # by scenario.profile_key


def new_run_id(topology: Topology) -> str:
    """Sorts by time, says what it was: ``quickstart-lymdo-20260131T120000Z-1f3a``."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{topology.name}-{topology.policy.name}-{stamp}-{secrets.token_hex(2)}"


@dataclass(frozen=True)
class Conditions:
    """What the testbed and the simulator share: what is measured, what the wires replay, what a policy may know."""

    profiles: dict[str, ModelProfile]  # by scenario.profile_key
    traces: dict[str, Trace]  # by UE
    scenario: Scenario


def gather(topology: Topology, where: str, folder: Path, duration_seconds: float | None, notify: Notify) -> Conditions:
    """Read or make profiles and traces. ``folder`` is the lab file's: a user's model is imported from there.

    Raises InputError for a profile, trace or model that does not fit.
    """
    profiles = collect_profiles(topology, where, lambda model: _measured(model, folder, topology.seed, notify))
    traces = make_traces(topology, duration_seconds)
    return Conditions(profiles, traces, scenario_of(topology, profiles, mean_states(topology, traces)))


def prepare(
    topology: Topology,
    where: str,
    folder: Path,
    runtime: RuntimeName,
    run_directory: Path | None,
    duration_seconds: float | None,
    notify: Notify,
) -> Ingredients:
    """Check and write everything. Raises InputError for a profile, trace, model or policy that does not fit.

    Raises HostError for a lab that this host is too slow for.
    """
    checks.require_host(topology, where)
    _check_socket_paths(topology, where)
    sets = checks.cpusets_of(topology)
    conditions = gather(topology, where, folder, duration_seconds, notify)
    link_traces = make_link_traces(topology)
    make_policy(topology, conditions.scenario, where, notify)
    run_id = new_run_id(topology)
    directory = (run_directory or Path("runs") / run_id).absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the run directory cannot be made ({os_error_text(error)})", where="--out") from None
    return Ingredients(
        topology=topology,
        folder=folder.absolute(),
        scenario=conditions.scenario,
        plan=make_plan(topology, runtime, peak_states(conditions.traces), sets),
        run_id=run_id,
        run_directory=directory,
        trace_paths=write_traces(topology, conditions.traces, directory / "traces"),
        link_trace_paths=write_link_traces(link_traces, directory / "traces"),
        profile_paths=write_profiles(conditions.profiles, directory / "profiles"),
    )


def _check_socket_paths(topology: Topology, where: str) -> None:
    """The kernel takes 107 bytes for the path of a UNIX socket, and each node has its own. Raises InputError."""
    for ue in topology.expand():
        path = str(socket_path(state_root() / topology.name, ue.name, "selftest"))
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH_BYTES:
            raise InputError(
                "the names of the lab and of a UE make a path that is too long for a socket",
                where=where,
                value=path,
                allowed=f"{LONGEST_SOCKET_PATH_BYTES} bytes",
                fix="Give the lab (--name) or the UE a shorter name.",
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


def write_profiles(profiles: Mapping[str, ModelProfile], folder: Path) -> dict[str, Path]:
    """The run directory keeps what stages were paced to."""
    folder.mkdir(exist_ok=True)
    paths: dict[str, Path] = {}
    for number, (key, profile) in enumerate(profiles.items()):
        safe = "".join(character if character.isalnum() else "-" for character in profile.model)
        paths[key] = folder / f"{number}-{safe}.json"
        write_profile(profile, paths[key])
    return paths

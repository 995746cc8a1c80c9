"""Everything that a lab needs, checked and written before anything is started: profiles, traces, scenario, plan."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from controller.contract import ModelProfile
from testbed.errors import InputError, os_error_text
from testbed.inference.profiles import write_profile
from testbed.inference.weight_files import Weights
from testbed.inputs.source import Inputs
from testbed.lab import checks
from testbed.lab.lab_weights import weights_by_ue
from testbed.lab.plan import Plan, RuntimeName, make_plan
from testbed.labfile.channels import (
    LinkTraceKind,
    make_link_traces,
    write_link_traces,
    write_traces,
)
from testbed.labfile.policy import Notify, make_policy
from testbed.labfile.resolve import ResolvedLab, resolve
from testbed.labfile.schema import Topology
from testbed.protocol.sockets import socket_path
from testbed.records.manifest import InputFacts
from testbed.runtime.host.state import state_root

LONGEST_SOCKET_PATH_BYTES = 107


@dataclass(frozen=True)
class RunOrder:
    """What the user asked for."""

    topology: Topology
    where: str  # the lab file's name, for errors
    folder: Path  # the lab file's folder
    runtime: RuntimeName
    run_directory: Path | None
    duration_seconds: float | None  # of arrivals; None: until stopped


@dataclass(frozen=True)
class Ingredients:
    """What :func:`testbed.lab.create.create` needs. Paths are absolute and in the run directory."""

    resolved: ResolvedLab
    plan: Plan
    run_id: str
    run_directory: Path
    trace_paths: Mapping[str, Path]  # by UE
    link_trace_paths: Mapping[LinkTraceKind, Mapping[str, Path]]  # ... of those links that have any
    profile_paths: Mapping[str, Path]  # by scenario.profile_key
    weights: Mapping[str, Weights]  # by UE


def new_run_id(topology: Topology) -> str:
    """Sorts by time, says what it was: ``quickstart-lymdo-20260131T120000Z-1f3a``."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{topology.name}-{topology.policy.name}-{stamp}-{secrets.token_hex(2)}"


def prepare(order: RunOrder, notify: Notify) -> Ingredients:
    """Check and write everything. Raises InputError for a profile, trace, model or policy that does not fit.

    Raises HostError for a lab that this host is too slow for.
    """
    topology, where = order.topology, order.where
    checks.require_host(topology, where)
    _check_socket_paths(topology, where)
    sets = checks.cpusets_of(topology)
    resolved = resolve(topology, where, order.folder, order.duration_seconds, notify)
    weights = weights_by_ue(topology, resolved.folder)
    link_traces = make_link_traces(topology)
    make_policy(topology, resolved.scenario, where, notify)
    run_id = new_run_id(topology)
    directory = (order.run_directory or Path("runs") / run_id).absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the run directory cannot be made ({os_error_text(error)})", where="--out") from None
    return Ingredients(
        resolved=resolved,
        plan=make_plan(topology, order.runtime, resolved.peak_states(), sets),
        run_id=run_id,
        run_directory=directory,
        trace_paths=write_traces(topology, resolved.traces, directory / "traces"),
        link_trace_paths=write_link_traces(link_traces, directory / "traces"),
        profile_paths=write_profiles(resolved.profiles, directory / "profiles"),
        weights=weights,
    )


def keep_labels(inputs: Mapping[str, Inputs], directory: Path) -> dict[str, InputFacts]:
    """What the manifest says of inputs, by UE; the run's directory gets their labels. Pixels stay where they are."""
    facts: dict[str, InputFacts] = {}
    for ue, found in inputs.items():
        labels = f"inputs/{Path(found.labels_path).name}" if found.labels_path else ""
        if labels and not (directory / labels).exists():
            (directory / "inputs").mkdir(exist_ok=True)
            shutil.copyfile(found.labels_path, directory / labels)
        facts[ue] = InputFacts(found.kind, found.sha256, found.shape, found.rate_per_second, labels)
    return facts


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


def write_profiles(profiles: Mapping[str, ModelProfile], folder: Path) -> dict[str, Path]:
    """The run directory keeps what stages were paced to."""
    folder.mkdir(exist_ok=True)
    paths: dict[str, Path] = {}
    for number, (key, profile) in enumerate(profiles.items()):
        safe = "".join(character if character.isalnum() else "-" for character in profile.model)
        paths[key] = folder / f"{number}-{safe}.json"
        write_profile(profile, paths[key])
    return paths

"""What a run was: enough to repeat it, and to judge its figures."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from controller.contract import Scenario, UeScenario
from controller.service.protocol import TaskTotals
from testbed.errors import InputError
from testbed.folders import write_whole
from testbed.inference.calibration import Calibration
from testbed.inference.profiles import host_cpu
from testbed.records.run_format import RUN_FORMAT, require_known

#: ``runtime`` of a run that was simulated.
SIMULATOR = "simulator"
PACKAGES = ("torch", "torchvision", "numpy", "pyzmq", "msgspec", "pyarrow", "split-inference-testbed")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class InputFacts(msgspec.Struct, frozen=True):
    """What a UE's tasks are about; a task's record has the index."""

    kind: str  # "images" | "video" | "array"
    sha256: str  # of the raw pixels
    shape: tuple[int, ...]  # (inputs, C, H, W)
    rate_per_second: float  # of a video's frames; 0: it has none
    labels: str  # file in the run's directory (testbed.inputs.labels); empty: there are none


class UeFacts(msgspec.Struct, frozen=True):
    """What the figures of a UE are judged against."""

    uplink_delay_seconds: float
    downlink_delay_seconds: float
    energy_budget_joules: float | None  # per slot; None: no budget
    model: str
    profile_sha256: str
    weights_sha256: str = ""  # of the file of weights; empty: drawn from the seed, or simulated
    input: InputFacts | None = None  # None: random images


class Manifest(msgspec.Struct, frozen=True):
    """``manifest.json``. Written when the run starts; ``ended_utc`` stays null in a run that died."""

    manifest_version: int  # RUN_FORMAT, of the whole directory
    run_id: str
    lab: str
    policy: str
    policy_options: dict[str, Any]
    runtime: str
    runtime_features: dict[str, Any]  # "realtime": whether stages and player ran SCHED_FIFO; decides the limits
    link_backend: str
    seed: int
    slot_seconds: float
    duration_seconds: float | None  # of arrivals; None: until stopped
    ues: dict[str, UeFacts]
    resolved_lab: dict[str, Any]
    trace_sha256: dict[str, str]  # by file under traces/: UE.csv, delay/UE.csv, loss/UE.csv
    versions: dict[str, str]
    kernel: str
    cpu_model: str
    cores: int
    cgroup_version: int
    thread_counts: dict[str, str]
    git_revision: str | None
    command_line: list[str]
    started_utc: str
    host: HostRecord | None = None  # None: written before hosts were calibrated, or simulated
    ended_utc: str | None = None
    ended_monotonic_seconds: float | None = None  # CLOCK_MONOTONIC, as in the records
    expected_tasks: dict[str, int] = {}  # by UE: arrivals of its law in the run's duration, whatever is recorded
    totals: dict[str, TaskTotals] = {}  # by UE: what it told the controller, which is no record
    ended_programs: dict[str, str] = {}  # by node: programs that ended before the run, and how


def describe_run(
    *,
    run_id: str,
    lab: Mapping[str, Any],
    scenario: Scenario,
    seed: int,
    policy: str,
    policy_options: Mapping[str, Any],
    runtime: str,
    runtime_features: Mapping[str, Any],
    link_backend: str,
    duration_seconds: float | None,
    trace_folder: Path,
    command_line: Sequence[str],
    host: HostRecord | None = None,
    expected_tasks: Mapping[str, int] = MappingProxyType({}),
    weights_sha256: Mapping[str, str] = MappingProxyType({}),
    inputs: Mapping[str, InputFacts] = MappingProxyType({}),
) -> Manifest:
    """Collect everything about this run and this host. ``lab`` is the resolved lab file as plain data; mappings are by
    UE."""
    return Manifest(
        manifest_version=RUN_FORMAT,
        run_id=run_id,
        lab=scenario.name,
        policy=policy,
        policy_options=dict(policy_options),
        runtime=runtime,
        runtime_features=dict(runtime_features),
        link_backend=link_backend,
        seed=seed,
        slot_seconds=scenario.slot_seconds,
        duration_seconds=duration_seconds,
        ues={ue.name: _ue_facts(ue, weights_sha256.get(ue.name, ""), inputs.get(ue.name)) for ue in scenario.ues},
        resolved_lab=dict(lab),
        trace_sha256={
            path.relative_to(trace_folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(trace_folder.rglob("*.csv"))
        },
        versions=_versions(),
        kernel=platform.release(),
        cpu_model=host_cpu(),
        cores=os.cpu_count() or 1,
        cgroup_version=2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1,
        thread_counts={name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        git_revision=_git_revision(),
        command_line=list(command_line),
        started_utc=_now(),
        host=host,
        expected_tasks=dict(expected_tasks),
    )


def _ue_facts(ue: UeScenario, weights_sha256: str, inputs: InputFacts | None) -> UeFacts:
    return UeFacts(
        uplink_delay_seconds=ue.uplink_delay_seconds,
        downlink_delay_seconds=ue.downlink_delay_seconds,
        energy_budget_joules=None if ue.energy_budget_joules == float("inf") else ue.energy_budget_joules,
        model=ue.profile.model,
        profile_sha256=hashlib.sha256(msgspec.json.encode(ue.profile)).hexdigest(),
        weights_sha256=weights_sha256,
        input=inputs,
    )


def require_unused(run_directory: Path) -> None:
    """Raises InputError for a directory that holds a run, or what is left of one: a second would be mixed into it."""
    for pattern in ("manifest.json", "summary.json", "streams/*.arrows", "*.parquet"):
        found = next(run_directory.glob(pattern), None)
        if found is not None:
            raise InputError(
                "there is a run already",
                where="--out",
                value=str(run_directory),
                allowed=f"a directory without one ({found.name} is in this one)",
                fix="Name another directory.",
            )


def write_manifest(manifest: Manifest, run_directory: Path) -> None:
    run_directory.mkdir(parents=True, exist_ok=True)
    content = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    write_whole(run_directory / "manifest.json", content)


def close_manifest(run_directory: Path, totals: Mapping[str, TaskTotals] = MappingProxyType({})) -> Manifest:
    """Stamp the end of a run that came to its end. ``totals``: of tasks by UE, as the controller was told."""
    manifest = msgspec.structs.replace(
        read_manifest(run_directory),
        ended_utc=_now(),
        ended_monotonic_seconds=time.monotonic(),
        totals=dict(totals),
    )
    write_manifest(manifest, run_directory)
    return manifest


def note_end(run_directory: Path, node: str, text: str) -> None:
    """Say in the manifest that a program ended before its run. Raises OSError when it cannot be written."""
    manifest = read_manifest(run_directory)
    ended = {**manifest.ended_programs, node: text}
    write_manifest(msgspec.structs.replace(manifest, ended_programs=ended), run_directory)


def read_manifest(run_directory: Path) -> Manifest:
    """Raises InputError for a directory that holds no run, or one that another version of the testbed wrote."""
    require_known(run_directory)
    path = run_directory / "manifest.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except PermissionError as error:
        raise InputError(f"the run cannot be read ({error.strerror})", where=str(path)) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            "this is not a run directory",
            where=str(run_directory),
            allowed="a directory that `testbed run` made (it holds manifest.json)",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the manifest cannot be read: {error}", where=str(path)) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache  # of a process: the code that it has imported does not change
def _git_revision() -> str | None:
    """Revision of the source tree that runs, with ``+changes`` if it differs from it; None outside a git tree."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision.stdout.strip() + ("+changes" if status.stdout.strip() else "")


class HostRecord(msgspec.Struct, frozen=True):
    """What a run's manifest says of the host that carried it."""

    calibration: Calibration | Literal["not_measured"]
    calibration_reason: str  # why it was not measured; empty if it was
    load_ratio: float  # host_load
    tightest: list[str]  # the stages with least to spare, worst first; empty if unknown
    cpusets: Mapping[str, str]  # "ue", "edge", "steering": cores as the kernel writes them; empty: all of them
    cpusets_reason: str  # why cores are shared; empty if they are not

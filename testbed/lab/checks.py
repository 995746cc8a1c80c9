"""What is checked about a lab beyond its own file: models that exist, a host that can carry it.

A stage of a UE is computed on this host and then held until its target. What the host needs for it is the profile's
time, times the part of a core that the profile calls speed 1.0, times how much slower this host is than the profiled
one. That last factor comes, in this order, from: this host's calibration, where it timed the very model; the
calibration kernel, where both hosts have timed it; 1, where the processor is the same. Otherwise nothing is claimed.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from controller.contract import ModelProfile, cut_label
from testbed.errors import HostError, InputError
from testbed.inference.calibration import KERNEL_VERSION, Calibration, calibration_of
from testbed.inference.profiles import REFERENCE_CORE_FRACTION, profile_cache_path, read_profile, with_device
from testbed.inference.published_weights import weights_of
from testbed.inference.vouching import Voucher
from testbed.labfile.scenario import profile_for
from testbed.labfile.schema import ExpandedUe, Topology
from testbed.records.manifest import HostRecord
from testbed.report.fidelity.limits import JUDGED_STAGE_SECONDS
from testbed.runtime.host import cpusets
from testbed.runtime.host.cpusets import Cpusets
from testbed.runtime.host.facts import facts
from testbed.runtime.host.realtime import unlimited
from testbed.wires.capabilities import probe
from testbed.wires.vde import emulated_delay_seconds

#: Above this part of what the host makes, stages overrun.
HOST_LOAD_LIMIT = 0.9
#: A host is too slow for a stage when this times its 99th percentile exceeds the target.
SAFETY = 1.25


def check_models(topology: Topology, where: str, folder: Path, *, traced: bool = False) -> None:
    """Every model can be made. Raises InputError. Imports torch unless a profile vouches for the model.

    ``traced``: and cut, and is what its profile describes, as a lab that comes up will find. That imports torch only
    for a model of which this host has not seen just this content before.
    """
    checked: set[tuple[str | None, ...]] = set()
    for ue in topology.expand():
        kind, colon, name = ue.model.partition(":")
        if not colon or not name or not kind:
            raise InputError(
                f"the model of {ue.name!r} is not understood",
                where=f"{where}: model",
                value=ue.model,
                allowed="'torchvision:NAME' or 'package.module:factory'",
            )
        key = (ue.model, ue.weights, ue.profile, ue.device)
        if key in checked:
            continue
        checked.add(key)
        try:
            if traced:
                _check_traced(topology, ue, where, folder)
            elif ue.profile is None:
                from testbed.inference.models import check_model

                check_model(ue.model, folder)
        except InputError as error:
            at = where if error.where in ("", where) else f"{where}: {error.where}"
            raise InputError(error.what, where=at, value=error.value, allowed=error.allowed, fix=error.fix) from None


def _check_traced(topology: Topology, ue: ExpandedUe, where: str, folder: Path) -> None:
    profile = reference_profile(ue) if ue.profile is None else profile_for(ue, ue.profile, where)
    if profile is not None and ue.device is not None:
        with_device(profile, profile_for(ue, ue.device, where))
    moves = topology.uploading is not None or topology.retraining is not None
    weights = weights_of(ue.model, ue.weights, folder)
    asked = ("weights move" if moves else "", weights.sha256, "fed" if ue.input is not None else "")
    voucher = Voucher(ue.model, folder, profile, " ".join(filter(None, asked)))
    if voucher.known:
        return
    from testbed.inference.partition import load_split_model

    split = load_split_model(ue.model, topology.seed, (folder,), weights)
    if ue.input is not None and not split.model.signature.takes_frames:
        raise InputError(
            f"the model of {ue.name!r} takes no images",
            where="input",
            value=ue.model,
            allowed="a model of one uint8 image; any other gets inputs drawn from the seed",
            fix="Remove the key 'input'.",
        )
    if moves and split.model.packed:
        raise InputError(
            f"the weights of {split.model.packed!r} are packed by a quantised layer and cannot be sent or retrained",
            where="model",
            value=ue.model,
            allowed="layers with plain parameters, where 'uploading' or 'retraining' is set",
        )
    if profile is not None:
        try:
            split.check_profile(profile, ue.profile or str(profile_cache_path(ue.model)))
        except InputError:
            if ue.profile is not None:
                raise
            profile_cache_path(ue.model).unlink(missing_ok=True)  # of another model by that name: it is measured anew
            return
    voucher.remember()


# ----------------------------------------------------------------------------------------------------- speed of stages


@dataclass(frozen=True)
class HostScale:
    """A profile's times on this host: ``factor`` x what they were on the profiled one."""

    factor: float
    p99_over_p50: float
    source: Literal["model", "kernel"]


def host_scale(profile: ModelProfile, calibration: Calibration | None) -> HostScale | None:
    """How this host compares with the profiled one; None if nobody has measured that."""
    if calibration is None:
        return None
    core = profile.reference_core
    model = calibration.models.get(profile.model)
    if model is not None:
        return HostScale(model.p50_seconds / (profile.head_seconds[-1] * core.fraction), model.p99_over_p50, "model")
    kernel = calibration.kernel
    if core.kernel_seconds is not None and core.kernel_version == calibration.kernel_version == KERNEL_VERSION:
        return HostScale(kernel.p50_seconds / core.kernel_seconds, kernel.p99_over_p50, "kernel")
    if core.host_cpu == calibration.cpu:
        return HostScale(1.0, kernel.p99_over_p50, "kernel")
    return None


@dataclass(frozen=True)
class TightStage:
    """The stage of a UE (or of the edge, at all its cpus) for which this host has least to spare."""

    ue: str
    stage: Literal["head", "tail"]
    cut: str
    target_seconds: float
    host_p99_seconds: float
    speed: float
    source: Literal["model", "kernel"]

    @property
    def too_slow(self) -> bool:
        return SAFETY * self.host_p99_seconds > self.target_seconds

    @property
    def possible_speed(self) -> float:
        """At which the stage would just fit."""
        return self.speed * self.target_seconds / (SAFETY * self.host_p99_seconds)

    def __str__(self) -> str:
        whose = f"UE {self.ue!r}" if self.stage == "head" else f"The edge, for {self.ue!r} alone"
        return (
            f"{whose}: {self.stage} at cut {self.cut!r} has {self.target_seconds * 1e3:.3g} ms at speed "
            f"{self.speed:g}, and this host's p99 is {self.host_p99_seconds * 1e3:.3g} ms ({SAFETY} x that must fit; "
            f"from the calibrated {self.source})"
        )


def reference_profile(ue: ExpandedUe) -> ModelProfile | None:
    """What the UE's model takes on the reference core; None until this host has profiled it. Raises InputError."""
    path = profile_cache_path(ue.model) if ue.profile is None else Path(ue.profile)
    return _read(path) if ue.profile is not None or path.is_file() else None


def _read(path: Path) -> ModelProfile:
    """Fifty UEs mostly share one file. Raises InputError."""
    return _read_as_of(path, path.stat().st_mtime_ns) if path.is_file() else read_profile(path)


@functools.lru_cache(maxsize=32)
def _read_as_of(path: Path, _modified_ns: int) -> ModelProfile:
    return read_profile(path)


def tight_stages(topology: Topology, calibration: Calibration | None) -> list[TightStage]:
    """The tightest stage of each UE and of its tails, where that is known. Raises InputError for a broken profile."""
    found = []
    for ue in topology.expand():
        profile = reference_profile(ue)
        scale = None if profile is None else host_scale(profile, calibration)
        if profile is None or scale is None:
            continue
        device = profile if ue.device is None else _read(Path(ue.device))
        found += _tightest(ue, "head", profile, device.head_seconds, profile.head_seconds, ue.spec.speed, scale)
        if topology.edge.gpu == "off":
            tails = profile.tail_seconds
            found += _tightest(ue, "tail", profile, tails, tails, topology.edge.cpus, scale)
    return found


def _tightest(
    ue: ExpandedUe,
    stage: Literal["head", "tail"],
    profile: ModelProfile,
    wanted: tuple[float, ...],
    computed: tuple[float, ...],
    speed: float,
    scale: HostScale,
) -> list[TightStage]:
    host = profile.reference_core.fraction * scale.factor * scale.p99_over_p50
    stages = [
        TightStage(ue.name, stage, cut_label(cut), target / speed, seconds * host, speed, scale.source)
        for cut, target, seconds in zip(profile.chain_cuts, wanted, computed, strict=True)
        if target / speed >= JUDGED_STAGE_SECONDS
    ]
    return [min(stages, key=lambda one: one.target_seconds / one.host_p99_seconds)] if stages else []


def busy_reference_cores(ue: ExpandedUe) -> float:
    """Speed of the core that a UE keeps busy at its maximum speed: less than that where a device is slower than it."""
    return ue.spec.speed * _device_ratio(ue, reference_profile(ue))


def require_host(topology: Topology, where: str) -> None:
    """Raises HostError when this host, as it was calibrated, is too slow for a UE at its maximum speed.

    Tails are not refused: their shares are a policy's, and rarely all of the edge for one UE.
    """
    calibration, _ = calibration_of(facts().cpu)
    slow = [stage for stage in tight_stages(topology, calibration) if stage.stage == "head" and stage.too_slow]
    if slow:
        worst = min(slow, key=lambda stage: stage.possible_speed / stage.speed)
        raise HostError(
            f"{where}: this host is too slow for the lab. {worst}",
            fix=f"Lower that UE's 'speed' to {math.floor(worst.possible_speed * 100) / 100:g} or less, take a faster "
            f"host, or, if it was busy when it was measured, calibrate again (testbed doctor --calibrate {where}).",
        )


# -------------------------------------------------------------------------------------------------------- sum of speeds


def host_load(topology: Topology, calibration: Calibration | None) -> float:
    """What UEs at their maximum speed and an edge at all its cpus ask of this host's cores, as a part of them.

    A profile that nothing relates to this host counts as if it had been measured here.
    """
    asked: list[float] = []
    edge = REFERENCE_CORE_FRACTION
    for ue in topology.expand():
        profile = reference_profile(ue)
        scale = None if profile is None else host_scale(profile, calibration)
        core = REFERENCE_CORE_FRACTION if profile is None else profile.reference_core.fraction
        core *= 1.0 if scale is None else scale.factor
        edge = max(edge, core) if asked else core
        asked.append(ue.spec.speed * core * _device_ratio(ue, profile))
    return (topology.edge.cpus * edge + math.fsum(asked)) / facts().cores


def _device_ratio(ue: ExpandedUe, profile: ModelProfile | None) -> float:
    """Reference cores that a UE keeps busy at speed 1: less than one where the device is slower than the core."""
    if ue.device is None or profile is None:
        return 1.0
    device = _read(Path(ue.device))
    pairs = zip(profile.head_seconds, device.head_seconds, strict=True)
    return max((own / its for own, its in pairs if its >= JUDGED_STAGE_SECONDS), default=1.0)


def warnings(topology: Topology) -> list[str]:
    """What will probably make a run invalid on this host, or an energy budget pointless."""
    found: list[str] = []
    load = host_load(topology, calibration_of(facts().cpu)[0])
    if load > HOST_LOAD_LIMIT:
        found.append(
            f"edge cpus plus the UEs' speeds ask for {load:.0%} of what this host's {facts().cores:.3g} cores make; "
            f"above {HOST_LOAD_LIMIT:.0%} stages overrun and runs become invalid. "
            f"Lower 'edge.cpus', 'speed' or 'count', or take a larger host."
        )
    for ue in topology.ues:
        mean_rate = _mean_rate(ue.arrivals.rate, ue.arrivals.rates)
        if mean_rate is not None and mean_rate * topology.slot < 1:
            found.append(
                f"UE {ue.name!r} has {mean_rate * topology.slot:.2g} arrivals per slot; a policy that plans by slot "
                f"steady state (LyMDO) wants several"
            )
        if not ue.link.jitter and (delay := _delay_here(ue.link.delay)) != ue.link.delay:
            found.append(
                f"the link of {ue.name!r} asks for {ue.link.delay * 1e3:g} ms and gets {delay * 1e3:g} ms: this host's "
                f"kernel has no netem, and the vde wire counts whole milliseconds"
            )
    return found


def _delay_here(delay_seconds: float) -> float:
    """What a wire on this host makes of a delay. Nothing is tried where every kind of wire has it exactly."""
    if math.isclose(rounded := emulated_delay_seconds(delay_seconds), delay_seconds):
        return delay_seconds
    try:
        return rounded if probe().delayer == "vde" else delay_seconds
    except HostError:  # says so itself when wires are made
        return delay_seconds


def host_warnings(topology: Topology) -> list[str]:
    """For verbs that start nothing: what `run` would refuse, where it might overrun, what could harm this host."""
    calibration, _ = calibration_of(facts().cpu)
    first = {group.name if group.count == 1 else f"{group.name}1" for group in topology.ues}  # the others are equal
    found = [
        f"`run` refuses this on this host. {stage}" if stage.stage == "head" else f"tails may overrun. {stage}"
        for stage in tight_stages(topology, calibration)
        if stage.too_slow and stage.ue in first
    ]
    for ue in topology.expand():
        profile = reference_profile(ue)
        if calibration is not None and profile is not None and host_scale(profile, calibration) is None:
            found.append(
                f"the profile of {ue.name!r} comes from {profile.reference_core.host_cpu}, and nothing relates that to "
                f"this host: run `testbed doctor --calibrate FILE` with this lab"
            )
            break
    if facts().realtime and (note := unlimited()):
        found.append(note)
    return found


def _mean_rate(rate: float | None, rates: tuple[float, float] | None) -> float | None:
    if rates is not None:
        return math.fsum(rates) / len(rates)
    return rate


# --------------------------------------------------------------------------------------------------------- the manifest


def host_record(topology: Topology) -> HostRecord:
    """For the manifest. Measures nothing: a calibration takes a quiet host and ten seconds, and a run has neither."""
    calibration, reason = calibration_of(facts().cpu)
    stages = sorted(
        tight_stages(topology, calibration), key=lambda stage: stage.target_seconds / stage.host_p99_seconds
    )
    sets = cpusets_of(topology)
    return HostRecord(
        calibration="not_measured" if calibration is None else calibration,
        calibration_reason=reason,
        load_ratio=host_load(topology, calibration),
        tightest=[str(stage) for stage in stages[:3]],
        cpusets={"ue": sets.ues, "edge": sets.edge, "steering": sets.steering},
        cpusets_reason=sets.shared_because,
    )


def cpusets_of(topology: Topology) -> Cpusets:
    """How this lab divides this host's cores. Raises HostError where it asks for what cannot be."""
    host = facts()
    mode = topology.host.cpusets
    try:
        sets = cpusets.assign(mode, host.cpus[: max(1, int(host.cores))], host.cpusets)
    except ValueError as error:
        raise HostError(str(error), fix="Write host: {cpusets: auto}.") from None
    if mode == "split" and not sets.ues:
        raise HostError(
            "the lab asks for host: {cpusets: split}",
            missing="a cpuset controller that we may use",
            fix="Run as root, or write cpusets: auto.",
        )
    return sets

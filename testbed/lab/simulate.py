"""A lab in the simulator: the same file, profiles, traces, arrivals and policy as a run, and the same run directory."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from controller.contract import STAGES, Policy
from controller.policies.registry import create
from controller.simulator.channels import ChannelStates
from controller.simulator.result import Mode, SimulationResult
from controller.simulator.simulate import simulate
from testbed.errors import InputError, TestbedError
from testbed.lab.prepare import keep_labels, new_run_id, write_profiles
from testbed.lab.simulated_tables import Watched, tables_of
from testbed.labfile.channels import write_traces
from testbed.labfile.policy import Notify, make_policy
from testbed.labfile.resolve import ResolvedLab, resolve
from testbed.labfile.scenario import arrivals_of
from testbed.labfile.schema import Topology
from testbed.records.manifest import SIMULATOR, Manifest, close_manifest, describe_run, require_unused, write_manifest
from testbed.records.tables import write_tables
from testbed.report.conclude import conclude
from testbed.report.fidelity.fidelity import assess, write_fidelity
from testbed.report.fidelity.limits import DRAIN_SECONDS
from testbed.report.fidelity.task_figures import ends_of
from testbed.report.summary import Delay, Summary, TaskCounts, missing_of, summarise, write_summary
from testbed.traces.trace import Trace

#: Channel states are sampled no finer than this: the steps of a trace that is not a grid.
FINEST_STEP_SECONDS = 0.01
#: Of a simulation: slots x UEs, tasks, and channel states. More would not fit the memory of a laptop.
MAX_UE_SLOTS = 5_000_000
MAX_TASKS = 10_000_000
MAX_STATES = 50_000_000


@dataclass(frozen=True)
class SimulationOrder:
    """What the user asked for."""

    topology: Topology
    where: str  # the lab file's name, for errors
    folder: Path  # the lab file's folder
    run_directory: Path | None
    slots: int
    mode: Mode
    policy: Policy | None = None  # instead of making the one that the lab names
    report: bool = True  # whether report.html is written: drawing it takes longer than most simulations


def simulate_lab(order: SimulationOrder, notify: Notify) -> Summary:
    """Simulate and write the run directory.

    Raises InputError for what does not fit (nothing is written), TestbedError for a decision that is refused.
    """
    topology = order.topology
    if order.run_directory is not None:
        require_unused(order.run_directory)
    duration = order.slots * topology.slot
    require_bounded(topology, order.slots)
    resolved = resolve(topology, order.where, order.folder, duration, notify)
    scenario = resolved.scenario
    if order.policy is None:
        make_policy(topology, scenario, order.where, notify)
    run_id = f"{new_run_id(topology)}-sim"
    directory = (order.run_directory or Path("runs") / run_id).absolute()
    for text in not_simulated(topology):
        notify(f"not simulated: {text}")
    policy = Watched(order.policy or create(topology.policy.name, topology.policy.options))
    notify(f"simulating {order.slots} slots ({duration:g} s)")
    directory.mkdir(parents=True, exist_ok=True)
    write_traces(topology, resolved.traces, directory / "traces")
    manifest = _manifest(order, resolved, run_id, directory)
    write_profiles(resolved.profiles, directory / "profiles")
    write_manifest(manifest, directory)
    try:
        result = simulate(
            scenario,
            policy,
            order.slots,
            topology.seed,
            order.mode,
            channel_states(topology, resolved.traces, duration + DRAIN_SECONDS),
            policy_name=topology.policy.name,
            arrival_files=resolved.arrival_times(),
            task_timeout_seconds=topology.task_timeout,
            drain_seconds=DRAIN_SECONDS,
        )
    except ValueError as error:
        raise TestbedError(f"the simulation of {topology.name} with {topology.policy.name} ended: {error}") from error
    if result.notices:
        first = result.notices[0][1]
        notify(f"{first.kind} in {len(result.notices)} of {order.slots} slots, the first: {first.text}")
    write_tables(tables_of(result, policy, resolved.inputs), directory)
    manifest = close_manifest(directory)
    if order.mode == "event":
        return conclude(directory, report=order.report)
    return _conclude_slots(result, policy, manifest, directory)


def _manifest(order: SimulationOrder, resolved: ResolvedLab, run_id: str, directory: Path) -> Manifest:
    topology = order.topology
    return describe_run(
        run_id=run_id,
        lab=topology.normalised(),
        scenario=resolved.scenario,
        seed=topology.seed,
        policy=topology.policy.name,
        policy_options=topology.policy.options,
        runtime=SIMULATOR,
        runtime_features={"mode": order.mode},
        link_backend="none",
        duration_seconds=order.slots * topology.slot,
        trace_folder=directory / "traces",
        command_line=sys.argv,
        inputs=keep_labels(resolved.inputs, directory),
    )


def require_bounded(topology: Topology, slots: int) -> None:
    """Raises InputError for a simulation that memory would not hold."""
    ues = topology.expand()
    tasks = slots * topology.slot * sum(arrivals_of(ue)[0].mean_rate_per_second for ue in ues)
    for what, asked, most in (("slots x UEs", slots * len(ues), MAX_UE_SLOTS), ("tasks", tasks, MAX_TASKS)):
        if asked > most:
            raise InputError(
                f"the simulation has too many {what}",
                where="--slots",
                value=f"{slots} slots: {asked:.3g} {what}",
                allowed=f"{most} {what}",
                fix="Simulate fewer slots, UEs or tasks.",
            )


def channel_states(topology: Topology, traces: Mapping[str, Trace], duration_seconds: float) -> ChannelStates:
    """The traces on the coarsest grid that holds all their steps, as the wires would replay them for the duration."""
    ues = topology.expand()
    # a loop of one step never steps
    stepping = [traces[ue.name] for ue in ues if len(traces[ue.name]) > 1 or ue.spec.channel.at_end == "clear"]
    gaps = [np.diff(trace.times_seconds, append=trace.duration_seconds) for trace in stepping] or [np.ones(1)]
    grain = int(np.gcd.reduce(np.maximum(np.rint(np.concatenate(gaps) * 1e3).astype(np.int64), 1)))
    step = max(grain * 1e-3, FINEST_STEP_SECONDS)
    if duration_seconds / step * len(ues) > MAX_STATES:
        raise InputError(
            "the channels have too many steps for this duration",
            where="--slots",
            value=f"{duration_seconds:g} s in steps of {step:g} s, {len(ues)} UEs",
            allowed=f"{MAX_STATES} steps x UEs",
            fix="Simulate fewer slots, or give the traces steps that are multiples of a longer one.",
        )
    times = np.arange(max(1, int(np.ceil(duration_seconds / step - 1e-9)))) * step
    up, down = np.empty((2, times.size, len(ues)))
    for column, ue in enumerate(ues):
        up[:, column], down[:, column] = traces[ue.name].sampled(times + 1e-9, ue.spec.channel.at_end)
    return ChannelStates(step, up, down)


def not_simulated(topology: Topology) -> list[str]:
    """What a lab asks of its wires that the simulator has no model of."""
    keys = ("jitter", "loss", "gilbert_elliott", "duplicate", "corrupt", "reorder", "delay_trace", "loss_trace")
    found = {key for ue in topology.ues for key in keys if getattr(ue.link, key)}
    if any(ue.link.outage == "loss" for ue in topology.ues):
        found.add("outage: loss (packets are held instead)")
    return sorted(found)


def _conclude_slots(result: SimulationResult, policy: Watched, manifest: Manifest, directory: Path) -> Summary:
    """The summary of slot mode: the formula's means over UEs and slots that are not overloaded; it has no tasks."""
    tables = tables_of(result, policy)
    fidelity = assess(tables, manifest)
    ends = ends_of(tables, manifest)
    stable = np.isfinite(result.delay_seconds)
    delays, stages = result.delay_seconds[stable], result.stage_seconds[stable]
    p50, p95, p99 = (float(np.quantile(delays, q)) if delays.size else None for q in (0.5, 0.95, 0.99))
    summary = msgspec.structs.replace(
        summarise(tables, manifest, fidelity, directory),
        tasks=TaskCounts(ends.arrived, ends.completed, 0, ends.in_flight),
        **missing_of(ends.arrived, ends.completed),
        e2e_delay_seconds=Delay(float(delays.mean()) if delays.size else None, p50, p95, p99),
        stages_seconds={
            name: float(stages[:, index].mean()) if delays.size else None for index, name in enumerate(STAGES)
        },
        cuts=result.cut_shares(),
    )
    write_fidelity(fidelity, directory)
    write_summary(summary, directory)
    return summary

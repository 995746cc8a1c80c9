"""Topology -> Plan: what a lab is made of, in the order in which it is brought up. Pure: golden tests compare it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from controller.model.radio import shannon_bits_per_second
from controller.seeds import Purpose, integer
from testbed.inference.profiles import REFERENCE_CORE_FRACTION
from testbed.labfile.channels import subchannel_ratios_of
from testbed.labfile.schema import ExpandedUe, Topology
from testbed.labfile.schema_links import LinkSpec
from testbed.runtime.base import NodeSpec, Role
from testbed.runtime.host.cpusets import SHARED, Cpusets
from testbed.runtime.programs import PROGRAMS
from testbed.wires.impairment import GilbertElliott, Impairment
from testbed.wires.wire import WireSpec

RuntimeName = Literal["netns", "docker"]

#: SCHED_FIFO priorities: the trace player goes before any stage.
PLAYER_PRIORITY = 10
STAGE_PRIORITY = 5
#: The node through which all wires go.
RADIO = "radio"
READY_SECONDS = 60.0
#: Of a node's processes, where the lab file says nothing: a model that grows without end must not take the host along.
#: The largest model of torchvision (VGG-19: 0.6 GB of weights) leaves half of a UE's free.
UE_MEMORY_BYTES = 2 << 30
EDGE_MEMORY_BYTES = 4 << 30
#: Fading power that one draw in 20 000 exceeds: where gains are drawn per stage, the trace has their mean only.
STAGE_PEAK = 10.0


@dataclass(frozen=True)
class Program:
    """One program of ours in one node."""

    node: str
    role: Role
    module: str
    needs_torch: bool


@dataclass(frozen=True)
class Realtime:
    """Nodes whose threads, as named in their Hello, become SCHED_FIFO, from outside, by thread id."""

    nodes: tuple[str, ...]
    priority: int


@dataclass(frozen=True)
class Plan:
    """A lab as it is brought up, in the order of the fields."""

    lab: str
    runtime: RuntimeName
    nodes: tuple[NodeSpec, ...]  # places to live: namespaces and cgroups, or containers
    wires: tuple[WireSpec, ...]  # veth pairs through the radio node's namespace, shaped at its egresses
    programs: tuple[Program, ...]
    ready: tuple[str, ...]  # nodes that have to say Hello to the controller, within READY_SECONDS
    realtime: tuple[Realtime, ...]

    def actions(self) -> list[dict[str, Any]]:
        """What is done, in order, as plain data: ``{"action": NAME, ...}`` each."""
        plain = dataclasses.asdict(self)
        return [
            {"action": "CreateNodes", "nodes": plain["nodes"]},
            {"action": "CreateWires", "radio": RADIO, "wires": plain["wires"]},
            {"action": "StartPrograms", "programs": plain["programs"]},
            {"action": "AwaitReady", "nodes": plain["ready"], "timeout_seconds": READY_SECONDS},
            *({"action": "MakeRealtime", **group} for group in plain["realtime"]),
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain data: ``{"lab", "runtime", "actions": [{"action": NAME, ...}]}``."""
        return {"lab": self.lab, "runtime": self.runtime, "actions": self.actions()}


def cap_host_cores(reference_cores: float) -> float:
    """The cgroup's cap: above what pacing uses, since a tighter one causes overruns (1.5 x was measured)."""
    return max(2 * reference_cores, reference_cores + 0.2) * REFERENCE_CORE_FRACTION


def impairment_of(link: LinkSpec) -> Impairment:
    """What a link does to packets in each direction besides its rate."""
    bursts = link.gilbert_elliott
    return Impairment(
        delay_seconds=link.delay,
        jitter_seconds=link.jitter,
        loss_ratio=link.loss,
        distribution=link.distribution,
        bursts=None if bursts is None else GilbertElliott(bursts.p, bursts.r, bursts.bad, bursts.good),
        duplicate_ratio=link.duplicate,
        corrupt_ratio=link.corrupt,
        reorder_ratio=link.reorder,
    )


def wire_of(topology: Topology, ue: ExpandedUe, peak_state: float) -> WireSpec:
    """The wire of a UE. ``peak_state``: the best channel state of its trace (with all spectrum: the peak rate)."""
    link, radio = ue.spec.link, topology.radio
    if ue.spec.channel.refresh == "per_task_stage":
        peak_state *= STAGE_PEAK
    if ue.spec.channel.kind == "rate":
        peak_up = peak_down = peak_state
    else:
        noise, parts = radio.noise, radio.subchannels
        up, down = (max(ratios, default=1.0) for ratios in subchannel_ratios_of(topology, ue))
        # on one subchannel with all power, as if the others were as good
        peak_up = parts * float(shannon_bits_per_second(radio.uplink / parts, ue.spec.power * peak_state * up, noise))
        peak_down = parts * float(
            shannon_bits_per_second(radio.downlink / parts, radio.downlink_power * peak_state * down, noise)
        )
    impairment = impairment_of(link)
    count = math.ceil(sum(group.count for group in topology.ues) / radio.access_points)  # that share a spectrum
    return WireSpec(
        index=ue.index,
        ue=ue.name,
        # until the player's first step, moments later
        rate_up_bits_per_second=round(peak_up / count),
        rate_down_bits_per_second=round(peak_down / count),
        up=impairment,
        down=impairment,
        changing=link.delay_trace is not None or link.loss_trace is not None,
        # with twice the fair share of the spectrum: more is rare, and costs accuracy only
        max_rate_bits_per_second=round(max(peak_up, peak_down) * min(1.0, 2 / count)),
        congestion_control=link.congestion_control,
        seed=integer(topology.seed, Purpose.LINK, ue.index),
    )


class _Memory(TypedDict):
    memory_bytes: int
    memory_by_default: bool


def _memory(asked_bytes: float, default_bytes: int) -> _Memory:
    return {"memory_bytes": int(asked_bytes) or default_bytes, "memory_by_default": not asked_bytes}


def make_plan(
    topology: Topology, runtime: RuntimeName, peak_states: Mapping[str, float], cpusets: Cpusets = SHARED
) -> Plan:
    """What ``up`` does for this lab, in order. ``peak_states``: the best channel state of each UE's trace."""
    ues = topology.expand()
    nodes = [
        NodeSpec(name=RADIO, role="radio"),
        NodeSpec(
            name="edge",
            role="edge",
            cpus=topology.edge.cpus,
            quota_host_cores=cap_host_cores(topology.edge.cpus),
            **_memory(topology.edge.memory, EDGE_MEMORY_BYTES),
        ),
        *(
            NodeSpec(
                name=ue.name,
                role="ue",
                cpus=ue.spec.speed,
                quota_host_cores=cap_host_cores(ue.spec.speed),
                **_memory(ue.spec.memory, UE_MEMORY_BYTES),
            )
            for ue in ues
        ),
        NodeSpec(name="controller", role="controller", network=False),
        NodeSpec(name="player", role="player", network=False),
        NodeSpec(name="recorder", role="recorder", network=False),
    ]
    steering: tuple[Role, ...] = ("recorder", "controller", "player", "edge")
    programs = (
        *(Program(role, role, *PROGRAMS[role]) for role in steering),
        *(Program(ue.name, "ue", *PROGRAMS["ue"]) for ue in ues),
    )
    stages = ("edge", *(ue.name for ue in ues))
    return Plan(
        lab=topology.name,
        runtime=runtime,
        nodes=tuple(dataclasses.replace(node, cpu_list=cpusets.of(node.role)) for node in nodes),
        wires=tuple(wire_of(topology, ue, peak_states[ue.name]) for ue in ues),
        programs=programs,
        ready=("player", *stages),
        realtime=(Realtime(("player",), PLAYER_PRIORITY), Realtime(stages, STAGE_PRIORITY)),
    )

"""A query whose model travels with it: where its nodes run, what goes up for them, and what each costs.

Sites are per node of the traced graph. Nodes run in the graph's order on each side; a value crosses once per direction,
as one message; so do the parameters of a node.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.contract import ALL_ON_DEVICE, ModelProfile, Scenario, UeDecision
from controller.model.cut_times import NodeWork
from controller.model.cuts import device_set
from controller.model.delay import wire_bits

Floats = NDArray[np.float64]

#: Number of the raw input among the sources of a node.
INPUT = -1


def edge_nodes(profile: ModelProfile, choice: UeDecision) -> frozenset[str]:
    """The nodes that a decision puts on the edge: by its plan, or without any by its cut."""
    if choice.uploading is not None:
        return frozenset(choice.uploading.edge_nodes)
    on_device = device_set(profile.nodes, choice.cut)
    return frozenset(node.name for node in profile.nodes[1:] if node.name not in on_device)


def is_serial(choice: UeDecision) -> bool:
    """Whether parameters wait for their node's turn."""
    return choice.uploading is not None and choice.uploading.serial


def uploads_of(profile: ModelProfile, choice: UeDecision) -> tuple[str, ...]:
    """The nodes whose parameters the edge must have, in the order in which they go up.

    Those that the decision names come first; what the edge runs and is not named follows in the graph's order, and what
    the edge does not run stays.
    """
    there = edge_nodes(profile, choice)
    loaded = [node.name for node in profile.nodes if node.parameter_bytes and node.name in there]
    named = [name for name in choice.uploading.uploads if name in there] if choice.uploading is not None else []
    return (*named, *(name for name in loaded if name not in set(named)))


@dataclass(frozen=True)
class UploadWork:
    """One UE's query by node, without the raw input; arrays are (nodes,), bits are layer 2.

    Stage times are sums over nodes, on the reference core; the codec is fp32, which costs nothing.
    """

    names: tuple[str, ...]
    inputs: tuple[tuple[int, ...], ...]  # numbers of nodes; INPUT is the raw input
    device_seconds: Floats
    edge_seconds: Floats
    output_bits: Floats  # the last is the answer
    parameter_bits: Floats
    parameter_bytes: NDArray[np.int64]
    input_bits: float
    block_ends: tuple[int, ...]  # nodes whose value alone is what follows needs, and the last node
    up_delay_seconds: float
    down_delay_seconds: float

    @classmethod
    def of(cls, scenario: Scenario, ue_index: int) -> UploadWork:
        """Raises ValueError for a boundary codec other than fp32."""
        ue = scenario.ues[ue_index]
        if ue.boundary_codec != "fp32":
            raise ValueError(f"{ue.name}: values of an uploading lab travel as fp32, not {ue.boundary_codec}")
        profile = ue.profile
        nodes = profile.nodes[1:]
        work = NodeWork.of(profile, ue.input_codec, "fp32")
        place = {profile.nodes[0].name: INPUT, **{node.name: number for number, node in enumerate(nodes)}}
        output = np.array([*(node.output_bytes for node in nodes[:-1]), profile.result_bytes])
        parameters = np.array([node.parameter_bytes for node in nodes], dtype=np.int64)
        ends = [place[cut[0]] for cut in profile.chain_cuts[1:] if cut != ALL_ON_DEVICE]
        return cls(
            names=tuple(node.name for node in nodes),
            inputs=tuple(tuple(place[name] for name in node.inputs) for node in nodes),
            device_seconds=work.device_seconds[1:],
            edge_seconds=work.edge_seconds[1:],
            output_bits=wire_bits(scenario, output),
            parameter_bits=np.where(parameters > 0, wire_bits(scenario, parameters), 0.0),
            parameter_bytes=parameters,
            input_bits=float(wire_bits(scenario, profile.nodes[0].output_bytes)),
            block_ends=(*(end for end in ends if end < len(nodes) - 1), len(nodes) - 1),
            up_delay_seconds=ue.uplink_delay_seconds,
            down_delay_seconds=ue.downlink_delay_seconds,
        )

    def bits(self, source: int) -> float:
        """Of a value that crosses."""
        return self.input_bits if source == INPUT else float(self.output_bits[source])

    def missing_bits(self, cached: Collection[str]) -> Floats:
        """Parameters that an edge with ``cached`` nodes still lacks, (nodes,)."""
        there = np.array([name in cached for name in self.names])
        return np.where(there, 0.0, self.parameter_bits)

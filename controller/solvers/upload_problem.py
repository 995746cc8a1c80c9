"""From a scenario to the upload solvers: one UE's query as a chain of blocks, of nodes, and as a graph.

Plans are made over blocks, the parts of the model between values that alone cross; a block is on one side. What a plan
takes is computed by node: a node of a block starts before the block's last parameters are there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.contract import Scenario
from controller.model.uploading import UploadWork
from controller.solvers.upload_graph import UploadGraph
from controller.solvers.upload_plan import Sites, UploadChain
from controller.solvers.upload_shares import UploadUe

Floats = NDArray[np.float64]

#: Parameters that no plan sends.
_FORBIDDEN_BITS = 1e18


@dataclass(frozen=True)
class Rates:
    """What a UE has of the radio and of both processors."""

    speed: float  # reference cores
    share: float  # reference cores
    up_bits_per_second: float
    down_bits_per_second: float


@dataclass(frozen=True)
class UploadProblem:
    """One UE's query against an edge that has some nodes' parameters (``cached``, by name)."""

    work: UploadWork
    cached: frozenset[str] = frozenset()
    forbidden: frozenset[int] = frozenset()  # blocks that stay on the device

    @classmethod
    def of(cls, scenario: Scenario, ue_index: int) -> UploadProblem:
        return cls(UploadWork.of(scenario, ue_index))

    @property
    def blocks(self) -> int:
        return len(self.work.block_ends)

    def by_node(self, sites: Sites) -> Sites:
        """Sites of blocks as sites of nodes."""
        return np.repeat(sites, np.diff(self.work.block_ends, prepend=-1))

    def parameter_bytes(self, sites: Sites) -> int:
        """What a plan of blocks needs at the edge, there already or not."""
        return int(self.work.parameter_bytes[self.by_node(sites) == 1].sum())

    def heaviest(self, sites: Sites) -> int:
        """The block on the edge with the most parameters."""
        return int(np.argmax(np.where(sites == 1, self._sums(self.work.parameter_bytes.astype(np.float64)), -1.0)))

    def chain(self, rates: Rates) -> UploadChain:
        """Its layers are the blocks."""
        work = self.work
        outputs = work.output_bits[list(work.block_ends)]
        return UploadChain(
            device_seconds=self._sums(work.device_seconds) / rates.speed,
            edge_seconds=self._sums(work.edge_seconds) / rates.share,
            output_bits=np.concatenate([[work.input_bits], outputs]),
            parameter_bits=self._missing(),
            up_bits_per_second=rates.up_bits_per_second,
            down_bits_per_second=rates.down_bits_per_second,
            up_delay_seconds=work.up_delay_seconds,
            down_delay_seconds=work.down_delay_seconds,
        )

    def nodes(self, rates: Rates) -> UploadChain:
        """Its layers are the nodes: the exact time of a plan of blocks, inside of which nothing crosses."""
        work = self.work
        return UploadChain(
            device_seconds=work.device_seconds / rates.speed,
            edge_seconds=work.edge_seconds / rates.share,
            output_bits=np.concatenate([[work.input_bits], work.output_bits]),
            parameter_bits=work.missing_bits(self.cached),
            up_bits_per_second=rates.up_bits_per_second,
            down_bits_per_second=rates.down_bits_per_second,
            up_delay_seconds=work.up_delay_seconds,
            down_delay_seconds=work.down_delay_seconds,
        )

    def graph(self, rates: Rates) -> UploadGraph:
        """Its vertices are the nodes: for plans that divide a block."""
        work = self.work
        return UploadGraph(
            inputs=work.inputs,
            device_seconds=work.device_seconds / rates.speed,
            edge_seconds=work.edge_seconds / rates.share,
            output_bits=work.output_bits,
            parameter_bits=work.missing_bits(self.cached),
            input_bits=work.input_bits,
            up_bits_per_second=rates.up_bits_per_second,
            down_bits_per_second=rates.down_bits_per_second,
            up_delay_seconds=work.up_delay_seconds,
            down_delay_seconds=work.down_delay_seconds,
        )

    def competitor(self, speed: float, quality_hz: float, linear: bool, bandwidth_hz: float, down: float) -> UploadUe:
        """For the shares. ``quality_hz``: received power over noise density, of a ``linear`` link bit/s/Hz;
        ``bandwidth_hz`` is a typical one."""
        work = self.work
        typical = quality_hz if linear else np.log2(1.0 + quality_hz / bandwidth_hz)
        return UploadUe(
            device_seconds=self._sums(work.device_seconds) / speed,
            edge_work=self._sums(work.edge_seconds),
            output_bits=np.concatenate([[work.input_bits], work.output_bits[list(work.block_ends)]]),
            parameter_bits=self._missing(),
            bits_per_second_per_hz=float(typical),
            down_bits_per_second=down,
            up_delay_seconds=work.up_delay_seconds,
            down_delay_seconds=work.down_delay_seconds,
            quality_hz=None if linear else quality_hz,
        )

    def _missing(self) -> Floats:
        missing = self._sums(self.work.missing_bits(self.cached))
        missing[list(self.forbidden)] = _FORBIDDEN_BITS
        return missing

    def _sums(self, by_node: Floats) -> Floats:
        """By block."""
        starts = [0, *(end + 1 for end in self.work.block_ends[:-1])]
        return np.asarray(np.add.reduceat(by_node, starts))


def names_at_edge(problem: UploadProblem, sites: Sites) -> Collection[str]:
    """Nodes that a plan of blocks puts on the edge, in order."""
    return [name for name, site in zip(problem.work.names, problem.by_node(sites), strict=True) if site == 1]

"""From a scenario to the upload solvers: one UE's query as a chain of blocks, of nodes, and as a graph.

Plans are made over blocks, the parts of the model between values that alone cross; a block is on one side. What a plan
takes is computed by node: a node of a block starts before the block's last parameters are there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from controller.contract import Scenario
from controller.model.uploading import UploadWork
from controller.solvers.upload.graph import UploadGraph
from controller.solvers.upload.plan import Sites, UploadChain
from controller.solvers.upload.shares import UploadUe

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
    def of(cls, scenario: Scenario, ue_index: int, crossing_seconds: float = 0.0) -> UploadProblem:
        """``crossing_seconds``: of a message beside its link, as if the link were that much longer."""
        work = UploadWork.of(scenario, ue_index)
        up, down = work.up_delay_seconds + crossing_seconds, work.down_delay_seconds + crossing_seconds
        return cls(replace(work, up_delay_seconds=up, down_delay_seconds=down))

    @property
    def blocks(self) -> int:
        return len(self.work.block_ends)

    def by_node(self, sites: Sites) -> Sites:
        """Sites of blocks as sites of nodes."""
        return np.repeat(sites, self._sizes())

    def parameter_bytes(self, sites: Sites) -> int:
        """What a plan (by node) needs at the edge, there already or not."""
        return int(self.work.parameter_bytes[sites == 1].sum())

    def heaviest(self, sites: Sites) -> int:
        """The block with the most parameters that a plan (by node) needs at the edge."""
        return int(np.argmax(self._sums(np.where(sites == 1, self.work.parameter_bytes, 0))))

    def chain(self, rates: Rates) -> UploadChain:
        """Its layers are the blocks."""
        work = self.work
        return UploadChain(
            device_seconds=self._sums(work.device_seconds) / rates.speed,
            edge_seconds=self._sums(work.edge_seconds) / rates.share,
            output_bits=np.concatenate([[work.input_bits], work.output_bits[list(work.block_ends)]]),
            parameter_bits=self._sums(self._missing()),
            **self._links(rates),
        )

    def nodes(self, rates: Rates) -> UploadChain:
        """Its layers are the nodes: the exact time of a plan of blocks, inside of which nothing crosses."""
        work = self.work
        return UploadChain(
            device_seconds=work.device_seconds / rates.speed,
            edge_seconds=work.edge_seconds / rates.share,
            output_bits=np.concatenate([[work.input_bits], work.output_bits]),
            parameter_bits=self._missing(),
            **self._links(rates),
        )

    def graph(self, rates: Rates) -> UploadGraph:
        """Its vertices are the nodes: for plans that divide a block."""
        work = self.work
        return UploadGraph(
            inputs=work.inputs,
            device_seconds=work.device_seconds / rates.speed,
            edge_seconds=work.edge_seconds / rates.share,
            output_bits=work.output_bits,
            parameter_bits=self._missing(),
            input_bits=work.input_bits,
            **self._links(rates),
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
            parameter_bits=self._sums(self._missing()),
            bits_per_second_per_hz=float(typical),
            down_bits_per_second=down,
            up_delay_seconds=work.up_delay_seconds,
            down_delay_seconds=work.down_delay_seconds,
            quality_hz=None if linear else quality_hz,
        )

    def _links(self, rates: Rates) -> dict[str, float]:
        return {
            "up_bits_per_second": rates.up_bits_per_second,
            "down_bits_per_second": rates.down_bits_per_second,
            "up_delay_seconds": self.work.up_delay_seconds,
            "down_delay_seconds": self.work.down_delay_seconds,
        }

    def _missing(self) -> Floats:
        """Bits of parameters to send, (nodes,)."""
        forbidden = np.repeat([block in self.forbidden for block in range(self.blocks)], self._sizes())
        loaded = forbidden & (self.work.parameter_bytes > 0)
        return np.where(loaded, _FORBIDDEN_BITS, self.work.missing_bits(self.cached))

    def _sizes(self) -> NDArray[np.int64]:
        """Nodes of each block."""
        return np.diff(self.work.block_ends, prepend=-1)

    def _sums(self, by_node: NDArray[np.generic]) -> Floats:
        """By block."""
        starts = np.cumsum(self._sizes()) - self._sizes()
        return np.asarray(np.add.reduceat(by_node, starts), dtype=np.float64)

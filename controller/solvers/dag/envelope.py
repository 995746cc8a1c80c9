"""The best latency of a model as a function of the edge's speed: a lower envelope of few cuts. After DDS, section 3.

With y seconds of a task's time per second of work on the edge (y = 1 / demand), the latency of a cut is a line
``constant + work * y``. The best cut at each y is a minimum cut, so the envelope is found by solving at both ends of
an interval, then where the two lines cross, until no better line appears. Along it work falls and device sets grow.
It is decreasing in the demand and continuous, but not convex: it has a kink wherever the cut changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from controller.contract import Cut
from controller.solvers.dag.mincut import Bools, CutCosts, CutGraph, Floats

#: A crossing is a new line's only if that is better by more than this part of the cost: costs are rounded to integers.
_BETTER_RATIO = 1e-6


class Line(NamedTuple):
    """One cut: ``constant_seconds + work_seconds / demand`` is its latency."""

    cut: Cut
    constant_seconds: float  # device, encoding, transfers, propagation, result
    work_seconds: float  # of the edge at demand 1: decoding and tail; 0 for the local cut

    def seconds(self, demand: float) -> float:
        """Latency at a demand above 0, or any demand if there is no work."""
        return self.constant_seconds + (self.work_seconds / demand if self.work_seconds else 0.0)


@dataclass(frozen=True)
class DemandCosts:
    """What a cut costs, with the edge's part still to be divided by the demand; arrays are (nodes,), in seconds."""

    device: Floats
    transfer: Floats  # encoding and the time on the air
    edge_work: Floats  # at demand 1
    decode_work: Floats  # at demand 1, of each value that crosses
    remote: float  # once, unless everything is on the device

    def at(self, seconds_per_work: float) -> CutCosts:
        """The costs when a second of work takes that many on the edge."""
        return CutCosts(
            self.device,
            self.edge_work * seconds_per_work,
            self.transfer + self.decode_work * seconds_per_work,
            self.remote,
        )


def line_of(graph: CutGraph, costs: DemandCosts, on_device: Bools) -> Line:
    """The line of a device set."""
    crossing = graph.crossing(on_device)
    constant = float(costs.device[on_device].sum() + costs.transfer[crossing].sum())
    work = float(costs.edge_work[~on_device].sum() + costs.decode_work[crossing].sum())
    return Line(graph.cut(on_device), constant + (costs.remote if crossing.size else 0.0), work)


def envelope(graph: CutGraph, costs: DemandCosts, least_demand: float, most_demand: float) -> tuple[Line, ...]:
    """The lines that are best somewhere between two demands, from the most demand to the least: falling work.

    Each is the best over an interval; where two cost the same, either may be given. Raises ValueError unless
    ``0 < least_demand <= most_demand``, and what :meth:`CutGraph.solve` raises.
    """
    if not 0 < least_demand <= most_demand:
        raise ValueError(f"demands must be 0 < least <= most, got {least_demand:g} and {most_demand:g}")

    def solve(demand: float) -> Line:
        return line_of(graph, costs, graph.solve(costs.at(1.0 / demand)).on_device)

    def between(fast: Line, slow: Line) -> list[Line]:
        """The lines strictly between two neighbours."""
        if fast.work_seconds <= slow.work_seconds or slow.constant_seconds <= fast.constant_seconds:
            return []
        crossing = (fast.work_seconds - slow.work_seconds) / (slow.constant_seconds - fast.constant_seconds)
        found = solve(crossing)
        if found.seconds(crossing) >= fast.seconds(crossing) * (1 - _BETTER_RATIO):
            return []
        return [*between(fast, found), found, *between(found, slow)]

    first, last = solve(most_demand), solve(least_demand)
    if first.cut == last.cut:
        return (first,)
    return (first, *between(first, last), last)


def best_line(lines: Sequence[Line], demand: float) -> Line:
    """The line with the least latency at a demand."""
    return min(lines, key=lambda line: line.seconds(demand))

"""What policies share that cut a model's graph anywhere, not only where one tensor crosses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np

from controller.contract import ALL_ON_DEVICE, ALL_ON_EDGE, Cut, Decision, ModelProfile, Observation, Scenario
from controller.model.cut_times import NodeWork
from controller.model.delay import stage_work, wire_bits
from controller.model.radio import LinkRates, rates
from controller.policies.base import BasicPolicy
from controller.solvers.dag.envelope import DemandCosts, Line, envelope, line_of
from controller.solvers.dag.game import Device
from controller.solvers.dag.mincut import Bools, CutGraph, Floats

#: Envelopes reach from the whole edge down to this part of it.
LEAST_DEMAND_RATIO = 1 / 1000


@dataclass(frozen=True)
class LinkCosts:
    """A UE at given rates: what every cut costs. Arrays are (nodes,), in seconds."""

    device: Floats
    encode: Floats
    air: Floats  # of each value, should it cross
    edge_work: Floats
    decode_work: Floats
    remote: float  # header, propagation, result

    @property
    def demand_costs(self) -> DemandCosts:
        return DemandCosts(self.device, self.encode + self.air, self.edge_work, self.decode_work, self.remote)


class Stages(NamedTuple):
    """Busy seconds of device, link and edge by one task: what bounds the throughput."""

    device: float
    link: float
    edge: float


class DagUe:
    """One UE's model and constants. :meth:`device` is what the market needs to know of it at its present rates."""

    def __init__(self, scenario: Scenario, index: int) -> None:
        self.ue = scenario.ues[index]
        self._scenario = scenario
        profile = self.ue.profile
        self.graph = graph_of(profile)
        self._work = NodeWork.of(profile, self.ue.input_codec, self.ue.boundary_codec)
        self._bits = wire_bits(scenario, self._work.boundary_bytes) - wire_bits(scenario, 0)
        self._header_bits = float(wire_bits(scenario, 0))
        self._down_bits = float(wire_bits(scenario, profile.result_bytes))
        self.local_seconds = stage_work(profile, ALL_ON_DEVICE, self.ue.boundary_codec)[0] / self.ue.max_speed
        self._corrections = {
            found.cut: (
                0.0 if profile.device_node_seconds else found.head_seconds - found.estimated_head_seconds,
                found.tail_seconds - found.estimated_tail_seconds,
            )
            for found in profile.measured_cuts
        }
        self._lines: dict[tuple[LinkRates, float], tuple[Line, ...]] = {}

    def costs(self, rate: LinkRates) -> LinkCosts:
        """An outage makes everything that crosses infinite."""
        work, speed = self._work, self.ue.max_speed
        up, down = (
            value if value >= self.ue.outage_floor_bits_per_second else 0.0
            for value in (rate.up_bits_per_second, rate.down_bits_per_second)
        )
        with np.errstate(divide="ignore"):
            air = self._bits / up if up else np.full(self._bits.shape, np.inf)
        remote = np.inf
        if up and down:
            delays = self.ue.uplink_delay_seconds + self.ue.downlink_delay_seconds
            remote = self._header_bits / up + self._down_bits / down + delays
        return LinkCosts(
            work.device_seconds / speed,
            work.encode_seconds / speed,
            air,
            work.edge_seconds,
            work.decode_seconds,
            float(remote),
        )

    def lines(self, rate: LinkRates, capacity: float) -> tuple[Line, ...]:
        """The envelope up to a demand of ``capacity`` reference cores, with measured times where there are any."""
        key = (rate, capacity)
        if key not in self._lines:
            if len(self._lines) >= _KEPT_ENVELOPES:
                self._lines.clear()
            costs = self.costs(rate).demand_costs
            found = envelope(self.graph, costs, LEAST_DEMAND_RATIO * capacity, capacity)
            self._lines[key] = tuple(self.corrected(line) for line in found)
        return self._lines[key]

    def device(self, rate: LinkRates, capacity: float, value_per_second: float) -> Device:
        """The UE as a player."""
        return Device.of(self.lines(rate, capacity), self.local_seconds, value_per_second)

    def line(self, rate: LinkRates, on_device: Bools) -> Line:
        """Of any device set."""
        return self.corrected(line_of(self.graph, self.costs(rate).demand_costs, on_device))

    def stages(self, rate: LinkRates, on_device: Bools, share: float) -> Stages:
        """How long one task keeps device, link and edge busy."""
        costs = self.costs(rate)
        crossing = self.graph.crossing(on_device)
        device = float(costs.device[on_device].sum() + costs.encode[crossing].sum())
        if not crossing.size:
            return Stages(device, 0.0, 0.0)
        tail = float(costs.edge_work[~on_device].sum() + costs.decode_work[crossing].sum())
        header = self._header_bits / rate.up_bits_per_second if rate.up_bits_per_second > 0 else np.inf
        return Stages(device, float(costs.air[crossing].sum()) + header, tail / share)

    def corrected(self, line: Line) -> Line:
        """With the cut's own measurement instead of the sum over its nodes."""
        if line.cut == ALL_ON_EDGE or line.cut not in self._corrections:
            return line
        head, tail = self._corrections[line.cut]
        return Line(line.cut, line.constant_seconds + head / self.ue.max_speed, line.work_seconds + tail)


_KEPT_ENVELOPES = 64


@lru_cache(maxsize=64)
def _graph(nodes: tuple[object, ...]) -> CutGraph:
    return CutGraph(nodes)  # type: ignore[arg-type]


def graph_of(profile: ModelProfile) -> CutGraph:
    """The graph of a model, made once for all UEs that run it."""
    return _graph(profile.nodes)


class DagPolicy(BasicPolicy):
    """Equal parts of the spectrum, full speed, and for each UE any cut and any part of the edge.

    Override :meth:`plan`.
    """

    def reset(self, scenario: Scenario, seed: int) -> None:
        super().reset(scenario, seed)
        self.ues = [DagUe(scenario, index) for index in range(len(scenario.ues))]
        self.capacity = scenario.edge.cpus
        self.equal_share = scenario.edge.cpus / len(scenario.ues)

    def rates(self, observation: Observation) -> list[LinkRates]:
        """Present rates at equal spectrum, in the scenario's order."""
        gains = {str(ue.name): (ue.gain_up, ue.gain_down) for ue in observation.ues}
        anyhow = self.with_cuts(observation, [ALL_ON_DEVICE] * len(self.ues))
        found = rates(self.scenario, gains, anyhow)
        return [found[ue.name] for ue in self.scenario.ues]

    def plan(self, observation: Observation) -> Sequence[tuple[Cut, float]]:
        """(cut, part of the edge in reference cores) of each UE."""
        raise NotImplementedError

    def decide(self, observation: Observation) -> Decision:
        plan = self.plan(observation)
        decision = self.with_cuts(observation, [cut for cut, _ in plan])
        shares = [share if cut else 0.0 for cut, share in plan]
        return msgspec.structs.replace(
            decision,
            ues=tuple(
                msgspec.structs.replace(ue, edge_share=share) for ue, share in zip(decision.ues, shares, strict=True)
            ),
        )

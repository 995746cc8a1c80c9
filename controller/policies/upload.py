"""Inference while the model uploads: MJOA-MU, as far as its abstract says, and its baselines.

After H. Yang et al., "MJOA-MU: End-to-edge collaborative computation for DNN inference based on model uploading"
(Computer Networks 2023), of which the abstract alone was known to us: plans and shares are those of
:mod:`controller.solvers.upload.plan` and :mod:`controller.solvers.upload.shares`, our reconstruction.

A policy plans from what the edge holds of each model. Under ``cache: per_query`` that is nothing, for every task. Under
``keep`` it plans anew when nobody has a task under way, so that a task keeps the rates that its plan was made for; and
at any time when a link's rate has changed by a tenth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.contract import ALL_ON_DEVICE, ALL_ON_EDGE, Decision, Observation, Scenario, UeDecision, UploadPlan
from controller.model.radio import is_coupled, rates
from controller.policies.base import BasicPolicy
from controller.solvers.upload.graph import graph_seconds, plan_graph_upload
from controller.solvers.upload.plan import (
    Sites,
    UploadChain,
    exhaustive,
    ionn_plans,
    pipelined_seconds,
    plan_upload,
    serial_optimum,
    serial_seconds,
    single_cut,
)
from controller.solvers.upload.problem import Rates, UploadProblem
from controller.solvers.upload.shares import Objective, UploadUe, allocate_shares, serial

Floats = NDArray[np.float64]
Order = Literal["pipelined", "serial"]
Parts = Literal["blocks", "graph"]

#: A link's rate that changed by less keeps its plan and shares.
RATE_CHANGE_RATIO = 0.1
#: What stands for a link without any signal, so that times stay finite.
_LEAST_BITS_PER_SECOND = 16e3
_LEAST_QUALITY_HZ = 1.0
#: Of spectrum and of edge, what a UE is planned to keep whose plan needs none: its next plan may.
_LEAST_RATIO = 0.05


@dataclass(frozen=True)
class Planned:
    """One UE's part of a decision and what it promises."""

    problem: UploadProblem
    sites: Sites  # by node
    rates: Rates
    bandwidth_hz: float
    seconds: float  # of a task that finds nobody before it


class UploadPolicy(BasicPolicy):
    """What all of them share. A subclass overrides :meth:`sites`, and :meth:`shares` if they are not equal.

    The downlink is shared equally; devices run at full speed. Together the plans need no more than the edge's memory:
    the largest loses its heaviest block until they fit.
    """

    order: Order = "pipelined"
    crossing_seconds: float = 0.0  # that a value is thought to take beside its link

    def reset(self, scenario: Scenario, seed: int) -> None:
        """Raises ValueError for a lab whose edge has its models, and for links that share subchannels."""
        super().reset(scenario, seed)
        if scenario.uploading is None:
            raise ValueError("this policy sends models to the edge: the lab needs the key 'uploading'")
        if is_coupled(scenario.radio):
            raise ValueError(
                "plans of uploads need links of their own: radio.access ofdma, one subchannel and access point"
            )
        self._cold = [UploadProblem.of(scenario, index, self.crossing_seconds) for index in range(len(scenario.ues))]
        self._planned: list[Planned] = []
        self._gains: Floats = np.zeros(0)
        self._cached: list[frozenset[str]] = []

    def sites(self, problem: UploadProblem, rates: Rates) -> Sites:
        """Sides of the nodes, 1: edge."""
        raise NotImplementedError

    def seconds(self, problem: UploadProblem, sites: Sites, rates: Rates) -> float:
        """Latency of a plan. Inside a block on one side nothing crosses, so that its nodes are a chain."""
        latency = pipelined_seconds if self.order == "pipelined" else serial_seconds
        return latency(problem.nodes(rates), sites)

    def shares(self, competitors: list[UploadUe]) -> tuple[Floats, Floats]:
        """Uplink spectrum in Hz and reference cores of the edge, (ues,), each above 0."""
        count = len(competitors)
        equal = np.full(count, 1.0 / count)
        return equal * self.scenario.radio.uplink_hz, equal * self.scenario.edge.cpus

    def least_ratio(self) -> float:
        """What every UE keeps of spectrum and edge."""
        return min(_LEAST_RATIO, 0.5 / len(self.scenario.ues))

    def decide(self, observation: Observation) -> Decision:
        gains = np.array([(ue.gain_up[0], ue.gain_down[0]) for ue in observation.ues])
        cached = self._cached_now(observation)
        if self._is_due(observation, gains, cached):
            self._gains, self._cached = gains, cached
            self._planned = self._plan(observation, [max(up, 0.0) for up in gains[:, 0].tolist()], cached)
        blank = self.with_cuts(observation, [ALL_ON_DEVICE] * len(self._planned))
        return msgspec.structs.replace(
            blank, ues=tuple(self._choice(*pair) for pair in zip(blank.ues, self._planned, strict=True))
        )

    def state(self) -> dict[str, float]:
        """Per UE: the latency that the plan promises, its nodes at the edge, and the bytes that these still lack."""
        numbers: dict[str, float] = {}
        for ue, planned in zip(self.scenario.ues, self._planned, strict=True):
            work, there = planned.problem.work, planned.sites == 1
            missing = work.missing_bits(planned.problem.cached) > 0
            numbers[f"predicted_seconds.{ue.name}"] = planned.seconds
            numbers[f"edge_nodes.{ue.name}"] = float(there.sum())
            numbers[f"upload_bytes.{ue.name}"] = float(work.parameter_bytes[there & missing].sum())
        return numbers

    # -------------------------------------------------------------------------------------------------------- planning

    def _cached_now(self, observation: Observation) -> list[frozenset[str]]:
        uploading = self.scenario.uploading
        assert uploading is not None
        keeps = uploading.cache == "keep"
        return [frozenset(ue.cached_nodes) if keeps else frozenset() for ue in observation.ues]

    def _is_due(self, observation: Observation, gains: Floats, cached: list[frozenset[str]]) -> bool:
        if not self._planned:
            return True
        if np.any(np.abs(gains - self._gains) > RATE_CHANGE_RATIO * self._gains):
            return True
        return cached != self._cached and not any(ue.in_flight_tasks for ue in observation.ues)

    def _plan(self, observation: Observation, gains: list[float], cached: list[frozenset[str]]) -> list[Planned]:
        assert self.scenario.uploading is not None
        down = self._down_rates(observation)
        problems = [replace(problem, cached=there) for problem, there in zip(self._cold, cached, strict=True)]
        while True:
            planned = self._fitted(problems, gains, down)
            needs = [one.problem.parameter_bytes(one.sites) for one in planned]
            if sum(needs) <= self.scenario.uploading.memory_bytes:
                return planned
            largest = int(np.argmax(needs))
            block = problems[largest].heaviest(planned[largest].sites)
            problems[largest] = replace(problems[largest], forbidden=problems[largest].forbidden | {block})

    def _fitted(self, problems: list[UploadProblem], gains: list[float], down: Floats) -> list[Planned]:
        """Plans under their shares."""
        radio = self.scenario.radio
        competitors = []
        for ue, problem, gain, rate in zip(self.scenario.ues, problems, gains, down, strict=True):
            linear = ue.channel_kind == "rate"
            quality = gain / radio.uplink_hz if linear else gain * ue.transmit_watts / radio.noise_watts_per_hz
            least = _LEAST_BITS_PER_SECOND / radio.uplink_hz if linear else _LEAST_QUALITY_HZ
            typical = radio.uplink_hz / len(problems)
            competitors.append(problem.competitor(self.speed(ue), max(quality, least), linear, typical, max(rate, 1.0)))
        bandwidth, capacity = self.shares(competitors)
        planned = []
        for index, (ue, problem) in enumerate(zip(self.scenario.ues, problems, strict=True)):
            rates_of = Rates(
                speed=self.speed(ue),
                share=float(capacity[index]),
                up_bits_per_second=competitors[index].up_bits_per_second(float(bandwidth[index])),
                down_bits_per_second=competitors[index].down_bits_per_second,
            )
            sites = self.sites(problem, rates_of)
            planned.append(
                Planned(
                    problem, sites, rates_of, float(bandwidth[index]), float(self.seconds(problem, sites, rates_of))
                )
            )
        return planned

    def _down_rates(self, observation: Observation) -> Floats:
        """Bit/s at an equal part of the downlink, (ues,)."""
        equal = self.with_cuts(observation, [ALL_ON_DEVICE] * len(self.scenario.ues))
        gains = {str(ue.name): (ue.gain_up, ue.gain_down) for ue in observation.ues}
        found = rates(self.scenario, gains, equal)
        down = np.array([found[ue.name].down_bits_per_second for ue in self.scenario.ues])
        return np.asarray(np.maximum(down, _LEAST_BITS_PER_SECOND))

    def _choice(self, blank: UeDecision, planned: Planned) -> UeDecision:
        there = planned.sites == 1
        work = planned.problem.work
        loaded = there & (work.parameter_bytes > 0)
        return msgspec.structs.replace(
            blank,
            cut=ALL_ON_EDGE if there.any() else ALL_ON_DEVICE,
            spectrum_up_hz=planned.bandwidth_hz,
            edge_share=planned.rates.share,
            uploading=UploadPlan(
                edge_nodes=tuple(name for name, at in zip(work.names, there, strict=True) if at),
                uploads=tuple(name for name, at in zip(work.names, loaded, strict=True) if at),
                serial=self.order == "serial",
            ),
        )


class MjoaMu(UploadPolicy):
    """PBT-DP and ARA: the plan of least pipelined latency, under shares that make the mean latency least.

    Options
    -------
    objective : "mean" latency of the UEs, or the largest, "max".
    beam : labels that PBT-DP keeps per level and side; 0: all that it needs, exact.
    plan : "blocks", the parts between values that alone cross, each on one side; "graph": under the same shares, node
        by node, where branches of a block may run on both sides at once (a beam search, 0.3 s for GoogLeNet).
    crossing_seconds : that a value takes beside its link, to be planned for; plans that divide blocks have many.
    """

    def __init__(
        self, objective: str = "mean", beam: int = 0, plan: str = "blocks", crossing_seconds: float = 0.0
    ) -> None:
        if not crossing_seconds >= 0:
            raise ValueError(f"option crossing_seconds must be 0 or more, got {crossing_seconds!r}")
        if plan not in get_args(Parts):
            raise ValueError(f"option plan must be one of {', '.join(get_args(Parts))}, got {plan!r}")
        if objective not in get_args(Objective):
            raise ValueError(f"option objective must be one of {', '.join(get_args(Objective))}, got {objective!r}")
        if beam < 0:
            raise ValueError(f"option beam must be 0 or more, got {beam!r}")
        self._objective: Objective = "mean" if objective == "mean" else "max"
        self._beam = beam
        self._divides = plan == "graph"
        self.crossing_seconds = float(crossing_seconds)

    def sites(self, problem: UploadProblem, rates: Rates) -> Sites:
        blocks = problem.by_node(plan_upload(problem.chain(rates), self._beam).sites)
        if not self._divides:
            return blocks
        found = plan_graph_upload(problem.graph(rates))
        return found.sites if found.seconds < graph_seconds(problem.graph(rates), blocks) else blocks

    def seconds(self, problem: UploadProblem, sites: Sites, rates: Rates) -> float:
        if self._divides:
            return graph_seconds(problem.graph(rates), sites)
        return super().seconds(problem, sites, rates)

    def shares(self, competitors: list[UploadUe]) -> tuple[Floats, Floats]:
        totals = self.scenario.radio.uplink_hz, self.scenario.edge.cpus

        def latency(chain: UploadChain) -> float:
            return plan_upload(chain, self._beam).seconds

        least = self.least_ratio()
        by_serial = allocate_shares(competitors, *totals, objective=self._objective, planner=serial, least_ratio=least)
        found = allocate_shares(
            competitors, *totals, objective=self._objective, planner=latency, starts=[by_serial], least_ratio=least
        )
        return found.bandwidth_hz, found.capacity


class MjoaMuSerial(MjoaMu):
    """The plan of blocks and the shares of ``mjoa-mu``, with parameters sent only when their turn has come."""

    order: Order = "serial"

    def __init__(self, objective: str = "mean", beam: int = 0) -> None:
        super().__init__(objective, beam)


class PipelinedEqual(UploadPolicy):
    """PBT-DP under equal shares."""

    def sites(self, problem: UploadProblem, rates: Rates) -> Sites:
        return problem.by_node(plan_upload(problem.chain(rates)).sites)


class UploadExhaustive(UploadPolicy):
    """The best of all plans under equal shares, tried one by one: for models of few blocks (ValueError otherwise)."""

    def sites(self, problem: UploadProblem, rates: Rates) -> Sites:
        return problem.by_node(exhaustive(problem.chain(rates)).sites)


class SerialUpload(UploadPolicy):
    """The plan of least serial latency under equal shares, served serially."""

    order: Order = "serial"

    def sites(self, problem: UploadProblem, rates: Rates) -> Sites:
        return problem.by_node(serial_optimum(problem.chain(rates)).sites)


class SerialAra(SerialUpload):
    """The plan of least serial latency, under shares that make its mean least."""

    def shares(self, competitors: list[UploadUe]) -> tuple[Floats, Floats]:
        found = allocate_shares(
            competitors,
            self.scenario.radio.uplink_hz,
            self.scenario.edge.cpus,
            planner=serial,
            least_ratio=self.least_ratio(),
        )
        return found.bandwidth_hz, found.capacity


class NeurosurgeonUpload(UploadPolicy):
    """One cut per query, the best when what follows it is uploaded first, layer by layer; equal shares."""

    order: Order = "serial"

    def sites(self, problem: UploadProblem, rates: Rates) -> Sites:
        return problem.by_node(single_cut(problem.chain(rates)).sites)


class FullUpload(UploadPolicy):
    """Everything at the edge, equal shares.

    Options
    -------
    order : "serial" (all parameters before the first inference) or "pipelined".
    """

    def __init__(self, order: str = "serial") -> None:
        if order not in get_args(Order):
            raise ValueError(f"option order must be one of {', '.join(get_args(Order))}, got {order!r}")
        self.order = "serial" if order == "serial" else "pipelined"

    def sites(self, problem: UploadProblem, rates: Rates) -> Sites:
        chosen = np.ones(problem.blocks, dtype=np.int64)
        chosen[list(problem.forbidden)] = 0
        return problem.by_node(chosen)


class Ionn(UploadPolicy):
    """IONN (Jeong et al., SoCC 2018): partitions go up one after the other, one per query, each better for more.

    A query runs with the first partition that is not wholly at the edge yet, and uploads it; equal shares.

    Options
    -------
    base : price of parameters of one partition over that of the one before.
    """

    def __init__(self, base: float = 0.8) -> None:
        if not 0 < base < 1:
            raise ValueError(f"option base must be between 0 and 1, got {base!r}")
        self._base = base

    def sites(self, problem: UploadProblem, rates: Rates) -> Sites:
        cold = replace(problem, cached=frozenset())
        sites = np.zeros(len(problem.work.names), dtype=np.int64)
        for partition in ionn_plans(cold.chain(rates), self._base):
            partition[list(problem.forbidden)] = 0  # the last partition takes parameters for nothing, these too
            sites = problem.by_node(partition)
            if np.any(problem.work.missing_bits(problem.cached)[sites == 1] > 0):
                break
        return sites

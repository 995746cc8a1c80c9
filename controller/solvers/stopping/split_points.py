"""What optimal stopping and placement cost in a lab: from a scenario to the arrays of the solver.

The formulas are our reading of a lab in the terms of :mod:`controller.solvers.stopping.stopping`: every stage of the
testbed's way of a task is in the cost, waiting in queues and the edge's energy are not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.contract import Cut, Scenario, cut_label
from controller.model.channel_paths import channel_paths
from controller.model.cuts import device_set, merged_points
from controller.model.delay import chain_work
from controller.model.energy import compute_watts
from controller.model.outage import OUTAGE_BITS_PER_SECOND
from controller.model.radio import shannon_bits_per_second
from controller.model.transfers import Transfers
from controller.solvers.allocation.chain import ChainTables
from controller.solvers.stopping.stopping import PathCosts, StoppingCosts

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SplitProblem:
    """One UE's split points at an equal share of everything and full speed. Stage l ends at ``cuts[l]``."""

    cuts: tuple[Cut, ...]  # merged: each sends less than every one before; the last is ()
    columns: tuple[int, ...]  # their indices in the profile's chain
    costs: StoppingCosts
    run_seconds: Floats  # (L,) of each stage on the device
    parameter_bytes: Floats  # (L + 1,) of all layers up to each split point
    download_seconds: Floats  # (L + 1,)
    placement_costs: Floats  # (L + 1,)
    spectrum_hz: float
    scenario: Scenario
    ue_index: int
    up_bits: Floats  # (L + 1,) of each upload; 0 behind the last stage
    down_bits: Floats  # (L + 1,) of each answer
    upload_after_seconds: Floats  # (L + 1,) from the start of the head: stages and encoding
    downlink_after_seconds: Floats  # (L + 1,) from the end of the upload
    up_cost: float  # of a second on the uplink
    down_cost: float  # of a second on the downlink

    @property
    def stages(self) -> int:
        """L."""
        return self.costs.stages

    def labels(self) -> tuple[str, ...]:
        return tuple(cut_label(cut) for cut in self.cuts)

    def inverse_rates(self, states: Floats) -> Floats:
        """s/bit at channel states; under the wire's outage floor, that of a held outage."""
        ue, radio = self.scenario.ues[self.ue_index], self.scenario.radio
        if ue.channel_kind == "rate":
            rate = states * self.spectrum_hz / radio.uplink_hz
        else:
            rate = shannon_bits_per_second(self.spectrum_hz, ue.transmit_watts * states, radio.noise_watts_per_hz)
        return 1.0 / np.where(rate < ue.outage_floor_bits_per_second, OUTAGE_BITS_PER_SECOND, rate)

    def state_threshold(self, inverse_rate: float) -> float:
        """The channel state from which on 1/R is not above ``inverse_rate``: 0 for always, inf for never."""
        ue, radio = self.scenario.ues[self.ue_index], self.scenario.radio
        if inverse_rate <= 0:
            return float("inf")
        if inverse_rate >= 1.0 / OUTAGE_BITS_PER_SECOND:
            return 0.0
        rate = max(1.0 / inverse_rate, ue.outage_floor_bits_per_second)
        if ue.channel_kind == "rate":
            return rate * radio.uplink_hz / self.spectrum_hz
        noise = radio.noise_watts_per_hz * self.spectrum_hz
        return float(np.expm1(rate / self.spectrum_hz * np.log(2.0)) * noise / ue.transmit_watts)


def split_problem(scenario: Scenario, ue_index: int, time_weight: float, energy_weight: float) -> SplitProblem:
    """The split points of a UE and what each costs; ``time_weight`` is per second, ``energy_weight`` per joule."""
    ue, radio, count = scenario.ues[ue_index], scenario.radio, len(scenario.ues)
    profile, work = ue.profile, chain_work(scenario, ue_index)
    columns = merged_points(work.up_bits.tolist())
    at = np.array(columns)
    device = time_weight + energy_weight * float(compute_watts(ue, ue.max_speed))
    up, down = time_weight + energy_weight * ue.transmit_watts, time_weight + energy_weight * ue.receive_watts

    plain = np.maximum.accumulate(np.array(profile.head_seconds)[at])
    encode = np.where(at == 0, 0.0, work.head_seconds[at] - np.array(profile.head_seconds)[at])
    down_rate = _mean_downlink(scenario, ue_index)
    tail_seconds = work.tail_seconds[at] * count / scenario.edge.cpus
    intercept = (
        device * encode / ue.max_speed
        + time_weight * (work.uplink_delay_seconds + work.downlink_delay_seconds)[at]
        + time_weight * tail_seconds
        + down * work.down_bits[at] / down_rate
    )
    intercept[-1] = device * encode[-1] / ue.max_speed
    run_seconds = np.diff(plain) / ue.max_speed
    sizes = np.array([_parameter_bytes(scenario, ue_index, profile.chain_cuts[column]) for column in columns])
    seconds = 8.0 * scenario.framing_ratio * sizes / down_rate
    return SplitProblem(
        cuts=tuple(profile.chain_cuts[column] for column in columns),
        columns=columns,
        costs=StoppingCosts(device * run_seconds, up * work.up_bits[at], intercept),
        run_seconds=run_seconds,
        parameter_bytes=sizes,
        download_seconds=seconds,
        placement_costs=down * seconds,
        spectrum_hz=radio.uplink_hz / count,
        scenario=scenario,
        ue_index=ue_index,
        up_bits=work.up_bits[at],
        down_bits=work.down_bits[at],
        upload_after_seconds=(np.concatenate([[0.0], np.cumsum(np.diff(plain))]) + encode) / ue.max_speed,
        downlink_after_seconds=work.uplink_delay_seconds[at] + tail_seconds,
        up_cost=up,
        down_cost=down,
    )


@dataclass(frozen=True)
class PathProblem:
    """A split problem on a channel that goes on changing: what becomes of tasks, and of downloads of a model."""

    costs: PathCosts
    download_seconds: Floats  # (L + 1,): mean
    placement_costs: Floats  # (L + 1,)


def on_paths(problem: SplitProblem) -> PathProblem:
    """A split problem on sampled paths of its UE's channel. States are those that the UE sees.

    Raises ValueError for a channel whose law is not known before a run.
    """
    scenario, ue = problem.scenario, problem.scenario.ues[problem.ue_index]
    paths = channel_paths(scenario, problem.ue_index, _horizon_seconds(problem))
    tables = ChainTables.of(scenario)
    units = np.ones(len(scenario.ues)) * ue.mean_gain
    floor, spectrum = ue.outage_floor_bits_per_second, problem.spectrum_hz
    quality = float(tables.link_quality(units)[problem.ue_index])
    up = Transfers.over(paths.up * quality, paths.step_seconds, floor, linear=False, spectrum=spectrum)
    down_rates = shannon_bits_per_second(
        scenario.radio.downlink_hz / len(scenario.ues),
        scenario.radio.downlink_power_watts / len(scenario.ues) * ue.mean_gain * paths.down,
        scenario.radio.noise_watts_per_hz,
    )
    down = Transfers.over(down_rates, paths.step_seconds, floor, linear=True, spectrum=1.0)
    starts = paths.starts_seconds
    stages = problem.stages
    before = np.concatenate([[0.0], np.cumsum(problem.run_seconds)])
    stopping, seen = np.empty((stages + 1, starts.size)), np.empty((stages, starts.size))
    mean_down = problem.down_bits / _mean_downlink(scenario, problem.ue_index)
    for stage in range(stages + 1):
        begin = starts + problem.upload_after_seconds[stage]
        upload = up.seconds(begin, float(problem.up_bits[stage]))
        answer = begin + upload + problem.downlink_after_seconds[stage]
        stopping[stage] = (
            problem.up_cost * upload
            + problem.down_cost * (down.seconds(answer, float(problem.down_bits[stage])) - mean_down[stage])
            + problem.costs.intercept[stage]
        )
        if stage < stages:
            step = ((starts + before[stage]) / paths.step_seconds).astype(np.int64) % paths.up.shape[0]
            seen[stage] = ue.mean_gain * paths.up[step, np.arange(starts.size)]
    bits = 8.0 * scenario.framing_ratio * problem.parameter_bytes
    download = np.array([float(down.seconds(starts, float(size)).mean()) for size in bits])
    return PathProblem(PathCosts(problem.costs.run, stopping, seen), download, problem.down_cost * download)


#: Of a path, and of how many of the longest uploads at the mean channel, but no more than the last.
_LEAST_HORIZON_SECONDS = 20.0
_HORIZON_UPLOADS = 8.0
_MOST_HORIZON_SECONDS = 60.0


def _horizon_seconds(problem: SplitProblem) -> float:
    mean = np.array([problem.scenario.ues[problem.ue_index].mean_gain])
    upload = float(problem.up_bits[0] * problem.inverse_rates(mean)[0])
    wanted = float(problem.upload_after_seconds[-1]) + _HORIZON_UPLOADS * upload
    return min(max(wanted, _LEAST_HORIZON_SECONDS), _MOST_HORIZON_SECONDS)


def _parameter_bytes(scenario: Scenario, ue_index: int, cut: Cut) -> float:
    nodes = scenario.ues[ue_index].profile.nodes
    if cut == ("input",):
        return 0.0
    inside = device_set(nodes, cut)
    return float(sum(node.parameter_bytes for node in nodes if node.name in inside))


def _mean_downlink(scenario: Scenario, ue_index: int) -> float:
    """bit/s at the long-term mean state of the downlink and an equal share of its spectrum."""
    ue, radio, count = scenario.ues[ue_index], scenario.radio, len(scenario.ues)
    if ue.channel_kind == "rate":
        return ue.mean_gain / count
    watts = radio.downlink_power_watts / count
    return float(shannon_bits_per_second(radio.downlink_hz / count, watts * ue.mean_gain, radio.noise_watts_per_hz))

"""What optimal stopping and placement cost in a lab: from a scenario to the arrays of the solver.

The formulas are our reading of a lab in the terms of :mod:`controller.solvers.stopping`: every stage of the testbed's
way of a task is in the cost, the edge's energy is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.contract import Cut, Scenario, cut_label
from controller.model.cuts import device_set
from controller.model.delay import chain_work
from controller.model.energy import compute_watts
from controller.model.radio import shannon_bits_per_second
from controller.simulation.channels import OUTAGE_BITS_PER_SECOND
from controller.solvers.stopping import StoppingCosts, merged_points

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
    intercept = (
        device * encode / ue.max_speed
        + time_weight * (work.uplink_delay_seconds + work.downlink_delay_seconds)[at]
        + time_weight * work.tail_seconds[at] * count / scenario.edge.cpus
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
    )


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

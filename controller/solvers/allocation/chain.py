"""From a scenario and chosen cuts to the arrays of the slot problem."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from controller.contract import Cut, ModelProfile, Observation, Scenario, UeObservation
from controller.model.cuts import merged_points
from controller.model.delay import chain_work
from controller.model.queueing import variability
from controller.model.radio import shannon_bits_per_second, stations_of
from controller.solvers.allocation.problem import Demands, FloatArray, Limits, Objective, UeConstants
from controller.solvers.allocation.shares import LEAST_ARRIVAL_RATE

CutArray = NDArray[np.int64]


def useful_cuts(profile: ModelProfile, up_bits: FloatArray) -> tuple[int, ...]:
    """Chain indices worth deciding between: both ends, and each cut that sends less than every earlier one.

    A cut behind a smaller tensor pays with the device's time and energy and with the uplink for nothing but a little
    of the edge's time.
    """
    return merged_points(up_bits.tolist())


@dataclass(frozen=True)
class ChainTables:
    """Per UE and candidate cut; arrays are (ues, candidates), padded by repeating the local cut."""

    cuts: tuple[tuple[Cut, ...], ...]
    head_seconds: FloatArray
    wire_bits: FloatArray
    tail_seconds: FloatArray
    constant_seconds: FloatArray
    down_bits: FloatArray
    counts: CutArray  # (ues,) candidates that are not padding
    local: CutArray  # (ues,) index of the local cut
    ues: UeConstants
    budget_joules: FloatArray  # (ues,)
    scenario: Scenario
    objective: Objective = "tasks"

    @classmethod
    def of(cls, scenario: Scenario, *, every_cut: bool = False, objective: Objective = "tasks") -> ChainTables:
        """Candidates are the :func:`useful_cuts`, or the whole chain."""
        work = [chain_work(scenario, index) for index in range(len(scenario.ues))]
        indices = [
            tuple(range(len(ue.profile.chain_cuts))) if every_cut else useful_cuts(ue.profile, one.up_bits)
            for ue, one in zip(scenario.ues, work, strict=True)
        ]
        widest = max(len(chosen) for chosen in indices)
        padded = np.array([chosen + (chosen[-1],) * (widest - len(chosen)) for chosen in indices], dtype=np.int64)

        def table(pick: str) -> FloatArray:
            return np.array([getattr(one, pick)[row] for one, row in zip(work, padded, strict=True)])

        return cls(
            cuts=tuple(
                tuple(ue.profile.chain_cuts[index] for index in chosen)
                for ue, chosen in zip(scenario.ues, indices, strict=True)
            ),
            head_seconds=table("head_seconds"),
            wire_bits=table("up_bits"),
            tail_seconds=table("tail_seconds"),
            constant_seconds=table("uplink_delay_seconds") + table("downlink_delay_seconds"),
            down_bits=table("down_bits"),
            counts=np.array([len(chosen) for chosen in indices], dtype=np.int64),
            local=np.array([len(chosen) - 1 for chosen in indices], dtype=np.int64),
            ues=UeConstants(
                max_speed=np.array([ue.max_speed for ue in scenario.ues]),
                kappa=np.array([ue.compute_watts / ue.max_speed**3 for ue in scenario.ues]),
                transmit_watts=np.array([ue.transmit_watts for ue in scenario.ues]),
                weight=np.array([ue.weight for ue in scenario.ues]),
                linear=np.array([ue.channel_kind == "rate" for ue in scenario.ues]),
                variability=np.array([variability(ue.arrivals) for ue in scenario.ues]),
                station=stations_of(scenario),
            ),
            budget_joules=np.array([ue.energy_budget_joules for ue in scenario.ues]),
            scenario=scenario,
            objective=objective,
        )

    def limits(self, v: float) -> Limits:
        """What the UEs share, with the trade-off ``v`` in J^2/s."""
        scenario = self.scenario
        return Limits(scenario.radio.uplink_hz, scenario.edge.cpus, scenario.slot_seconds, v)

    def weights(self, arrival_rate: FloatArray) -> FloatArray:
        """What a second of each UE's mean delay weighs in a slot with these rates, (..., ues): the lab's weight and,
        under ``tasks``, the UE's rate over the mean of all UEs' long-term rates. So V means the same under both, and
        the sum over the slots is the mean over the tasks."""
        rate = np.asarray(arrival_rate, dtype=np.float64)
        if self.objective == "ues":
            return np.broadcast_to(self.ues.weight, rate.shape)
        return self.ues.weight * np.maximum(rate, LEAST_ARRIVAL_RATE) / self._usual_rate

    @cached_property
    def _usual_rate(self) -> float:
        """The mean of the UEs' long-term rates, 1/s."""
        rates = [ue.arrivals.mean_rate_per_second for ue in self.scenario.ues]
        return max(float(np.mean(rates)), LEAST_ARRIVAL_RATE)

    def link_quality(self, up: FloatArray) -> FloatArray:
        """``p h / N0`` in Hz (or bit/s/Hz for a rate trace) from channel states; the last axis is the UEs.

        N0 includes the UEs of other access points, as if all of them sent at their nominal powers.
        """
        radio = self.scenario.radio
        received = up * self.ues.transmit_watts
        noise: float | FloatArray = radio.noise_watts_per_hz
        if radio.access_points > 1:
            foreign = self.ues.station[:, np.newaxis] != self.ues.station
            heard = np.where(self.ues.linear, 0.0, received) @ foreign.astype(np.float64)
            noise = noise + radio.leakage_ratio * heard / radio.uplink_hz
        return np.where(self.ues.linear, up / radio.uplink_hz, received / noise)

    def downlink_rate(self, down: FloatArray) -> FloatArray:
        """bit/s at the whole downlink spectrum from channel states; the last axis is the UEs."""
        radio = self.scenario.radio
        received = down * radio.downlink_power_watts
        noise: float | FloatArray = radio.noise_watts_per_hz
        if radio.access_points > 1:  # all of them send
            noise = noise + radio.leakage_ratio * (radio.access_points - 1) * received / radio.downlink_hz
        full = shannon_bits_per_second(radio.downlink_hz, received, noise)
        return np.where(self.ues.linear, down, full)

    def index_of(self, ue: int, cut: Cut) -> int:
        """Candidate index of a cut. Raises ValueError if it is none."""
        return self.cuts[ue].index(cut)

    def demands(self, cuts: CutArray, state: SlotState) -> Demands:
        """The slot problem for cut indices (environments, ues); the state's arrays broadcast to that shape."""
        columns = np.arange(cuts.shape[1])
        down_bits = self.down_bits[columns, cuts]
        rate = np.maximum(state.downlink_rate, 1.0)
        return Demands(
            *(spread_out(x, cuts.shape) for x in (
                state.arrival_rate,
                self.weights(state.arrival_rate),
                self.head_seconds[columns, cuts],
                self.wire_bits[columns, cuts],
                self.tail_seconds[columns, cuts],
                state.link_quality,
                state.queue_joules,
                self.constant_seconds[columns, cuts],
                down_bits / rate,
            ))
        )  # fmt: skip


def spread_out(values: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """The values in an array of that shape; np.broadcast_to takes ten times as long for a few UEs."""
    out = np.empty(shape)
    out[...] = values
    return out


def in_order(scenario: Scenario, observation: Observation) -> list[UeObservation]:
    """What is seen of each UE, in the scenario's order."""
    by_name = {ue.name: ue for ue in observation.ues}
    return [by_name[ue.name] for ue in scenario.ues]


@dataclass(frozen=True)
class SlotState:
    """What a slot's decision depends on; arrays are (environments, ues) or (ues,)."""

    arrival_rate: FloatArray  # 1/s, nominal
    link_quality: FloatArray  # see ChainTables.link_quality
    downlink_rate: FloatArray  # bit/s at the whole downlink
    queue_joules: FloatArray

    @classmethod
    def observed(cls, tables: ChainTables, observation: Observation, queue_joules: FloatArray) -> SlotState:
        """From what a policy sees, UEs in the scenario's order: (ues,) arrays."""
        ues = in_order(tables.scenario, observation)
        return cls(
            arrival_rate=np.array([ue.nominal_arrival_rate_per_second for ue in ues]),
            link_quality=tables.link_quality(np.array([ue.gain_up[0] for ue in ues])),
            downlink_rate=tables.downlink_rate(np.array([ue.gain_down[0] for ue in ues])),
            queue_joules=queue_joules,
        )

"""The outcome: what a slot brought."""

from __future__ import annotations

from controller.contract.base import Struct, UeName
from controller.contract.decision import Decision

STAGES = ("ue_queue", "head", "tx_queue", "uplink", "edge_queue", "tail", "downlink")


class UeOutcome(Struct, frozen=True):
    name: UeName  # of the UE
    arrivals: int  # of tasks in the slot
    completions: int  # of tasks in the slot
    failures: int  # tasks given up in the slot
    mean_delay_seconds: float  # of the tasks completed in the slot; nan if none
    stage_seconds: dict[str, float]  # sums over the tasks completed in the slot, keys STAGES
    compute_joules: float  # charged in the slot in which the stage ends
    transmit_joules: float  # charged in the slot in which a transfer ends
    mean_rate_up_bits_per_second: float  # applied, mean over the slot
    overruns: int  # stages that ended after their target; 0 in the simulator

    @property
    def energy_joules(self) -> float:
        return self.compute_joules + self.transmit_joules


class SlotOutcome(Struct, frozen=True):
    slot: int  # that has ended
    decision: Decision  # the one that was live
    ues: tuple[UeOutcome, ...]  # in the scenario's order

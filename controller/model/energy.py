"""Energy of a UE without a clock frequency: the cube law on the ratio of speeds, and the radio's power."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controller.contract import Scenario, UeScenario
from controller.model.delay import chain_work

Floats = NDArray[np.float64]


def compute_watts(ue: UeScenario, speed: ArrayLike) -> Floats:
    """Power while a head computes at ``speed`` (reference cores): ``P_max (s / s_max)^3``, the CMOS cube law."""
    ratio = np.asarray(speed, dtype=np.float64) / ue.max_speed
    return np.asarray(ue.compute_watts * ratio**3, dtype=np.float64)


def compute_joules(ue: UeScenario, speed: ArrayLike, head_stage_seconds: ArrayLike) -> Floats:
    """Energy of a head whose stage took ``head_stage_seconds`` (wall clock, at ``speed``)."""
    return np.asarray(compute_watts(ue, speed) * np.asarray(head_stage_seconds, dtype=np.float64))


def transmit_joules(ue: UeScenario, transfer_seconds: ArrayLike, transmit_watts: float | None = None) -> Floats:
    """Energy of a transfer: the radio's power (None: the UE's nominal one) times the time on the air."""
    watts = ue.transmit_watts if transmit_watts is None else transmit_watts
    return np.asarray(watts * np.asarray(transfer_seconds, dtype=np.float64))


def predict_task_joules(
    scenario: Scenario,
    ue_index: int,
    cut_index: ArrayLike | None,
    speed: ArrayLike,
    rate_up_bits_per_second: ArrayLike,
) -> tuple[Floats, Floats]:
    """(compute, transmit) energy of one task for the cuts at ``cut_index`` (None: all chain cuts).

    The transfer is the uplink stage without the link's delay: nothing is sent while a frame propagates.
    """
    ue, work = scenario.ues[ue_index], chain_work(scenario, ue_index)
    stages = work.stages(speed, 1.0, rate_up_bits_per_second, 1.0, cut_index)
    chosen = slice(None) if cut_index is None else np.asarray(cut_index)
    transfer = stages["uplink"] - work.uplink_delay_seconds[chosen]
    return compute_joules(ue, speed, stages["head"]), transmit_joules(ue, transfer)

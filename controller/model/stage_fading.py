"""A channel that is drawn anew for every task and stage.

``per_task_stage``: "constant during the upload, fresh per layer" as optimal stopping assumes it. The gain of a task
after each chain cut depends on (seed, UE, task) only, so every policy of the same seed meets the same channels, and
whoever asks for one learns nothing of the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from controller.contract import Scenario, UeScenario
from controller.model.channel import fading_power
from controller.seeds import Purpose, generator

Floats = NDArray[np.float64]

_RICIAN_SAMPLES = 200_000


def stage_powers(ue: UeScenario, seed: int, ue_index: int, task: int) -> Floats:
    """Fading power of a task at each of its chain cuts, (cuts,), mean about 1, never under the UE's gain floor."""
    rng = generator(seed, Purpose.CHANNEL_UP, ue_index, task)
    count = len(ue.profile.chain_cuts)
    if ue.fading == "rayleigh":
        power = rng.exponential(size=count)
    elif ue.fading == "rician":
        power = fading_power(np.zeros(count), math.inf, rng, k_factor=ue.k_factor)
    else:
        power = np.ones(count)
    return np.maximum(power, ue.gain_floor_ratio)


def stage_gains(ue: UeScenario, seed: int, ue_index: int, task: int) -> Floats:
    """:func:`stage_powers` times the UE's mean channel state: what a trace of the UE's kind would hold."""
    return ue.mean_gain * stage_powers(ue, seed, ue_index, task)


def stage_gain_tables(scenario: Scenario, seed: int, tasks: Sequence[int]) -> Floats:
    """Gains of all tasks, UE after UE, (sum of ``tasks``, most chain cuts of a UE); nan where there is none."""
    widest = max(len(ue.profile.chain_cuts) for ue in scenario.ues)
    table = np.full((sum(tasks), widest), np.nan)
    row = 0
    for index, (ue, count) in enumerate(zip(scenario.ues, tasks, strict=True)):
        if ue.channel_refresh == "per_task_stage":
            for task in range(count):
                table[row + task, : len(ue.profile.chain_cuts)] = stage_gains(ue, seed, index, task)
        row += count
    return table


def power_states(ue: UeScenario, states: int) -> Floats:
    """``states`` equally likely fading powers, ascending: quantile mid-points of the UE's law, with its floor.

    Raises ValueError for a law that has no name here (a trace).
    """
    middle = (np.arange(states) + 0.5) / states
    if ue.fading == "rayleigh":
        power = -np.log1p(-middle)
    elif ue.fading == "rician":
        rng = np.random.default_rng(0)  # a quadrature, not a draw: the same for everybody
        power = np.quantile(fading_power(np.zeros(_RICIAN_SAMPLES), math.inf, rng, k_factor=ue.k_factor), middle)
    elif ue.fading == "static":
        power = np.ones(states)
    else:
        raise ValueError(f"{ue.name}: the law of a channel of kind {ue.fading!r} is not known before a run")
    return np.maximum(power, ue.gain_floor_ratio)

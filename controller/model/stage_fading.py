"""A channel that is drawn anew for every task and stage, and the chain that stands for one that fades in time.

``per_task_stage``: "constant during the upload, fresh per layer" as optimal stopping assumes it. The gain of a task
after each chain cut depends on (seed, UE, task) only, so every policy of the same seed meets the same channels, and
whoever asks for one learns nothing of the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import chndtr, j0

from controller.contract import Scenario, UeScenario
from controller.model.channel import fading_power
from controller.seeds import Purpose, generator

Floats = NDArray[np.float64]

#: Correlations above this are taken for 1: the noncentral chi-square is no longer computed well.
_FROZEN = 1 - 1e-6
_POINTS = 16  # of a state that the transition out of it is averaged over
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


def fading_chain(ue: UeScenario, states: int, lag_seconds: float) -> Floats:
    """P(state after ``lag_seconds`` | state) between the :func:`power_states` of a UE, (states, states).

    Rayleigh: given the power h now, the power after a lag with correlation rho = J0(2 pi f lag) of the complex gain is
    a scaled noncentral chi-square of two degrees of freedom. Exact for one lag; that lags add up as a Markov chain is
    the approximation. Raises ValueError for another law that changes in time.
    """
    if ue.fading == "static":
        return np.eye(states)
    if ue.fading != "rayleigh":
        raise ValueError(f"{ue.name}: fading {ue.fading!r} in time has no Markov form here; allowed: rayleigh, static")
    squared = float(j0(2 * np.pi * ue.doppler_hz * lag_seconds)) ** 2
    if squared > _FROZEN:
        return np.eye(states)
    inside = (np.arange(_POINTS) + 0.5) / _POINTS
    now = -np.log1p(-(np.arange(states)[:, np.newaxis] + inside) / states)  # (states, points)
    edges = -np.log1p(-np.arange(1, states) / states)
    scale = 2.0 / (1.0 - squared)
    below = chndtr(scale * edges, 2.0, squared * scale * now[..., np.newaxis]).mean(axis=1)
    return np.diff(below, axis=1, prepend=0.0, append=1.0)

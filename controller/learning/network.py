"""The actor: one small network for every UE, which also sees the mean and the maximum over all UEs.

Weights are shared between UEs, so one network serves any number of them. Inference is plain numpy: the controller
needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from controller.solvers.allocation.chain import ChainTables, SlotState
from controller.solvers.allocation.problem import FloatArray

FEATURES = 5
HIDDEN = 64

#: name -> (outputs, inputs) for a given number of outputs per UE; weights are (outputs, inputs), biases (outputs,).
Weights = Mapping[str, "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"]


def shapes(outputs: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the actor's arrays."""
    return {
        "encoder.0.weight": (HIDDEN, FEATURES),
        "encoder.0.bias": (HIDDEN,),
        "encoder.2.weight": (HIDDEN, HIDDEN),
        "encoder.2.bias": (HIDDEN,),
        "head.0.weight": (2 * HIDDEN, 3 * HIDDEN),
        "head.0.bias": (2 * HIDDEN,),
        "head.2.weight": (outputs, 2 * HIDDEN),
        "head.2.bias": (outputs,),
    }


def features(tables: ChainTables, state: SlotState) -> FloatArray:
    """What the actor sees, (..., ues, FEATURES), all near 1.

    Arrival rate over the UE's mean rate; log10 of ``g / B`` (the signal-to-noise ratio at the whole spectrum; a rate
    trace's spectral efficiency is turned into the ratio that gives it); log(1 + Q/Ebar); min(Q/Ebar, 20) / 10; the
    load of the whole model on the device at full speed.
    """
    scenario = tables.scenario
    mean_rate = np.array([ue.arrivals.mean_rate_per_second for ue in scenario.ues])
    quality = np.asarray(state.link_quality)
    # a rate trace's state is log2(1 + snr)
    snr = np.where(
        tables.ues.linear, np.expm1(np.minimum(quality, 60.0) * np.log(2.0)), quality / scenario.radio.uplink_hz
    )
    limited = np.isfinite(tables.budget_joules)
    ratio = np.where(limited, state.queue_joules / np.where(limited, tables.budget_joules, 1.0), 0.0)
    whole = tables.head_seconds[np.arange(tables.local.size), tables.local]
    columns = np.broadcast_arrays(
        state.arrival_rate / mean_rate - 1.0,
        np.log10(np.maximum(snr, 1e-6)) - 1.0,
        np.log1p(ratio),
        np.minimum(ratio, 20.0) / 10.0,
        2.0 * state.arrival_rate * whole / tables.ues.max_speed,
    )
    return np.stack(columns, axis=-1)


def feature_bounds(tables: ChainTables) -> tuple[FloatArray, FloatArray]:
    """(least, greatest) that :func:`features` of a lab can be, (ues, FEATURES) each, rounding to float32 included."""
    ues = tables.scenario.ues
    most = np.array([max(ue.arrivals.rates_per_second) for ue in ues])
    mean = np.array([ue.arrivals.mean_rate_per_second for ue in ues])
    whole = tables.head_seconds[np.arange(tables.local.size), tables.local]
    low = np.tile([-1.0, np.log10(1e-6) - 1.0, 0.0, 0.0, 0.0], (len(ues), 1))
    high = np.column_stack(
        [
            most / mean - 1.0,
            np.full(len(ues), np.log10(np.finfo(np.float64).max)),
            np.full(len(ues), np.log(np.finfo(np.float64).max)),
            np.full(len(ues), 2.0),
            2.0 * most * whole / tables.ues.max_speed,
        ]
    )
    return low - 1e-6 * (1.0 + np.abs(low)), high + 1e-6 * (1.0 + np.abs(high))


def actor_logits(weights: Weights, inputs: FloatArray) -> FloatArray:
    """(batch, ues, FEATURES) -> (batch, ues, outputs)."""
    x = inputs.astype(np.float32)
    x = np.tanh(x @ weights["encoder.0.weight"].T + weights["encoder.0.bias"])
    x = np.tanh(x @ weights["encoder.2.weight"].T + weights["encoder.2.bias"])
    # the pooled part of the head's first layer is the same for all UEs of a slot: computed once
    first = weights["head.0.weight"]
    pooled = np.concatenate([x.mean(axis=1), x.max(axis=1)], axis=1)
    common = pooled @ first[:, HIDDEN:].T + weights["head.0.bias"]
    x = np.tanh(x @ first[:, :HIDDEN].T + common[:, np.newaxis])
    return np.asarray(x @ weights["head.2.weight"].T + weights["head.2.bias"], dtype=np.float64)

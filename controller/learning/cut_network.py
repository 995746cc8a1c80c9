"""The actor for cuts of any lab: what a cut costs its UE goes in, one number per UE and cut comes out.

Everything that the lab is made of - spectrum, edge, speeds, powers, rates, V, virtual queues, the cuts themselves -
reaches the network as costs and loads, so that labs of any size and with any cuts are points of one space. Each cut of
each UE passes the same layers; twice the UEs' means and maxima are handed to all of them, as prices would be. Inference
is plain numpy: the controller needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from controller.compiled import compiled
from controller.solvers.allocation.chain import ChainTables, SlotState
from controller.solvers.allocation.cuts import state_arrays
from controller.solvers.allocation.newton import SPECTRUM, device_speed, service_derivatives
from controller.solvers.allocation.problem import MAXIMUM_LOAD, BoolArray, FloatArray, Limits
from controller.solvers.allocation.shares import SMALLEST_PRICE

FEATURES = 19
HIDDEN = 32
#: A load counts up to this.
_MOST_LOAD = 2.0
#: An overloaded device costs its service times this.
_OVERLOADED = 10.0

Weights = Mapping[str, "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"]


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the arrays; weights are (outputs, inputs)."""
    return {
        "encoder.0.weight": (HIDDEN, FEATURES),
        "encoder.0.bias": (HIDDEN,),
        "encoder.2.weight": (HIDDEN, HIDDEN),
        "encoder.2.bias": (HIDDEN,),
        "guess.weight": (1, HIDDEN),
        "first.weight": (HIDDEN, 4 * HIDDEN),
        "first.bias": (HIDDEN,),
        "second_guess.weight": (1, HIDDEN),
        "second.weight": (HIDDEN, 4 * HIDDEN),
        "second.bias": (HIDDEN,),
        "score.weight": (1, HIDDEN),
    }


@compiled
def _fill(rates, quality, downlink, queue, price, head, bits, tail, constant, down_bits, counts, max_speed, kappa, watts, linear, variability, spectrum, cpus, slot, out):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Fill out (environments, ues, candidates, FEATURES); padding repeats the local cut."""
    environments, n = rates.shape
    candidates = head.shape[1]
    total = np.empty((n, candidates))
    for e in range(environments):
        scale = 0.0
        mean_price = 0.0
        for i in range(n):
            rate = rates[e, i]
            p = price[e, i]
            mean_price += p / n
            joule = queue[e, i] * watts[i] * rate * slot
            own = np.inf
            for k in range(candidates):
                x = out[e, i, k]
                load = rate * head[i, k] / max_speed[i]
                speed = max_speed[i]
                if load < MAXIMUM_LOAD:
                    speed = device_speed(rate, head[i, k], max_speed[i], kappa[i], slot, queue[e, i], p, variability[i])
                service = head[i, k] / speed
                busy = rate * service
                x[0] = (
                    p
                    * service
                    * (1.0 + 0.5 * variability[i] * busy / (1.0 - busy) if load < MAXIMUM_LOAD else _OVERLOADED)
                )
                x[0] += queue[e, i] * slot * kappa[i] * speed**3 * busy
                x[9] = min(load, _MOST_LOAD)
                x[1] = x[2] = x[3] = x[4] = x[5] = x[6] = x[7] = x[8] = x[11] = 0.0
                if bits[i, k] > 0.0:
                    whole = service_derivatives(SPECTRUM, spectrum, bits[i, k], quality[e, i], linear[i])[0]
                    even = service_derivatives(SPECTRUM, spectrum / n, bits[i, k], quality[e, i], linear[i])[0]
                    x[1] = (p + joule) * whole
                    x[2] = (p + joule) * even
                    x[5] = min(rate * whole, _MOST_LOAD)
                    x[6] = min(rate * even, _MOST_LOAD)
                    x[11] = p * (constant[i, k] + down_bits[i, k] / max(downlink[e, i], 1.0) * n)
                if tail[i, k] > 0.0:
                    x[3] = p * tail[i, k] / cpus
                    x[4] = x[3] * n
                    x[7] = min(rate * tail[i, k] / cpus, _MOST_LOAD)
                    x[8] = min(rate * tail[i, k] / cpus * n, _MOST_LOAD)
                x[10] = 1.0 if bits[i, k] <= 0.0 else 0.0
                total[i, k] = x[0] + x[2] + x[4] + x[11]
                own = min(own, total[i, k])
            for k in range(candidates):
                out[e, i, k, 12] = own
                out[e, i, k, 13] = total[i, k] - own
            scale += own / n
        for i in range(n):
            for k in range(candidates):
                x = out[e, i, k]
                x[14] = np.log(price[e, i] / mean_price)
                x[15] = 0.25 * np.log(n)
                x[16] = 1.0 / n
                x[18] = variability[i]
                x[17] = np.sqrt(x[2] / scale) - np.sqrt(x[1] / scale * n)
                for j in (0, 1, 2, 3, 4, 11, 12, 13):
                    x[j] = 0.5 * np.log(x[j] / scale + 0.01) + 1.0


def cut_features(tables: ChainTables, state: SlotState, limits: Limits) -> FloatArray:
    """(environments, ues, candidates, FEATURES) of slots, all near 1; the state's arrays are (environments, ues), or
    (ues,) for one.

    Costs are delay (weighted as in the slot's problem) and energy at the virtual queue's price, in units of the mean
    over the UEs of what each one's best cut costs with equal shares, as logarithms: of the head at its best speed, and
    of uplink and tail with all of the resource and with an equal share. Beside them the loads of the stages, the price
    of delay relative to the other UEs', the variability of the UE's queues, and the number of UEs.
    """
    environments = state.link_quality.shape[0] if state.link_quality.ndim == 2 else 1
    rates, quality, downlink, queue = state_arrays(tables, state, environments)
    price = np.maximum(limits.v * tables.weights(rates), SMALLEST_PRICE)
    out = np.empty((*rates.shape, tables.head_seconds.shape[1], FEATURES))
    ues = tables.ues
    _fill(
        rates, quality, downlink, queue, price, tables.head_seconds, tables.wire_bits, tables.tail_seconds,
        tables.constant_seconds, tables.down_bits, tables.counts, ues.max_speed, ues.kappa, ues.transmit_watts,
        ues.linear, ues.variability, limits.spectrum_hz, limits.edge_cpus, limits.slot_seconds, out,
    )  # fmt: skip
    return np.clip(out, -8.0, 8.0)


def usable_cuts(tables: ChainTables, inputs: FloatArray) -> BoolArray:
    """(environments, ues, candidates) of :func:`cut_features`: the cuts that a UE could keep stable with all of the
    spectrum and the edge; all of a UE that has none (projection then finds the least bad)."""
    alone = np.maximum(np.maximum(inputs[..., 5], inputs[..., 7]), inputs[..., 9]) < MAXIMUM_LOAD
    alone |= ~alone.any(axis=-1, keepdims=True)
    usable: BoolArray = alone & (np.arange(inputs.shape[2]) < tables.counts[:, np.newaxis])
    return usable


def cut_scores(weights: Weights, inputs: FloatArray, usable: BoolArray) -> FloatArray:
    """(environments, ues, candidates, FEATURES) and which cuts are ``usable`` -> logits; -1e9 where not."""
    x = inputs.astype(np.float32)
    x = np.tanh(x @ weights["encoder.0.weight"].T + weights["encoder.0.bias"])
    own = np.tanh(x @ weights["encoder.2.weight"].T + weights["encoder.2.bias"])
    now = own
    for guess, layer in (("guess", "first"), ("second_guess", "second")):
        now = _round(weights, now, usable, guess, layer)
    scores = (now @ weights["score.weight"].T)[..., 0]
    logits: FloatArray = np.where(usable, scores.astype(np.float64), -1e9)
    return logits


def _round(weights: Weights, x: FloatArray, usable: BoolArray, guess: str, layer: str) -> FloatArray:
    """Each UE's cuts weighed by a guess; their mean over the UEs, and the largest, come back to every cut."""
    logits = np.where(usable, (x @ weights[f"{guess}.weight"].T)[..., 0], -1e9)
    part = np.exp(logits - logits.max(axis=-1, keepdims=True))
    part = (part / part.sum(axis=-1, keepdims=True)).astype(np.float32)
    chosen = np.einsum("euk,eukh->euh", part, x)
    matrix = weights[f"{layer}.weight"].T
    common = np.concatenate([chosen.mean(axis=1), chosen.max(axis=1)], axis=1) @ matrix[2 * HIDDEN :]
    mine = chosen @ matrix[HIDDEN : 2 * HIDDEN] + (common + weights[f"{layer}.bias"])[:, np.newaxis]
    return np.asarray(np.tanh(x @ matrix[:HIDDEN] + mine[:, :, np.newaxis]))

"""Superposed links and successive interference cancellation (SIC): who disturbs whom on a subchannel.

Power-domain NOMA after Saito et al. (VTC 2013), in the form that the Li-GD papers build on. Uplink: the access point
decodes the strongest gain first, so a UE is disturbed by the weaker ones only. Downlink: a UE removes what is meant for
weaker UEs, so it is disturbed by the signals of the stronger ones. The order depends on gains alone, not on powers.

Both directions take one form, ``signal / (weights @ signal + noise)``:

- uplink: signal ``p_j g_j``, noise ``N0 B``;
- downlink: signal ``P_j``, noise ``N0 B / g_i`` (everything divided by the receiver's gain).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def disturbers_first(gains: ArrayLike, *, downlink: bool) -> Integers:
    """UEs of each subchannel in the order in which each is disturbed by those before it, shape of ``gains``.

    ``gains`` is (..., UEs, subchannels). Uplink: weakest first; downlink: strongest first; equal gains are decoded in
    the order of the UEs.
    """
    order = np.argsort(-np.asarray(gains, dtype=np.float64), axis=-2, kind="stable")
    return np.asarray(order if downlink else np.flip(order, axis=-2))


def interference_weights(
    gains: ArrayLike,
    *,
    downlink: bool,
    residual_ratio: float = 0.0,
    access_points: ArrayLike | None = None,
    leakage_ratio: float = 0.0,
) -> Floats:
    """Weight of UE j's signal in UE i's interference: (..., subchannels, i, j) from gains (..., UEs, subchannels).

    1 for a signal that is still there when i is decoded, ``residual_ratio`` for one that was removed (imperfect SIC),
    ``leakage_ratio`` for one at another access point (``access_points``: (UEs,) integers).
    """
    rank = np.swapaxes(np.argsort(disturbers_first(gains, downlink=downlink), axis=-2), -1, -2)
    ues = rank.shape[-1]
    weights = np.where(rank[..., np.newaxis, :] < rank[..., :, np.newaxis], 1.0, residual_ratio)
    if access_points is not None:
        points = np.asarray(access_points)
        weights = np.where(points[:, np.newaxis] == points[np.newaxis, :], weights, leakage_ratio)
    return np.where(np.eye(ues, dtype=bool), 0.0, weights)


def superposed_rates(
    powers_watts: ArrayLike,
    gains: ArrayLike,
    widths_hz: ArrayLike,
    noise_watts_per_hz: ArrayLike,
    *,
    downlink: bool,
    residual_ratio: float = 0.0,
    access_points: ArrayLike | None = None,
    leakage_ratio: float = 0.0,
) -> Floats:
    """bit/s of each UE on each subchannel, shape (..., UEs, subchannels).

    ``powers_watts`` and ``gains`` are (..., UEs, subchannels), ``widths_hz`` is (UEs, subchannels) or (subchannels,),
    the noise a number or of the gains' shape. A UE is on a subchannel if it has power there. With perfect SIC and one
    access point the uplink's rates of a subchannel sum to ``B log2(1 + sum_i p_i g_i / (N0 B))``.
    """
    gains = np.asarray(gains, dtype=np.float64)
    powers, gains = np.broadcast_arrays(np.asarray(powers_watts, dtype=np.float64), gains)
    widths = np.asarray(widths_hz, dtype=np.float64)
    weights = interference_weights(
        gains,
        downlink=downlink,
        residual_ratio=residual_ratio,
        access_points=access_points,
        leakage_ratio=leakage_ratio,
    )
    signal = powers if downlink else powers * gains
    disturbing = np.swapaxes((weights @ np.swapaxes(signal, -1, -2)[..., np.newaxis])[..., 0], -1, -2)
    noise = np.asarray(noise_watts_per_hz) * widths
    with np.errstate(divide="ignore", invalid="ignore"):
        floor = noise / gains if downlink else np.broadcast_to(noise, gains.shape)
        ratio = np.where(signal > 0, signal / (disturbing + floor), 0.0)
    return np.asarray(np.where(widths > 0, widths * np.log2(1.0 + ratio), 0.0))

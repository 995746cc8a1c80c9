"""Predicted stage times of a task, without queueing: what a profile, a speed, a share and two rates give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controller.contract import ALL_ON_DEVICE, ALL_ON_EDGE, Codec, Cut, ModelProfile, Scenario, UeScenario
from controller.model.cut_times import input_encode_seconds, several_tensor_seconds

Floats = NDArray[np.float64]


def cut_codec(ue: UeScenario, cut: Cut, codec: Codec | None = None) -> Codec:
    """The codec of a cut: the input's own for the raw input, ``codec`` (None: the lab's) for every other boundary."""
    return ue.input_codec if cut == ALL_ON_EDGE else codec or ue.boundary_codec


def stage_work(profile: ModelProfile, cut: Cut, codec: Codec) -> tuple[float, float]:
    """(head, tail) seconds on the reference core of any canonical cut: what agents pace to and models compute with.

    Encoding is part of the head, decoding of the tail. The raw input has no head but its encoding (none as it is); the
    local cut has no tail. Cuts of several tensors: :mod:`controller.model.cut_times`. Raises KeyError for a codec
    without times.
    """
    times = profile.codecs[codec]
    if cut not in profile.chain_cuts:
        return several_tensor_seconds(profile, cut, codec)
    index = profile.chain_index(cut)
    if cut == ALL_ON_DEVICE:
        return profile.head_seconds[index], 0.0
    tail = profile.tail_seconds[index] + times.decode_seconds[index]
    if cut == ALL_ON_EDGE:
        return input_encode_seconds(profile, codec), tail
    return profile.head_seconds[index] + times.encode_seconds[index], tail


def wire_bits(scenario: Scenario, payload_bytes: ArrayLike) -> Floats:
    """Layer-2 bits of a message: payload and task header, with TCP/IP/Ethernet framing."""
    payload = np.asarray(payload_bytes, dtype=np.float64)
    return 8.0 * scenario.framing_ratio * (payload + scenario.header_bytes)


@dataclass(frozen=True)
class ChainWork:
    """What each single-tensor cut of one UE costs, aligned with ``profile.chain_cuts``; shape (cuts,).

    Encoding is part of the head's stage, decoding part of the tail's. The local cut sends nothing.
    """

    head_seconds: Floats  # head and encode, on the reference core
    tail_seconds: Floats  # decode and tail, on the reference core
    up_bits: Floats  # layer 2
    down_bits: Floats  # layer 2
    uplink_delay_seconds: Floats
    downlink_delay_seconds: Floats

    def stages(
        self,
        speed: ArrayLike,
        share: ArrayLike,
        rate_up_bits_per_second: ArrayLike,
        rate_down_bits_per_second: ArrayLike,
        cut_index: ArrayLike | None = None,
    ) -> dict[str, Floats]:
        """Seconds by stage (``head``, ``uplink``, ``tail``, ``downlink``) of the cuts at ``cut_index`` (None: all).

        Arguments broadcast against the selected cuts. What is needed but not granted (a rate or share of 0) takes
        inf; what is not needed takes 0.
        """
        chosen = slice(None) if cut_index is None else np.asarray(cut_index)
        return {
            "head": _over(self.head_seconds[chosen], speed),
            "uplink": self.uplink_delay_seconds[chosen] + _over(self.up_bits[chosen], rate_up_bits_per_second),
            "tail": _over(self.tail_seconds[chosen], share),
            "downlink": self.downlink_delay_seconds[chosen] + _over(self.down_bits[chosen], rate_down_bits_per_second),
        }


def _over(work: Floats, capacity: ArrayLike) -> Floats:
    """``work / capacity`` with 0 / anything = 0 and positive / 0 = inf."""
    work, capacity = np.broadcast_arrays(work, np.asarray(capacity, dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(work > 0, work / capacity, 0.0)


def chain_work(scenario: Scenario, ue_index: int, codec: Codec | None = None) -> ChainWork:
    """The :class:`ChainWork` of a UE. Make it once per reset: it does not change during a run.

    Raises KeyError when the profile has no times for the codec.
    """
    ue = scenario.ues[ue_index]
    profile = ue.profile
    names = [cut_codec(ue, cut, codec) for cut in profile.chain_cuts]
    work = [stage_work(profile, cut, name) for cut, name in zip(profile.chain_cuts, names, strict=True)]
    payload = [profile.boundary_bytes(cut, name) for cut, name in zip(profile.chain_cuts, names, strict=True)]
    remote = np.array([bool(cut) for cut in profile.chain_cuts])
    return ChainWork(
        head_seconds=np.array([head for head, _ in work]),
        tail_seconds=np.array([tail for _, tail in work]),
        up_bits=np.where(remote, wire_bits(scenario, payload), 0.0),
        down_bits=np.where(remote, wire_bits(scenario, profile.result_bytes), 0.0),
        uplink_delay_seconds=np.where(remote, ue.uplink_delay_seconds, 0.0),
        downlink_delay_seconds=np.where(remote, ue.downlink_delay_seconds, 0.0),
    )


def predict_stages(
    scenario: Scenario,
    ue_index: int,
    cut_index: ArrayLike | None,
    speed: ArrayLike,
    share: ArrayLike,
    rate_up_bits_per_second: ArrayLike,
    rate_down_bits_per_second: ArrayLike,
) -> dict[str, Floats]:
    """Seconds by stage of one task of a UE, without queueing; see :meth:`ChainWork.stages`."""
    work = chain_work(scenario, ue_index)
    return work.stages(speed, share, rate_up_bits_per_second, rate_down_bits_per_second, cut_index)

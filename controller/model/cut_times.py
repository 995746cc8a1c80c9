"""Stage times of any cut, from a profile: sums over its nodes and tensors, or what was measured of that very cut.

A profile times heads and tails at single-tensor cuts. For a cut of several tensors the nodes' times are summed, on each
side scaled between every two single-tensor cuts so that those cuts come out as measured (isolated nodes summed would
over-predict by 14 to 29 %), and each tensor is encoded and decoded in the time that a single-tensor cut of its size
takes. Where the profile has a measurement of the cut (``testbed profile MODEL --cut``), that is what counts.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.contract import ALL_ON_EDGE, Codec, Cut, ModelProfile
from controller.contract.codec import has_fixed_size
from controller.model.cuts import device_set

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NodeWork:
    """Per node of a graph, aligned with ``profile.nodes``, in seconds on the reference core; shape (nodes,)."""

    device_seconds: Floats  # prefix sums at single-tensor cuts are the profile's head times
    edge_seconds: Floats  # suffix sums are its tail times
    encode_seconds: Floats  # of the node's value, should it cross
    decode_seconds: Floats
    boundary_bytes: Floats  # encoded

    @classmethod
    def of(cls, profile: ModelProfile, input_codec: Codec, codec: Codec) -> NodeWork:
        """The raw input travels by ``input_codec``, every other value by ``codec``. Raises KeyError for a codec
        without times."""
        boundary = np.array([node.output_bytes for node in profile.nodes], dtype=np.float64)
        encoded = np.array(profile.value_bytes(codec), dtype=np.float64)
        encoded[0] = profile.boundary_bytes(ALL_ON_EDGE, input_codec)
        encode, decode = _codec_seconds(profile, boundary, codec)
        encode[0] = input_encode_seconds(profile, input_codec)
        decode[0] = profile.codecs[input_codec].decode_seconds[0]
        device = np.array(profile.device_node_seconds or profile.node_seconds)
        return cls(device, _edge_seconds(profile), encode, decode, encoded)

    def estimate(self, profile: ModelProfile, cut: Cut) -> tuple[float, float]:
        """(head with encoding, decoding with tail) of a cut: the sums."""
        device = device_set(profile.nodes, cut)
        inside = np.array([node.name in device for node in profile.nodes])
        crossing = np.isin([node.name for node in profile.nodes], cut)
        head = float(self.device_seconds[inside].sum() + self.encode_seconds[crossing].sum())
        tail = float(self.edge_seconds[~inside].sum() + self.decode_seconds[crossing].sum())
        return head, tail


def input_encode_seconds(profile: ModelProfile, codec: Codec) -> float:
    """Of the raw input, on the reference core: 0 where it goes out as it is. Raises KeyError for a codec without
    times."""
    times = profile.codecs[codec]
    return 0.0 if has_fixed_size(codec) else times.encode_seconds[0]


def several_tensor_seconds(profile: ModelProfile, cut: Cut, codec: Codec) -> tuple[float, float]:
    """(head with encoding, decoding with tail) of a cut that is none of the single-tensor ones: as measured, else
    the estimate. Raises ValueError for a name that is not in the graph, KeyError for a codec without times."""
    work = NodeWork.of(profile, codec, codec)
    head, tail = work.estimate(profile, cut)
    for measured in profile.measured_cuts:
        if measured.cut == cut:
            tail += measured.tail_seconds - measured.estimated_tail_seconds
            if not profile.device_node_seconds:  # else the device is another one than was measured
                head += measured.head_seconds - measured.estimated_head_seconds
    return head, tail


def estimated_seconds(profile: ModelProfile, cut: Cut) -> tuple[float, float]:
    """(head, tail) of any cut as sums of node times, without codecs: what a measurement is compared with."""
    device = device_set(profile.nodes, cut)
    inside = np.array([node.name in device for node in profile.nodes])
    own = np.array(profile.device_node_seconds or profile.node_seconds)
    return float(own[inside].sum()), float(_edge_seconds(profile)[~inside].sum())


def _edge_seconds(profile: ModelProfile) -> Floats:
    """Node times scaled between each two single-tensor cuts so that suffix sums are the tail times."""
    names = [node.name for node in profile.nodes]
    ends = [names.index(cut[0]) for cut in profile.chain_cuts[:-1]] + [len(names) - 1]
    nodes = np.array(profile.node_seconds)
    seconds = np.zeros(len(names))
    for (start, end), spent in zip(itertools.pairwise(ends), -np.diff(profile.tail_seconds), strict=True):
        part = nodes[start + 1 : end + 1]
        total = part.sum()
        seconds[start + 1 : end + 1] = part * (spent / total) if total > 0 else spent / max(part.size, 1)
    return seconds


def _codec_seconds(profile: ModelProfile, boundary_bytes: Floats, codec: Codec) -> tuple[Floats, Floats]:
    """Encode and decode times by size: those of the single-tensor cuts, interpolated between."""
    times = profile.codecs[codec]
    sizes = {node.name: float(node.output_bytes) for node in profile.nodes}
    known = sorted(
        (sizes[cut[0]], times.encode_seconds[index], times.decode_seconds[index])
        for index, cut in enumerate(profile.chain_cuts)
        if cut and cut != ALL_ON_EDGE
    ) or [(0.0, times.encode_seconds[0], times.decode_seconds[0])]
    by_size, encode, decode = (np.array(column) for column in zip(*known, strict=True))
    return np.interp(boundary_bytes, by_size, encode), np.interp(boundary_bytes, by_size, decode)

"""Target times of stages, from the ModelProfile."""

from __future__ import annotations

from controller.contract import Codec, Cut, ModelProfile
from controller.model.cuts import device_set


class StageTimes:
    """Seconds on the reference core of head with encoding, and of decoding with tail, of any canonical cut.

    For a cut of several tensors, which no profile times as a whole: the sum of its nodes' times, and the codec's time
    of the chain cut whose encoded bytes are nearest.
    """

    def __init__(self, profile: ModelProfile) -> None:
        self._profile = profile
        self._cache: dict[tuple[Cut, Codec], tuple[float, float]] = {}

    def head_seconds(self, cut: Cut, codec: Codec) -> float:
        return self._of(cut, codec)[0]

    def tail_seconds(self, cut: Cut, codec: Codec) -> float:
        return self._of(cut, codec)[1]

    def _of(self, cut: Cut, codec: Codec) -> tuple[float, float]:
        key = (cut, codec)
        if key not in self._cache:
            self._cache[key] = self._compute(cut, codec)
        return self._cache[key]

    def _compute(self, cut: Cut, codec: Codec) -> tuple[float, float]:
        profile = self._profile
        times = profile.codecs[codec]
        if cut in profile.chain_cuts:
            index = profile.chain_index(cut)
            head, tail = profile.head_seconds[index], profile.tail_seconds[index]
        else:
            on_device = device_set(profile.nodes, cut)
            head = tail = 0.0
            for node, seconds in zip(profile.nodes, profile.node_seconds, strict=True):
                if node.name in on_device:
                    head += seconds
                else:
                    tail += seconds
            size = profile.boundary_bytes(cut, codec)
            index = min(
                range(1, len(profile.chain_cuts) - 1),
                key=lambda i: abs(profile.boundary_bytes(profile.chain_cuts[i], codec) - size),
                default=0,
            )
        if cut == ():
            return head, 0.0
        if cut == ("input",):
            return 0.0, tail + times.decode_seconds[index]
        return head + times.encode_seconds[index], times.decode_seconds[index] + tail

"""Target times of stages, from the ModelProfile."""

from __future__ import annotations

from controller.contract import Codec, Cut, ModelProfile
from controller.model.delay import stage_work


class StageTimes:
    """Seconds on the reference core of head with encoding, and of decoding with tail, of any canonical cut."""

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
            self._cache[key] = stage_work(self._profile, cut, codec)
        return self._cache[key]

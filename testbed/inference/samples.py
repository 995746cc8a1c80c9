"""Inputs on which codecs are tried: sizes and agreement depend on what is sent."""

from __future__ import annotations

from torch import Tensor

from testbed.inference.partition import SplitModel

SAMPLES = 8
#: Beside the indices of a task's input (UE, number): no task gets one of these.
_APART = 1 << 20


def sample_inputs(split: SplitModel, seed: int, count: int = SAMPLES) -> list[Tensor]:
    """Random ones, as tasks have them where a lab names no input: the same for the same seed."""
    return [split.model.signature.random(seed, _APART, number) for number in range(count)]

"""Where a UE's inputs come from, and which one a task has. No decoder and no torch in here: every node reads it."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.seeds import Purpose, generator

Kind = Literal["images", "video", "array"]
SOURCES: tuple[Kind, ...] = ("images", "video", "array")
#: Random images per UE. Drawing one anew for every task would cost more than it shows.
IMAGES = 16


class Source(msgspec.Struct, frozen=True):
    """What a lab file names."""

    kind: Kind
    path: str
    labels: str = ""
    size: tuple[int, int] | None = None  # height, width


class Inputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Inputs ready for use: one ``.npy`` of uint8, (count, C, H, W)."""

    path: str
    kind: Kind
    sha256: str  # of what the array holds
    shape: tuple[int, int, int, int]
    rate_per_second: float = 0.0  # of a video's frames; 0: it has none
    labels_path: str = ""  # of testbed.inputs.labels; empty: there are none

    @property
    def count(self) -> int:
        return self.shape[0]


def order_of(inputs: Inputs | None, seed: int, ue_index: int) -> NDArray[np.int64]:
    """Index of the input of tasks 0, 1, 2, ..., and so on from the start: (count,).

    The frames of a video in their order, from the first one on; everything else in an order drawn from the seed, the
    same under every policy. Without inputs: numbers of random images.
    """
    if inputs is None:
        return np.arange(IMAGES)
    if inputs.kind == "video":
        return np.arange(inputs.count)
    return generator(seed, Purpose.INPUT, ue_index).permutation(inputs.count)

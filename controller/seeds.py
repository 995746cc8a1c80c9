"""One root seed; an independent stream per purpose and UE (``numpy.random.SeedSequence``)."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a random stream is for. Values are part of the file format: never renumber."""

    ARRIVALS = 0
    CHANNEL_UP = 1
    CHANNEL_DOWN = 2
    SHADOWING = 3
    MODEL = 4
    INPUT = 5
    POLICY = 6
    LINK = 7
    TRAINING = 8
    OBSERVATION = 9


def sequence(root: int, purpose: Purpose, *indices: int) -> np.random.SeedSequence:
    """The seed sequence of a purpose, e.g. ``sequence(7, Purpose.ARRIVALS, ue_index)``."""
    return np.random.SeedSequence(root, spawn_key=(int(purpose), *indices))


def generator(root: int, purpose: Purpose, *indices: int) -> np.random.Generator:
    """A generator on :func:`sequence`."""
    return np.random.default_rng(sequence(root, purpose, *indices))


def integer(root: int, purpose: Purpose, *indices: int) -> int:
    """A 31-bit seed for libraries that take an int (torch, tc)."""
    return int(sequence(root, purpose, *indices).generate_state(1)[0] & 0x7FFFFFFF)

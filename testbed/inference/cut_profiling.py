"""Measuring cuts of several tensors: a profile has them only where somebody asks, since a graph has millions.

Head and tail of each cut are run by themselves, open loop as in :mod:`testbed.inference.profiling`, in turn with the
whole model: what counts is their part of that, so that a host which is slower today than when it was profiled does not
make these cuts look worse than the others. Beside each measurement stands what the sum over the nodes had said.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from controller.contract import ALL_ON_DEVICE, Cut, MeasuredCut, ModelProfile, cut_from_label, cut_label
from controller.model.cut_times import estimated_seconds
from testbed.errors import InputError
from testbed.inference.partition import SplitModel
from testbed.inference.profiling import Effort, Progress

ROUNDS = 25


def measure_cuts(
    split: SplitModel,
    profile: ModelProfile,
    labels: Sequence[str],
    *,
    rounds: int = ROUNDS,
    idle_seconds: float = Effort().idle_seconds,
    progress: Progress = lambda text, ratio: None,
) -> ModelProfile:
    """The profile with these cuts measured; one that it has already is measured anew.

    Raises InputError for a label that is no cut of the model, or one of a single tensor: the profile has those.
    """
    cuts = [_cut(split, profile, label) for label in labels]
    image = split.model.probe
    samples: dict[tuple[Cut, str], list[float]] = {}
    runs: list[tuple[tuple[Cut, str], Callable[[], object]]] = []
    whole = split.partition(ALL_ON_DEVICE)
    runs += [((ALL_ON_DEVICE, "head"), lambda: whole.head(image))] * 2
    for cut in cuts:
        partition = split.partition(cut)
        tensors = tuple(tensor.clone() for tensor in partition.head(image))
        partition.tail(tensors)
        runs.append(((cut, "head"), lambda partition=partition: partition.head(image)))  # type: ignore[misc]
        runs.append(((cut, "tail"), lambda partition=partition, given=tensors: partition.tail(given)))  # type: ignore[misc]
    order = random.Random(0)
    for number in range(rounds):
        order.shuffle(runs)
        for key, run in runs:
            time.sleep(idle_seconds)
            start = time.perf_counter()
            run()
            samples.setdefault(key, []).append(time.perf_counter() - start)
        progress(f"round {number + 1} of {rounds}", (number + 1) / rounds)
    scale = profile.head_seconds[-1] / float(np.median(samples[ALL_ON_DEVICE, "head"]))

    def seconds(cut: Cut, side: str) -> float:
        return round(scale * float(np.median(samples[cut, side])), 9)

    measured = []
    for cut in cuts:
        head, tail = estimated_seconds(profile, cut)
        measured.append(MeasuredCut(cut, seconds(cut, "head"), seconds(cut, "tail"), round(head, 9), round(tail, 9)))
    kept = [found for found in profile.measured_cuts if found.cut not in cuts]
    return msgspec.structs.replace(profile, measured_cuts=(*kept, *measured))


def _cut(split: SplitModel, profile: ModelProfile, label: str) -> Cut:
    cut = cut_from_label(label)
    try:
        split.partition(cut)
    except ValueError as error:
        raise InputError(
            f"this is no cut of {profile.model}: {error}",
            where="--cut",
            value=label,
            allowed="names of graph values joined by +, as they cross the wire",
        ) from error
    if cut in profile.chain_cuts:
        raise InputError(
            "a cut of a single tensor is in every profile",
            where="--cut",
            value=cut_label(cut),
            allowed="cuts of several tensors",
        )
    return cut

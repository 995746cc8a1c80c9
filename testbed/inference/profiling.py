"""Measuring a model: how long its head and tail take at every cut, on the reference core.

Summing isolated layers over-predicts by up to 30 %, and timing every cut's head and tail by itself would take minutes.
So whole passes are stamped after each node, which gives the times of all prefixes and suffixes in place; heads and
tails of some cuts (*anchors*) are also run by themselves, and what they take more or less than the stamps say (a tail
that starts cold) is interpolated over the cuts between them. Cuts that are no anchors are run by themselves too, only
to be compared: their mean absolute error is the profile's hold-out error.

Everything runs open loop: an idle gap before each run, since that is how an inference starts in the field, and a cold
one takes 20-45 % longer than back-to-back ones do.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from controller.contract import ALL_ON_EDGE, PLAIN_CODECS, Codec, CodecTimes, Cut, ModelProfile, ReferenceCore
from testbed.inference import calibration, tensors
from testbed.inference.codec import VALUE_DTYPES
from testbed.inference.graph import INPUT
from testbed.inference.partition import SplitModel, load_split_model
from testbed.inference.profiles import PROFILE_VERSION, REFERENCE_CORE_FRACTION, host_cpu

Progress = Callable[[str, float], None]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Effort:
    """How much to measure. The defaults profile MobileNetV2 in less than a minute."""

    budget_seconds: float = 45.0  # of measuring; repetitions are chosen to fit
    idle_seconds: float = 0.02  # before each run
    anchors: int = 10
    holdouts: int = 6
    minimum_repetitions: int = 7
    maximum_repetitions: int = 60
    codec_repetitions: int = 9


@dataclass
class _Samples:
    """Seconds of repeated runs; reduced by their median."""

    runs: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return float(np.median(self.runs))


def profile_model(
    name: str,
    seed: int,
    *,
    reference_fraction: float = REFERENCE_CORE_FRACTION,
    effort: Effort = Effort(),
    progress: Progress | None = None,
    python_path: Sequence[Path] = (),
) -> ModelProfile:
    """Load, trace and measure a model by name. Times are those of this host's core / ``reference_fraction``.

    ``progress`` is called with what is being done and how much of it, 0 to 1. Raises InputError for a model that
    cannot be loaded or traced.
    """
    report = progress or (lambda text, ratio: None)
    report("loading and tracing", 0.0)
    split = load_split_model(name, seed, python_path)
    return profile_split(split, reference_fraction=reference_fraction, effort=effort, progress=report)


def profile_split(split: SplitModel, *, reference_fraction: float, effort: Effort, progress: Progress) -> ModelProfile:
    """Measure a loaded model (see :func:`profile_model`)."""
    graph = split.graph
    progress("building", 0.05)
    passes = _Passes(split, effort)
    passes.measure(progress)
    head, tail, holdout_error = passes.predict()
    node_seconds = _scale_nodes(split, passes.node_seconds(), head)
    progress("codecs", 0.9)
    codecs = _codec_times(split, effort, reference_fraction)
    progress("done", 1.0)
    return ModelProfile(
        version=PROFILE_VERSION,
        model=split.model.name,
        nodes=graph.nodes,
        chain_cuts=graph.chain_cuts,
        head_seconds=_rounded(head / reference_fraction),
        tail_seconds=_rounded(tail / reference_fraction),
        node_seconds=_rounded(node_seconds / reference_fraction),
        codecs=codecs,
        result_bytes=split.model.answer.numel() * split.model.answer.element_size(),
        reference_core=ReferenceCore(
            reference_fraction,
            host_cpu(),
            torch.__version__.split("+")[0],
            kernel_seconds=round(passes.kernel.seconds, 9),
            kernel_version=calibration.KERNEL_VERSION,
        ),
        holdout_error_ratio=round(holdout_error, 4),
        p99_over_median_ratio=round(passes.spread(), 3),
    )


def _rounded(seconds: Iterable[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 9) for value in seconds)


class _Passes:
    """Stamped whole passes, and heads and tails by themselves, all interleaved so that drift hits them alike."""

    def __init__(self, split: SplitModel, effort: Effort) -> None:
        self._split = split
        self._effort = effort
        self._image = split.model.probe
        self._cuts = split.graph.chain_cuts
        self._segments = split.partition(ALL_ON_EDGE).node_segments()
        self._stamps: list[Floats] = []  # per pass: seconds from its start to the end of each node but "input"
        self._whole = _Samples()
        self._kernel_run = calibration.make_kernel()
        self.kernel = _Samples()  # the same on every host: what relates this profile to another one
        self._stamped_pass()
        middle, whole = self._stamped_pass(), self._run_whole()
        self._anchors, self._holdouts = _choose(self._prefixes(middle), effort)
        self._heads = {index: _Samples() for index in self._anchors + self._holdouts}
        self._tails = {index: _Samples() for index in self._anchors + self._holdouts}
        self._inputs: dict[int, tuple[Tensor, ...]] = {}
        for index in self._heads:
            partition = split.partition(self._cuts[index])
            self._inputs[index] = tuple(tensor.clone() for tensor in partition.head(self._image))
            partition.tail(self._inputs[index])
        round_seconds = (len(self._heads) + 4) * whole + (2 * len(self._heads) + 4) * effort.idle_seconds
        self.rounds = int(
            np.clip(effort.budget_seconds / round_seconds, effort.minimum_repetitions, effort.maximum_repetitions)
        )

    def measure(self, progress: Progress) -> None:
        order = random.Random(0)
        runs: list[Callable[[], None]] = [self._record_stamps, self._record_whole] * 2 + [self._record_kernel]
        for index in self._heads:
            runs += [self._record_head(index), self._record_tail(index)]
        for number in range(self.rounds):
            order.shuffle(runs)
            for run in runs:
                time.sleep(self._effort.idle_seconds)
                run()
            progress(f"round {number + 1} of {self.rounds}", 0.05 + 0.85 * (number + 1) / self.rounds)

    def predict(self) -> tuple[Floats, Floats, float]:
        """Head and tail seconds of each chain cut on this host, and the mean absolute relative error on hold-outs."""
        prefix = self._prefixes(np.median(np.stack(self._stamps), axis=0))
        suffix = prefix[-1] - prefix
        whole = self._whole.seconds
        head_more = self._interpolate(prefix, {i: s.seconds - prefix[i] for i, s in self._heads.items()}, whole)
        tail_more = self._interpolate(prefix, {i: s.seconds - suffix[i] for i, s in self._tails.items()}, whole)
        head = np.maximum.accumulate(np.concatenate([[0.0], (prefix + head_more)[1:-1], [whole]]))
        tail = np.maximum.accumulate(np.concatenate([[whole], (suffix + tail_more)[1:-1], [0.0]])[::-1])[::-1]
        head, tail = np.minimum(head, whole), np.minimum(tail, whole)
        errors = [abs(head[i] / self._heads[i].seconds - 1) for i in self._holdouts]
        errors += [abs(tail[i] / self._tails[i].seconds - 1) for i in self._holdouts]
        return head, tail, float(np.mean(errors)) if errors else 0.0

    def node_seconds(self) -> Floats:
        """Seconds of each node, "input" included (0), as stamped."""
        stamps = np.stack(self._stamps)
        return np.concatenate([[0.0], np.median(np.diff(stamps, axis=1, prepend=0.0), axis=0)])

    def spread(self) -> float:
        """99th percentile over median of the whole model's time."""
        return float(np.quantile(self._whole.runs, 0.99) / self._whole.seconds)

    def _prefixes(self, stamps: Floats) -> Floats:
        """Seconds until the value of each chain cut exists: 0 for "input", the whole pass for ``()``."""
        at = {segment.nodes[0]: float(stamp) for segment, stamp in zip(self._segments, stamps, strict=True)}
        return np.array([0.0, *[at[cut[0]] for cut in self._cuts[1:-1]], float(stamps[-1])])

    def _interpolate(self, prefix: Floats, more: dict[int, float], whole: float) -> Floats:
        ends = {0: whole - prefix[-1], len(prefix) - 1: whole - prefix[-1]}
        known = sorted(ends | {index: more[index] for index in self._anchors})
        values = [(ends | more)[index] for index in known]
        interpolated: Floats = np.interp(prefix, prefix[known], values)
        return interpolated

    def _stamped_pass(self) -> Floats:
        state = {INPUT: self._image}
        stamps = np.empty(len(self._segments))
        with torch.inference_mode():
            start = time.perf_counter()
            for index, segment in enumerate(self._segments):
                segment(state)
                stamps[index] = time.perf_counter() - start
        return stamps

    def _run_whole(self) -> float:
        module = self._split.partition(()).head_module
        with torch.inference_mode():
            start = time.perf_counter()
            module(self._image)
            return time.perf_counter() - start

    def _record_stamps(self) -> None:
        self._stamps.append(self._stamped_pass())

    def _record_whole(self) -> None:
        self._whole.runs.append(self._run_whole())

    def _record_kernel(self) -> None:
        start = time.perf_counter()
        self._kernel_run()
        self.kernel.runs.append(time.perf_counter() - start)

    def _record_head(self, index: int) -> Callable[[], None]:
        partition = self._split.partition(self._cuts[index])

        def run() -> None:
            start = time.perf_counter()
            partition.head(self._image)
            self._heads[index].runs.append(time.perf_counter() - start)

        return run

    def _record_tail(self, index: int) -> Callable[[], None]:
        partition = self._split.partition(self._cuts[index])

        def run() -> None:
            start = time.perf_counter()
            partition.tail(self._inputs[index])
            self._tails[index].runs.append(time.perf_counter() - start)

        return run


def _choose(prefix: Floats, effort: Effort) -> tuple[list[int], list[int]]:
    """Indices of anchor cuts (dense at both ends, where stages are short, then even in time) and of hold-outs."""
    inner = list(range(1, len(prefix) - 1))
    if len(inner) <= 3:
        return inner, []
    anchors = {inner[0], inner[-1]}
    for level in np.linspace(0.0, prefix[-1], effort.anchors):
        anchors.add(int(np.clip(np.searchsorted(prefix, level), inner[0], inner[-1])))
    free = [index for index in inner if index not in anchors]
    if not free:  # a short chain: every other anchor but the ends becomes a hold-out
        free = sorted(anchors)[1:-1:2]
        anchors.difference_update(free)
    picks = np.unique(np.linspace(0, len(free) - 1, effort.holdouts).round().astype(int))
    return sorted(anchors), [free[pick] for pick in picks]


def _scale_nodes(split: SplitModel, measured: Floats, head: Floats) -> Floats:
    """Scale the nodes between each two chain cuts so that prefix sums equal the head times."""
    names = [node.name for node in split.graph.nodes]
    ends = [names.index(cut[0]) for cut in split.graph.chain_cuts[:-1]] + [len(names) - 1]
    seconds = np.zeros(len(names))
    for (start, end), spent in zip(itertools.pairwise(ends), np.diff(head), strict=True):
        share = measured[start + 1 : end + 1]
        total = share.sum()
        seconds[start + 1 : end + 1] = share * (spent / total) if total > 0 else spent / len(share)
    return seconds


# ------------------------------------------------------------------------------------------------------------- codecs


def _codec_times(split: SplitModel, effort: Effort, fraction: float) -> dict[Codec, CodecTimes]:
    """Seconds to pack and unpack the tensor of each chain cut: of its type, at up to 10 sizes, interpolated between."""
    nodes = {node.name: node for node in split.graph.nodes}
    boundary = [nodes[cut[0]] for cut in split.graph.chain_cuts[1:-1]]
    known: dict[str, list[int]] = {}  # numbers in a tensor, by type
    for name in {node.dtype for node in boundary}:
        counts = [math.prod(node.output_shape) for node in boundary if node.dtype == name]
        known[name] = sorted({int(count) for count in np.quantile(counts, np.linspace(0, 1, 10), method="nearest")})
    result: dict[Codec, CodecTimes] = {}
    for codec in PLAIN_CODECS:
        measured = {
            name: [_codec_pair(_numbers(count, name), ("boundary",), codec, effort) for count in counts]
            for name, counts in known.items()
        }
        raw = _codec_pair(split.model.probe, ALL_ON_EDGE, codec, effort)
        columns = []
        for side in (0, 1):
            inner = [
                float(
                    np.interp(math.prod(node.output_shape), known[node.dtype], [m[side] for m in measured[node.dtype]])
                )
                for node in boundary
            ]
            columns.append(_rounded(np.array([raw[side], *inner, 0.0]) / fraction))
        result[codec] = CodecTimes(columns[0], columns[1])
    return result


def _numbers(count: int, dtype_name: str) -> Tensor:
    """Something of that type to pack."""
    dtype = VALUE_DTYPES[dtype_name]
    if dtype_name.startswith("q"):
        return torch.quantize_per_tensor(torch.randn(1, count), 0.1, 0, dtype)
    return torch.randn(1, count).to(dtype)


def _codec_pair(tensor: Tensor, cut: Cut, codec: Codec, effort: Effort) -> tuple[float, float]:
    encode, decode = _Samples(), _Samples()
    for _ in range(effort.codec_repetitions):
        time.sleep(effort.idle_seconds / 4)
        start = time.perf_counter()
        header, buffers = tensors.pack(0, cut, [tensor], codec)
        middle = time.perf_counter()
        tensors.unpack(header, buffers)
        encode.runs.append(middle - start)
        decode.runs.append(time.perf_counter() - middle)
    return encode.seconds, decode.seconds

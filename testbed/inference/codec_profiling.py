"""Measuring codecs on inputs: how long they take at each cut, how many bytes they make, and how often the split model
then answers as the unsplit fp32 model does.

Every value of an input is computed once; each codec packs and unpacks it, and the tail goes on with what came out.
Times are this host's, brought to the profile's reference core by the whole model's time, measured in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from controller.contract import ALL_ON_DEVICE, ALL_ON_EDGE, Codec, CodecSizes, CodecTimes, Cut, ModelProfile, cut_label
from controller.contract.codec import has_fixed_size, is_lossless
from testbed.errors import InputError
from testbed.inference import tensors
from testbed.inference.bundles import parts_of
from testbed.inference.graph import INPUT
from testbed.inference.partition import SplitModel
from testbed.inference.profiles import Uses
from testbed.inference.profiling import Effort, Progress

IDLE_SECONDS = Effort().idle_seconds / 4


@dataclass
class _Tried:
    """What one codec did with the inputs at one cut."""

    encode_seconds: list[float] = field(default_factory=list)
    decode_seconds: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    agreed: list[bool] = field(default_factory=list)


def agrees(answer: Any, reference: Any) -> bool:
    """Whether an answer is the reference's: the same class of a vector (1, classes), else all numbers close to it."""
    answers, references = tree_leaves(answer), tree_leaves(reference)
    if len(answers) != len(references):
        return False
    pairs = list(zip(answers, references, strict=True))
    if len(pairs) == 1 and isinstance(reference, Tensor) and reference.ndim == 2 and reference.shape[0] == 1:
        return bool(answer.argmax() == reference.argmax())
    return all(
        one.shape == other.shape and torch.allclose(one.float(), other.float(), rtol=1e-3, atol=1e-3)
        if isinstance(other, Tensor)
        else one == other
        for one, other in pairs
    )


def measure_codecs(
    split: SplitModel,
    profile: ModelProfile,
    uses: Uses,
    samples: Sequence[Tensor],
    *,
    agreement: bool = True,
    idle_seconds: float = IDLE_SECONDS,
    progress: Progress = lambda text, ratio: None,
) -> ModelProfile:
    """The profile with times, sizes and (where it is asked for: it runs all tails) agreement of codecs on these inputs;
    what it had of these uses is replaced.

    A user's codec has been loaded (:func:`testbed.inference.coders.load_own`). Raises InputError for one that fails at
    a cut, and for a picture's of an input that is none.
    """
    if not samples:
        raise ValueError("codecs are measured on at least one input")
    tried = {(codec, cut): _Tried() for codec in uses.boundary for cut in profile.chain_cuts[1:-1]}
    tried |= {(codec, ALL_ON_EDGE): _Tried() for codec in uses.raw}
    whole: list[float] = []
    for number, sample in enumerate(samples):
        start = time.perf_counter()
        reference = _answer(split, split.partition(ALL_ON_DEVICE).head(sample)[0])
        whole.append(time.perf_counter() - start)
        values = _values(split, sample)
        for at, (codec, cut) in enumerate(tried):
            time.sleep(idle_seconds)
            given = _coded(split, codec, cut, values, tried[codec, cut])
            if agreement:
                lossless = is_lossless(codec, raw_input=cut == ALL_ON_EDGE)
                same = lossless or agrees(_answer(split, split.partition(cut).tail(given)), reference)
                tried[codec, cut].agreed.append(same)
            if at % len(profile.chain_cuts) == 0:
                progress(f"codec {codec}", (number + at / len(tried)) / len(samples))
    scale = profile.head_seconds[-1] / float(np.median(whole[1:] or whole))
    for codec in dict.fromkeys((*uses.raw, *uses.boundary)):
        own = {cut: tried[codec, cut] for cut in profile.chain_cuts if (codec, cut) in tried}
        profile = _with(profile, codec, own, scale)
    return profile


def _with(profile: ModelProfile, codec: Codec, tried: Mapping[Cut, _Tried], scale: float) -> ModelProfile:
    """The profile with what one codec did; at other cuts what it said before, else no time and no agreement."""
    cuts = profile.chain_cuts
    nothing = (0.0,) * len(cuts)
    times, sizes, agreement = dict(profile.codecs), dict(profile.sizes), dict(profile.agreement)

    def column(before: Sequence[float], of: Callable[[_Tried], float]) -> tuple[float, ...]:
        return tuple(of(tried[cut]) if cut in tried else old for cut, old in zip(cuts, before, strict=True))

    old = times.get(codec, CodecTimes(nothing, nothing))
    times[codec] = CodecTimes(
        column(old.encode_seconds, lambda one: _median(one.encode_seconds, scale)),
        column(old.decode_seconds, lambda one: _median(one.decode_seconds, scale)),
    )
    if any(one.agreed for one in tried.values()):
        unknown = (*nothing[:-1], 1.0)
        agreement[codec] = column(agreement.get(codec, unknown), lambda one: round(float(np.mean(one.agreed)), 4))
    if not has_fixed_size(codec):
        raw = tuple(float(profile.boundary_bytes(cut, "fp32")) for cut in cuts)
        known = sizes.get(codec, CodecSizes(raw, raw, raw, raw))
        sizes[codec] = CodecSizes(
            column(known.mean_bytes, lambda one: round(float(np.mean(one.sizes)), 1)),
            *(
                column(before, lambda one, part=part: round(float(np.quantile(one.sizes, part)), 1))  # type: ignore[misc]
                for before, part in ((known.p10_bytes, 0.1), (known.p50_bytes, 0.5), (known.p90_bytes, 0.9))
            ),
        )
    return msgspec.structs.replace(profile, codecs=times, sizes=sizes, agreement=agreement)


def _answer(split: SplitModel, value: Tensor) -> Any:
    """One tensor, or those that a bundle holds."""
    return parts_of(value) if split.model.bundled else value


def _values(split: SplitModel, sample: Tensor) -> dict[str, Tensor]:
    """All values of the graph that cross at a single-tensor cut."""
    wanted = {cut[0] for cut in split.graph.chain_cuts if cut}
    state: dict[str, Any] = {INPUT: sample}
    kept: dict[str, Tensor] = {INPUT: sample}
    with torch.inference_mode():
        for segment in split.partition(ALL_ON_EDGE).node_segments():
            segment(state)
            kept |= {name: state[name] for name in wanted - kept.keys() if name in state}
    return kept


def _coded(split: SplitModel, codec: Codec, cut: Cut, values: dict[str, Tensor], tried: _Tried) -> tuple[Tensor, ...]:
    """What comes out of the codec at a cut."""
    try:
        with torch.inference_mode():
            start = time.perf_counter()
            header, buffers = tensors.pack(0, cut, [values[name] for name in cut], codec)
            middle = time.perf_counter()
            decoded = tensors.decode_header(header)
            given = tensors.unpack(decoded, buffers).tensors
            end = time.perf_counter()
    except ValueError as error:
        raise InputError(
            f"codec {codec} does not work at cut {cut_label(cut)} of {split.model.name}: {error}", where="codec"
        ) from error
    tried.encode_seconds.append(middle - start)
    tried.decode_seconds.append(end - middle)
    tried.sizes.append(decoded.payload_bytes)
    return given


def _median(seconds: list[float], scale: float) -> float:
    return round(scale * float(np.median(seconds)), 9)

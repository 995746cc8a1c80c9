"""Profiles of a lab with what its codecs need: taken from the file where it has that, else measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from controller.contract import PLAIN_CODECS, Codec, ModelProfile
from controller.contract.codec import is_lossless, is_own
from testbed.inference.profiles import Uses
from testbed.labfile.codecs import CodecSpec


def fitted(profile: ModelProfile, named: Sequence[Codec]) -> ModelProfile:
    """Without users' codecs that the lab does not name: its programs would look for them in vain."""
    kept = [codec for codec in profile.codecs if codec in named or not is_own(codec)]
    parts = {
        key: {codec: one for codec, one in getattr(profile, key).items() if codec in kept}
        for key in ("codecs", "sizes", "agreement")
    }
    return msgspec.structs.replace(profile, **parts)


def missing(profile: ModelProfile, spec: CodecSpec) -> Uses:
    """Codecs of which a lab needs more than the profile has.

    Where several are for boundaries a policy chooses among them, and needs to know how often answers agree.
    """
    agreement = len(spec.for_boundaries) > 1
    return Uses(
        [] if _known(profile, spec.input, True, agreement) else [spec.input],
        [codec for codec in spec.for_boundaries if not _known(profile, codec, False, agreement)],
    )


def _known(profile: ModelProfile, codec: Codec, raw: bool, agreement: bool) -> bool:
    if codec not in profile.codecs:
        return False
    if agreement and not is_lossless(codec, raw_input=raw) and codec not in profile.agreement:
        return False
    # times are there for where it was measured only
    seconds = profile.codecs[codec].encode_seconds
    return codec in PLAIN_CODECS or any(seconds[:1] if raw else seconds[1:])


def with_codecs(
    model: str,
    seed: int,
    folder: Path,
    profile: ModelProfile,
    uses: Uses,
    *,
    agreement: bool,
    samples: int = 8,
    weights: str = "random",
) -> ModelProfile:
    """The profile with these codecs measured on this host, with the lab's weights, on so many inputs.

    ``agreement``: that, too. Raises InputError.
    """
    from testbed.inference.codec_profiling import measure_codecs  # imports torch
    from testbed.inference.coders import load_own
    from testbed.inference.partition import load_split_model
    from testbed.inference.published_weights import weights_of
    from testbed.inference.samples import sample_inputs

    split = load_split_model(model, seed, (folder,), weights_of(model, weights, folder))
    split.check_profile(profile, profile.model)
    for codec in filter(is_own, (*uses.raw, *uses.boundary)):
        load_own(codec, seed, (folder,))
    return measure_codecs(split, profile, uses, sample_inputs(split, seed, samples), agreement=agreement)

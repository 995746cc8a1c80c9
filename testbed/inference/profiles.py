"""ModelProfile files: read, write, and where measured ones are kept. Needs no torch."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from controller.contract import Codec, CodecTimes, ModelProfile
from testbed.errors import InputError
from testbed.folders import cache_file

#: Of the profile file. A file of another version is refused: its times may mean something else.
PROFILE_VERSION = 1

#: "Speed 1.0" is this part of a core of the profiled host, so that a stage ends before its target in spite of noise.
REFERENCE_CORE_FRACTION = 0.5


class _Versioned(msgspec.Struct):
    version: int


class Uses(NamedTuple):
    """Codecs by what they are for. A user's may be for one and not know the other."""

    raw: Sequence[Codec] = ()  # of the raw input
    boundary: Sequence[Codec] = ()


def write_profile(profile: ModelProfile, path: Path) -> None:
    """Write a profile as JSON, one field per line. Parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(profile), indent=1)
    path.write_bytes(_one_line_lists(text) + b"\n")


def read_profile(path: Path) -> ModelProfile:
    """Read a profile. Raises InputError, naming the file, if it is missing, of another version, or no profile."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the profile cannot be read ({error.strerror})",
            where=str(path),
            fix="`testbed profile MODEL --out FILE` measures one.",
        ) from error
    try:
        version = msgspec.json.decode(text, type=_Versioned).version
        if version != PROFILE_VERSION:
            raise InputError(
                "the profile has another version",
                where=str(path),
                value=version,
                allowed=str(PROFILE_VERSION),
                fix="Measure the model again with `testbed profile MODEL --out FILE`.",
            )
        return msgspec.json.decode(text, type=ModelProfile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"this is not a model profile: {error}", where=str(path)) from error


def profile_cache_path(model: str) -> Path:
    """Where this host keeps its own measurement of a model: ``$XDG_CACHE_HOME/testbed/profiles/NAME.json``."""
    return cache_file("profiles", f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', model)}.json")


def host_cpu() -> str:
    """Name of this host's processor; a profile of the same one needs no scaling."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _one_line_lists(text: bytes) -> bytes:
    """Lists of plain values on one line each: a profile holds hundreds of them, and diffs stay readable."""
    return re.sub(rb"\[[^\[\]{}]*\]", lambda found: re.sub(rb"\s*\n\s*", b" ", found.group()), text)


def with_device(profile: ModelProfile, device: ModelProfile) -> ModelProfile:
    """Heads (and encoding) of ``device``, tails (and decoding) of ``profile``: a UE that is not the host's core.

    Times of cuts of several tensors come from ``device_node_seconds`` and ``node_seconds`` in the same way. Raises
    InputError for profiles of two different graphs.
    """
    if (device.model, _shape(device)) != (profile.model, _shape(profile)):
        raise InputError(
            "the device's profile is of another graph than the lab's",
            value=f"{device.model}, {len(device.nodes)} nodes",
            allowed=f"{profile.model}, {len(profile.nodes)} nodes, with the same names",
            fix="Make both with this version of the testbed (docs/profile.md).",
        )
    return msgspec.structs.replace(
        profile,
        head_seconds=device.head_seconds,
        device_node_seconds=device.device_node_seconds or device.node_seconds,
        codecs={
            codec: CodecTimes(_encode_seconds(profile, device, codec), times.decode_seconds)
            for codec, times in profile.codecs.items()
        },
    )


def _encode_seconds(profile: ModelProfile, device: ModelProfile, codec: Codec) -> tuple[float, ...]:
    """Of a codec that the device's profile does not have: as much slower as its whole model is (our choice)."""
    if codec in device.codecs:
        return device.codecs[codec].encode_seconds
    ratio = device.head_seconds[-1] / profile.head_seconds[-1]
    return tuple(round(ratio * seconds, 9) for seconds in profile.codecs[codec].encode_seconds)


def _shape(profile: ModelProfile) -> tuple[object, ...]:
    return tuple(node.name for node in profile.nodes), profile.chain_cuts

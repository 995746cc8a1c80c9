"""From the size that a camera has to the one that a model takes: the device's first work on every input."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from statistics import median

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from controller.contract import ModelProfile
from testbed.folders import cache_file
from testbed.inference.models import settle
from testbed.inference.profiles import REFERENCE_CORE_FRACTION, host_cpu

_REPETITIONS = 15


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """uint8 (1, C, H, W) at another size, by antialiased bilinear interpolation; aspect ratios are not kept."""
    if image.shape[2:] == (height, width):
        return image
    return functional.interpolate(image, size=(height, width), mode="bilinear", antialias=True)


def resize_seconds(channels: int, source: tuple[int, int], target: tuple[int, int]) -> float:
    """What :func:`resize` takes on the reference core: measured once per processor, and kept.

    Sizes are (height, width).
    """
    if source == target:
        return 0.0
    name = f"{host_cpu()}-{channels}x{source[0]}x{source[1]}-to-{target[0]}x{target[1]}"
    path = cache_file("resizing", f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}.json")
    try:
        return msgspec.json.decode(path.read_bytes(), type=float)
    except (OSError, msgspec.DecodeError):
        pass
    settle()
    image = torch.randint(0, 256, (1, channels, *source), dtype=torch.uint8)
    seconds = median(_timed(lambda: resize(image, *target)) for _ in range(_REPETITIONS)) / REFERENCE_CORE_FRACTION
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.encode(seconds))
    except OSError:
        return seconds  # it is measured again
    return seconds


def _timed(action: Callable[[], object]) -> float:
    begun = time.thread_time()
    action()
    return time.thread_time() - begun


def with_resizing(profile: ModelProfile, seconds: float) -> ModelProfile:
    """The profile of a device that resizes every input first, in so many seconds on the reference core.

    A device that is slower by a factor at the model is slower by it at this, too.
    """
    if seconds == 0.0:
        return profile
    own = profile.device_node_seconds or profile.node_seconds
    if profile.device_node_seconds:
        seconds *= sum(profile.device_node_seconds) / sum(profile.node_seconds)
    return msgspec.structs.replace(
        profile,
        head_seconds=tuple(head + seconds for head in profile.head_seconds),
        device_node_seconds=(own[0] + seconds, *own[1:]),
        measured_cuts=tuple(
            msgspec.structs.replace(
                cut,
                head_seconds=cut.head_seconds + seconds,
                estimated_head_seconds=cut.estimated_head_seconds + seconds,
            )
            for cut in profile.measured_cuts
        ),
    )

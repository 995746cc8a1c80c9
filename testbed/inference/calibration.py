"""How fast, and how evenly, a core of this host computes: a fixed kernel, and whole models, timed open loop.

The kernel is the same on every host: a dense, a depthwise and a pointwise convolution and a matrix-vector product, in
the proportions of the networks that labs run, on seeded values. Its time on two hosts relates a profile that was
measured on one of them to the other; its spread says how much of the margin between computing and target the host
itself uses up. An idle gap precedes each run, because that is how a stage begins in the field.

Needs torch to measure; reading what was measured needs none.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from testbed.errors import InputError
from testbed.folders import state_file, write_whole
from testbed.inference.profiles import REFERENCE_CORE_FRACTION

if TYPE_CHECKING:
    from torch import nn

CALIBRATION_VERSION = 1
#: Of the operations below. Times of another version are not compared.
KERNEL_VERSION = 1
IDLE_SECONDS = 0.02
KERNEL_REPETITIONS = 300
MODEL_REPETITIONS = 100

_SIDE, _CHANNELS, _WIDE, _NARROW, _IN, _OUT = 56, 64, 144, 24, 2048, 4096
#: Multiply-accumulates of one run of the kernel.
KERNEL_MACS = _SIDE**2 * (_CHANNELS**2 * 9 + _WIDE * 9 + _WIDE * _NARROW) + _IN * _OUT

Progress = Callable[[str, float], None]


class Spread(msgspec.Struct, frozen=True):
    """Quantiles of ``n`` runs, seconds."""

    n: int
    p50_seconds: float
    p90_seconds: float
    p99_seconds: float

    @property
    def p99_over_p50(self) -> float:
        return self.p99_seconds / self.p50_seconds


class Calibration(msgspec.Struct, frozen=True):
    """One host's measurement (``calibration-HOST.json``). Times are of the host's core, not of the reference core."""

    calibration_version: int
    kernel_version: int
    kernel_macs: int
    kernel: Spread
    models: dict[str, Spread]  # whole models, by name
    reference_core_fraction: float
    realtime: bool  # measured at SCHED_FIFO, as stages run
    idle_seconds: float
    cpu: str
    cores: float
    torch_version: str
    measured_utc: str


def make_kernel() -> Callable[[], None]:
    """The kernel, with its values made: each call runs it once on the calling thread."""
    import torch

    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(KERNEL_VERSION)

    def values(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=random) - 0.5

    image, wide, vector = values(1, _CHANNELS, _SIDE, _SIDE), values(1, _WIDE, _SIDE, _SIDE), values(1, _IN)
    dense, depthwise = values(_CHANNELS, _CHANNELS, 3, 3), values(_WIDE, 1, 3, 3)
    pointwise, matrix = values(_NARROW, _WIDE, 1, 1), values(_OUT, _IN)

    def run() -> None:
        with torch.inference_mode():
            torch.conv2d(image, dense, padding=1)
            torch.conv2d(torch.conv2d(wide, depthwise, padding=1, groups=_WIDE), pointwise)
            torch.nn.functional.linear(vector, matrix)

    run()  # the first run chooses algorithms
    return run


def time_open_loop(
    run: Callable[[], object], repetitions: int, notify: Callable[[int], None] = lambda _: None
) -> list[float]:
    """Seconds of each of so many runs, an idle gap before each; ``notify`` gets how many are done."""
    seconds = []
    for number in range(repetitions):
        time.sleep(IDLE_SECONDS)
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
        notify(number + 1)
    return seconds


def spread_of(seconds: Sequence[float]) -> Spread:
    p50, p90, p99 = (float(value) for value in np.quantile(seconds, [0.5, 0.9, 0.99]))
    return Spread(len(seconds), p50, p90, p99)


def measure(
    models: Sequence[str],
    *,
    cpu: str,
    cores: float,
    realtime: bool,
    progress: Progress,
    python_path: Sequence[Path] = (),
    kernel_repetitions: int = KERNEL_REPETITIONS,
    model_repetitions: int = MODEL_REPETITIONS,
) -> Calibration:
    """Time the kernel and whole models on the calling thread. Raises InputError for a model that cannot be loaded.

    ``realtime`` says whether the caller has made this thread SCHED_FIFO; what is timed here runs as stages would.
    """
    import torch

    from testbed.inference.partition import load_split_model

    steps: list[tuple[str, Callable[[], object], int]] = [("kernel", make_kernel(), kernel_repetitions)]
    for model in models:
        split = load_split_model(model, 0, python_path)
        steps.append((model, _whole(split.partition(()).head_module, split.model.probe), model_repetitions))
    total = sum(repetitions for _, _, repetitions in steps)
    spreads: dict[str, Spread] = {}
    done = 0
    for name, run, repetitions in steps:
        before = done
        spreads[name] = spread_of(
            time_open_loop(run, repetitions, lambda n, name=name, before=before: progress(name, (before + n) / total))  # type: ignore[misc]
        )
        done += repetitions
    kernel = spreads.pop("kernel")
    return Calibration(
        calibration_version=CALIBRATION_VERSION,
        kernel_version=KERNEL_VERSION,
        kernel_macs=KERNEL_MACS,
        kernel=kernel,
        models=spreads,
        reference_core_fraction=REFERENCE_CORE_FRACTION,
        realtime=realtime,
        idle_seconds=IDLE_SECONDS,
        cpu=cpu,
        cores=cores,
        torch_version=torch.__version__.split("+")[0],
        measured_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _whole(module: nn.Module, image: object) -> Callable[[], object]:
    import torch

    def run() -> object:
        with torch.inference_mode():
            return module(image)

    run()
    return run


# ------------------------------------------------------------------------------------------------------------ the file


def calibration_path() -> Path:
    """Where this host keeps its calibration: ``$XDG_STATE_HOME/testbed/calibration-HOST.json``.

    The host is in the name because hosts may share a home directory.
    """
    host = re.sub(r"[^A-Za-z0-9_.-]+", "-", platform.node()) or "host"
    return state_file(f"calibration-{host}.json")


def write_calibration(calibration: Calibration, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, msgspec.json.format(msgspec.json.encode(calibration), indent=1) + b"\n")


def read_calibration(path: Path) -> Calibration:
    """Raises InputError, naming the file, for one that is missing, of another version, or none."""
    fix = "`testbed doctor --calibrate` measures this host."
    try:
        version = msgspec.json.decode(path.read_bytes(), type=_Versioned).calibration_version
        if version != CALIBRATION_VERSION:
            raise InputError(
                "the calibration has another version",
                where=str(path),
                value=version,
                allowed=str(CALIBRATION_VERSION),
                fix=fix,
            )
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    except OSError as error:
        raise InputError(f"the calibration cannot be read ({error.strerror})", where=str(path), fix=fix) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"this is not a calibration: {error}", where=str(path), fix=fix) from error


def calibration_of(cpu: str) -> tuple[Calibration | None, str]:
    """This host's calibration; or None, and why it has none."""
    path = calibration_path()
    if not path.is_file():
        return None, "this host is not calibrated: run `testbed doctor --calibrate`"
    try:
        calibration = read_calibration(path)
    except InputError as error:
        return None, str(error)
    if calibration.cpu != cpu:
        return None, f"{path} was measured on {calibration.cpu}, and this is {cpu}: calibrate again"
    return calibration, ""


class _Versioned(msgspec.Struct):
    calibration_version: int
